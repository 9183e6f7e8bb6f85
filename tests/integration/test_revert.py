"""A drop is taken out of the data and put back, on record; whatever came from others stays, and training follows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from ml.catalog import cycles, existing_samples, revert_requests
from ml.catalog import drops as drops_catalog
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles as cycles_table
from ml.catalog.tables import drops as drops_table
from ml.catalog.tables import labels as labels_table
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets import classes, contents, loader, revert, versions
from ml.datasets.splits import SPLITS
from ml.erasure import erase, selection
from ml.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from ml.ingest import ingest
from ml.intake import history
from ml.training import due
from ml.training.data import corrections
from tests.doubles.object_store import ForwardingObjectStore
from tests.drops import ingest_approved
from tests.file_registry import install
from tests.mortal import killed
from tests.pictures import digits, upload


def files(start: int, stop: int, label: str | None = None) -> dict[str, bytes]:
    return {f"{label or name}/{i}.png": data for i, (name, data) in enumerate(digits()) if start <= i < stop}


def taken(ctx: Context, name: str, content: dict[str, bytes]) -> tuple[str, str]:
    """Ingest a drop; its id and dataset version."""
    done = ingest_approved(ctx, name, content)
    assert done.version is not None, done.reason
    return done.drop_id, done.version


def labelled(ctx: Context, version: str | None) -> dict[str, str]:
    """The label of every sample of the version."""
    assert version is not None
    parts = [loader.load(ctx, version, split, 8, 1) for split in SPLITS]
    return {s: part.classes[label] for part in parts for s, label in zip(part.sha256, part.labels, strict=True)}


def latest(ctx: Context) -> versions.DatasetVersion:
    version = versions.latest(ctx)
    assert version is not None
    return version


def check_counts(ctx: Context) -> None:
    """The version's row, its manifest and the table agree."""
    version = latest(ctx)
    listed = labelled(ctx, version.id)
    assert version.train + version.validation + version.holdout == len(listed)
    with transaction(ctx.engine) as connection:
        rows = connection.execute(select(samples.c.sha256, samples.c.label).where(~samples.c.removed)).all()
    assert dict(rows) == listed
    assert classes.counts(ctx) == {c: sum(n.values()) for c, n in contents.counts(ctx, version.id).items() if n}


def test_a_drop_goes_with_all_that_it_said_and_comes_back(context: Context) -> None:
    _, one = taken(context, "one", files(0, 60))
    bad, two = taken(context, "bad", files(40, 100, "zebra"))
    after = labelled(context, two)
    assert sorted(after.values()).count("zebra") == 40, "ties leave the labels of known images"
    done = revert.revert(context, "bad", actor="ann", reason="they are no zebras")
    assert (done.drops, done.samples, done.relabelled) == ((bad,), 40, 0)
    assert labelled(context, done.version) == labelled(context, one)
    assert "zebra" not in latest(context).classes
    check_counts(context)
    row = drops_catalog.get(context.engine, bad)
    assert (row.reverted_by, row.revert_reason, row.status) == ("ann", "they are no zebras", "accepted")
    with transaction(context.engine) as connection:
        assert connection.execute(select(func.count()).select_from(samples)).scalar_one() == 100, "nothing is deleted"
        assert connection.execute(select(labels_table.c.id).where(labels_table.c.drop_id == bad)).first()
    assert revert.revert(context, "drops/bad/", actor="bob", reason="again").version is None
    assert drops_catalog.get(context.engine, bad).reverted_by == "ann", "asked twice, done once"
    assert history.read(context.engine).shares.get("zebra") is None
    back = revert.restore(context, bad, actor="ann", reason="they are")
    assert back.version == two, "the same data are the same version"
    assert labelled(context, back.version) == after
    check_counts(context)


def test_labels_that_a_drop_changed_are_as_without_it(context: Context) -> None:
    _, one = taken(context, "one", files(0, 30))
    known = {name.replace("/", "-"): data for name, data in files(0, 30).items()}
    rows = [f"{name},9,{who}" for name in known for who in ("x", "y")]
    _, poisoned = taken(context, "bad", known | {"labels.csv": "\n".join(["file,label,annotator", *rows]).encode()})
    assert set(labelled(context, poisoned).values()) == {"9"}
    done = revert.revert(context, "bad", actor="ann", reason="poison")
    assert labelled(context, done.version) == labelled(context, one)
    assert (done.samples, done.relabelled) == (0, sum(label != "9" for label in labelled(context, one).values()))
    assert latest(context).classes == versions.get(context, one).classes
    check_counts(context)


def test_an_image_of_a_reverted_drop_returns_with_a_good_one_under_its_label(context: Context) -> None:
    taken(context, "one", files(0, 20))
    _, two = taken(context, "bad", files(20, 60, "9"))
    splits = {s: name for name in SPLITS for s in loader.load(context, two, name, 8, 1).sha256}
    revert.revert(context, "bad", actor="ann", reason="poison")
    good, three = taken(context, "good", files(20, 50))
    content = labelled(context, three)
    assert len(content) == 50
    assert sorted(content.values()) == sorted(label for label, _ in digits()[:50])
    assert {
        s: name for name in SPLITS for s in loader.load(context, three, name, 8, 1).sha256
    }.items() <= splits.items()
    check_counts(context)
    before = labelled(context, latest(context).id)
    again = revert.revert(context, "good", actor="ann", reason="as well")
    assert len(labelled(context, again.version)) == 20
    revert.restore(context, good, actor="ann", reason="no")
    assert labelled(context, latest(context).id) == before
    check_counts(context)


def test_what_another_drop_brought_too_stays_whichever_came_first(context: Context) -> None:
    taken(context, "one", files(0, 20))
    taken(context, "bad", files(20, 40, "9"))
    assert ingest(context, upload(context, "good", files(20, 30))).version is None, "ties leave the labels"
    done = revert.revert(context, "bad", actor="ann", reason="poison")
    # Saying the same again without a name leaves no trace: nines that were only repeated went with the drop.
    truth = [label for label, _ in digits()[:20]] + [label for label, _ in digits()[20:30] if label != "9"]
    assert sorted(labelled(context, done.version).values()) == sorted(truth)
    check_counts(context)


def test_training_follows_by_itself_and_begins_anew(context: Context) -> None:
    _, one = taken(context, "one", files(0, 20))
    _, two = taken(context, "bad", files(20, 40))
    with transaction(context.engine) as connection:
        connection.execute(update(cycles_table).values(finished_at=func.now(), verdict="promote"))
    assert due.choose(context, "asset_triggered__1") is None
    done = revert.revert(context, "bad", actor="ann", reason="poison")
    assert due.overdue(context, minutes=0)
    chosen = due.choose(context, "asset_triggered__1")
    assert chosen == due.DueCycle(str(done.cycle), str(done.version))
    assert corrections.since(context, two) == "drops/bad/, which the champion was trained on, was reverted"
    assert corrections.since(context, one) is None, "that one never saw it"
    assert corrections.since(context, "0" * 64) is None


def test_reverted_samples_can_be_erased(context: Context, tmp_path: Path) -> None:
    install(context, tmp_path / "registry.json")
    taken(context, "one", files(0, 20))
    taken(context, "bad", files(20, 40))
    revert.revert(context, "bad", actor="ann", reason="poison")
    gone = list(versions.manifest(context, latest(context).id).removals)[:15]
    erase.erase(context, selection.of_hashes(gone), actor="ann", reason="asked")
    check_counts(context)
    assert len(versions.manifest(context, latest(context).id).removals) == 5
    assert revert.restore(context, "bad", actor="ann", reason="?").samples == 5, "what is gone does not come back"
    check_counts(context)


class Dying(ForwardingObjectStore):
    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        super().put(key, data, content_type)
        if key.startswith("versions/"):
            raise KeyboardInterrupt


def test_a_revert_that_is_killed_changed_nothing_and_can_be_repeated(context: Context) -> None:
    taken(context, "one", files(0, 20))
    _, two = taken(context, "bad", files(20, 40))
    with pytest.raises(KeyboardInterrupt):
        revert.revert(replace(context, store=Dying(context.store)), "bad", actor="ann", reason="poison")
    assert latest(context).id == two
    check_counts(context)
    assert revert.revert(context, "bad", actor="ann", reason="poison").samples == 20
    check_counts(context)


def test_a_request_is_carried_out_once_wherever_it_is_killed(context: Context) -> None:
    _, one = taken(context, "one", files(0, 20))
    bad, _ = taken(context, "bad", files(20, 40))

    def work(ctx: Context) -> None:
        revert.carry_out_requests(ctx)

    for _ in range(2):
        revert_requests.request(context.engine, bad, "revert", actor="ann", reason="poison")
    effects = 0
    while killed(context, work, effects):
        effects += 1
        assert effects < 20
    assert effects >= 1
    assert labelled(context, latest(context).id) == labelled(context, one)
    assert revert_requests.find_open(context.engine) == []
    number = latest(context).number
    work(context)
    assert latest(context).number == number, "there is nothing left to do"
    check_counts(context)
    with transaction(context.engine) as connection:
        corrections_made = select(func.count()).where(cycles_table.c.origin == cycles.CORRECTION)
        assert connection.execute(corrections_made).scalar_one() == 1


def test_of_requests_the_last_word_counts(context: Context) -> None:
    taken(context, "one", files(0, 20))
    bad, two = taken(context, "bad", files(20, 40))

    def request(change: revert_requests.Change, drop_id: str = bad) -> str | None:
        return revert_requests.request(context.engine, drop_id, change, actor="ann", reason="why").revert_request

    assert [request("revert"), request("restore")] == ["revert", None]
    assert revert.carry_out_requests(context) == []
    request("revert")
    (stale,) = revert_requests.find_open(context.engine)
    request("restore")
    with pytest.raises(ConflictError, match="was taken back"), transaction(context.engine) as connection:
        revert_requests.lock_open(connection, stale.drop_id, stale.change)
    request("revert")
    revert.revert(context, "bad", actor="bob", reason="by hand meanwhile")
    assert revert.carry_out_requests(context) == []
    assert drops_catalog.get(context.engine, bad).reverted_by == "bob"
    request("restore")
    assert revert.revert(context, "bad", actor="bob", reason="no").drops == ()
    assert revert_requests.find_open(context.engine) == [], "whoever says so later is right"
    request("restore")
    ((_, result),) = revert.carry_out_requests(context)
    assert result.version == two
    with pytest.raises(NotFoundError):
        request("revert", "d-none")
    with pytest.raises(InvalidInputError, match="must say why"):
        revert_requests.request(context.engine, bad, "revert", actor="ann", reason=" ")
    with transaction(context.engine) as connection:
        connection.execute(update(drops_table).where(drops_table.c.id == bad).values(status="rejected"))
    with pytest.raises(ConflictError, match="is rejected, not accepted"):
        request("revert")


def test_a_request_that_fails_does_not_stop_the_others(context: Context) -> None:
    names = [
        taken(context, name, files(start, start + 10))[0] for name, start in (("one", 0), ("two", 10), ("three", 20))
    ]
    for drop_id in names[1:]:
        revert_requests.request(context.engine, drop_id, "revert", actor="ann", reason="why")
    broken = replace(context, store=RefusesFirst(context.store))
    with pytest.raises(UnavailableError):
        revert.carry_out_requests(broken)
    assert [request.drop_id for request in revert_requests.find_open(context.engine)] == [names[1]]
    assert len(revert.carry_out_requests(context)) == 1


class RefusesFirst(ForwardingObjectStore):
    """Refuses the first object that is put."""

    refused = False

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        if not self.refused:
            self.refused = True
            raise UnavailableError("the bucket is away")
        super().put(key, data, content_type)


@pytest.mark.parametrize("name", ["", "nobody", "../one", "%", "one' or '1'='1", "drops/on"])
def test_only_an_accepted_drop_of_that_very_name_is_meant(make_context: Callable[..., Context], name: str) -> None:
    context = make_context()
    with pytest.raises(NotFoundError, match="no accepted drop is named"):
        revert.revert(context, name, actor="ann", reason="?")


def test_a_page_of_hashes_is_looked_up_among_what_was_taken_out(context: Context) -> None:
    taken(context, "one", files(0, 20))
    _, two = taken(context, "bad", files(20, 40))
    inside = set(labelled(context, two))
    revert.revert(context, "bad", actor="ann", reason="poison")
    outside = inside - set(labelled(context, latest(context).id))
    with transaction(context.engine) as connection:
        assert set(existing_samples.removed(connection, sorted(inside))) == outside
        assert connection.execute(select(func.count()).select_from(drops_table)).scalar_one() == 2
