"""Copies of stored images in other orientations and cuts: one group, no conflict of labels, found later too."""

import io

from PIL import Image
from sqlalchemy import select, update

from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks, samples
from ml.context import Context
from ml.datasets import copy_backfill, dedupe, versions
from ml.datasets.accept import accept
from ml.ingest import ingest
from ml.intake import thumbnails
from ml.intake.claim import claim
from ml.intake.inspect import inspect_chunk
from ml.intake.validate import validate
from tests.pictures import scenery, upload


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def groups(ctx: Context) -> dict[str, set[str]]:
    with transaction(ctx.engine) as connection:
        rows = connection.execute(select(samples.c.label, samples.c.group_id)).all()
    found: dict[str, set[str]] = {}
    for label, group in rows:
        found.setdefault(label.rpartition("-")[2], set()).add(group)
    return found


def test_copies_join_their_originals_and_leaks_of_before_are_found_and_left_out(context: Context) -> None:
    originals = [Image.fromarray(scenery(seed)) for seed in range(8)]
    ingest(context, upload(context, "one", {f"a-{i}/x.png": png(image) for i, image in enumerate(originals)}))
    turns = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180)
    turned = {f"b-{i}/{t.name}.png": png(image.transpose(t)) for i, image in enumerate(originals) for t in turns}
    cut = {f"b-{i}/cut.png": png(image.crop((0, 9, 87, 96))) for i, image in enumerate(originals)}
    ingest(context, upload(context, "two", turned | cut))
    found = groups(context)
    assert len(found) == len(originals)
    assert all(len(of_picture) == 1 for of_picture in found.values()), found
    with transaction(context.engine) as connection:
        assert not connection.execute(select(label_tasks.c.id)).all(), "another label on a turned copy is no conflict"

    # As an earlier release left them: no thumbnails, and one copy in another split.
    with transaction(context.engine) as connection:
        connection.execute(update(samples).values(thumbnail=None, copy_signature=None, split="train"))
        chosen = connection.execute(select(samples.c.sha256).where(samples.c.label == "b-3").limit(1)).scalar_one()
        connection.execute(
            update(samples).where(samples.c.sha256 == chosen).values(split="holdout", group_id="another")
        )
    first = copy_backfill.fill(context, 1)
    assert first in (len(originals), len(turned | cut)), "one segment"
    assert copy_backfill.fill(context) == len(originals) + len(turned | cut) - first
    assert copy_backfill.fill(context) == 0
    leaks = list(dedupe.leaks(context))
    assert {(leak.kept, leak.kept_split, leak.removed_split) for leak in leaks} == {(chosen, "holdout", "train")}
    assert len(leaks) == 4
    version = dedupe.remove(context, leaks)
    assert version is not None
    assert set(versions.manifest(context, version).removals) == {leak.removed for leak in leaks}
    assert list(dedupe.leaks(context)) == []

    # Inspected by an earlier release, which made no thumbnails: not blank pictures, but some to look at later.
    again = {key: data for key, data in (turned | cut).items() if "b-3/" in key}
    drop_id = claim(context, upload(context, "three", again | {"c-99/x.png": png(Image.fromarray(scenery(99)))}))
    assert drop_id
    inspect_chunk(context, drop_id, 0)
    context.store.delete([thumbnails.key(drop_id, 0)])
    assert validate(context, drop_id).accepted
    newest = accept(context, drop_id)
    assert newest is not None
    assert set(versions.manifest(context, newest).removals) == {leak.removed for leak in leaks}, "never back"
    assert copy_backfill.fill(context) == 1
    with transaction(context.engine) as connection:
        query = select(samples.c.copy_signature).where(samples.c.label == "c-99")
        assert connection.execute(query).scalar_one() is not None
