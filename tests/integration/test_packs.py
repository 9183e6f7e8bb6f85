"""Sound images wait in packs from inspection to acceptance."""

import io
import tarfile

import pytest
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets.accept import accept
from ml.errors import NotFoundError
from ml.intake import staging_tars
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
    assert context.store.exists(staging_tars.key(drop_id, 0))
    context.labels.delete(f"drops/one/{key}" for key in files)
    accept(context, drop_id)
    assert _accepted(context) == COUNT
    assert not context.store.exists(staging_tars.key(drop_id, 0))


def test_a_lost_pack_is_said_and_made_again_by_inspecting(context: Context) -> None:
    drop_id = _inspected(context, digit_files(0, COUNT))
    staging_tars.discard(context, drop_id)
    with pytest.raises(NotFoundError, match="packs/000000"):
        accept(context, drop_id)
    assert _accepted(context) == 0
    inspect_chunk(context, drop_id, 0)
    accept(context, drop_id)
    assert _accepted(context) == COUNT


def test_broken_images_are_not_packed_and_the_pack_is_a_tar(context: Context) -> None:
    large = encoded(picture(200, 200), "PNG")
    files = digit_files(0, COUNT) | {"1/large.png": large, "1/broken.png": b"no image"}
    drop_id = _inspected(context, files)
    where = {r["key"]: r["packed"] for r in read_rows(context, drop_id).to_pylist()}
    assert {key for key, at in where.items() if at is None} == {"1/broken.png"}
    data = context.store.get(staging_tars.key(drop_id, 0))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        held = {tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert held == {data for key, data in files.items() if key != "1/broken.png"}
    accept(context, drop_id)
    assert _accepted(context) == COUNT + 1
