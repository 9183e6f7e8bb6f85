"""Small images wait in packs from inspection to acceptance; packs are copies that may be missing."""

from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets.accept import accept
from ml.intake import packs
from ml.intake.claim import claim
from ml.intake.inspect import inspect_chunk, read_rows
from ml.intake.validate import validate
from tests.hostile.make import encoded, picture
from tests.pictures import digit_files, upload

COUNT = 30


def _inspected(context: Context, files: dict[str, bytes]) -> str:
    drop_id = claim(context, upload(context, "one", files))
    assert drop_id
    inspect_chunk(context, drop_id, 0)
    assert validate(context, drop_id).accepted
    return drop_id


def _accepted(context: Context) -> int:
    with transaction(context.engine) as connection:
        return len(connection.execute(select(samples.c.sha256)).all())


def test_what_was_inspected_is_accepted_though_it_is_gone_since(context: Context) -> None:
    files = digit_files(0, COUNT)
    drop_id = _inspected(context, files)
    assert context.store.exists(packs.key(drop_id, 0))
    context.labels.delete(f"drops/one/{key}" for key in files)
    accept(context, drop_id)
    assert _accepted(context) == COUNT
    assert not context.store.exists(packs.key(drop_id, 0))


def test_without_its_pack_a_drop_is_read_again(context: Context) -> None:
    drop_id = _inspected(context, digit_files(0, COUNT))
    packs.discard(context, drop_id)
    accept(context, drop_id)
    assert _accepted(context) == COUNT


def test_large_and_broken_images_are_not_packed(context: Context) -> None:
    large = encoded(picture(200, 200), "PNG")
    assert len(large) > packs.LARGEST
    files = digit_files(0, COUNT) | {"1/large.png": large, "1/broken.png": b"no image"}
    drop_id = _inspected(context, files)
    where = {r["key"]: r["packed"] for r in read_rows(context, drop_id).to_pylist()}
    assert {key for key, at in where.items() if at is None} == {"1/large.png", "1/broken.png"}
    data = context.store.get(packs.key(drop_id, 0))
    assert all(data[where[k] : where[k] + len(files[k])] == files[k] for k in digit_files(0, COUNT))
    accept(context, drop_id)
    assert _accepted(context) == COUNT + 1
