"""Wrong labels among right ones are asked about, once."""

from pathlib import Path

from sqlalchemy import select, update

from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks, labels, samples
from ml.context import Context
from ml.datasets import loader, versions
from ml.ingest import ingest
from ml.training import label_errors
from tests.pictures import digits, upload


def test_swapped_labels_are_found_and_asked_about_once(context: Context) -> None:
    files = {f"{label}/{i}.png": data for i, (label, data) in enumerate(digits()[:700])}
    wrong = [f"{(int(label) + 3) % 10}/{i}.png" for i, (label, _) in enumerate(digits()[:700]) if i % 35 == 0]
    for key in wrong:
        number = int(Path(key).stem)
        del files[f"{digits()[number][0]}/{number}.png"]
        files[key] = digits()[number][1]
    ingest(context, upload(context, "one", files))
    version = versions.latest(context)
    assert version is not None

    with transaction(context.engine) as connection:
        asked = len(connection.execute(select(label_tasks.c.id)).all())  # by the check of labels at intake
    opened = label_errors.review(context, version.id)

    with transaction(context.engine) as connection:
        tasks = connection.execute(select(label_tasks).order_by(label_tasks.c.score.desc())).mappings().all()
    train = loader.load(context, version.id, "train", 24, 1)
    truly = {digest for digest, label in truth().items() if digest in train.sha256 and label != given(context)[digest]}
    named = {t["sha256"] for t in tasks}
    assert opened == len(tasks) - asked > 0
    assert len(named & truly) >= 0.7 * len(truly) > 0
    assert len(named & truly) >= 0.5 * len(named)
    suggested = {t["sha256"]: t["suggested"] for t in tasks}
    assert sum(suggested[d] == truth()[d] for d in named & truly) >= 0.7 * len(named & truly)
    with transaction(context.engine) as connection:
        connection.execute(update(label_tasks).values(status="dismissed"))
        assert len(connection.execute(select(labels.c.id)).all()) == 700, "nothing is relabelled"
    assert label_errors.review(context, version.id) == 0


def test_a_handful_of_samples_is_not_reviewed(context: Context) -> None:
    ingest(context, upload(context, "one", {f"{label}/{i}.png": d for i, (label, d) in enumerate(digits()[:20])}))
    version = versions.latest(context)
    assert version is not None
    assert label_errors.review(context, version.id) == 0


def truth() -> dict[str, str]:
    import hashlib

    return {hashlib.sha256(data).hexdigest(): label for label, data in digits()}


def given(ctx: Context) -> dict[str, str]:
    with transaction(ctx.engine) as connection:
        return dict(connection.execute(select(samples.c.sha256, samples.c.label)).all())
