"""Drops made to hurt: strange tables, names that do not fit anywhere, content that changes underneath."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from ml.catalog import drops as drops_of_catalog
from ml.catalog.engine import transaction
from ml.catalog.tables import drops, quarantine, samples
from ml.context import Context
from ml.datasets.accept import accept
from ml.ingest import ingest
from ml.intake import entries, listing
from ml.intake.claim import claim
from ml.intake.find import find_ready
from ml.intake.inspect import chunk_count, inspect_chunk
from ml.intake.pending import claim_all
from ml.intake.reading import EMPTY_DROP
from ml.intake.validate import validate
from ml.storage.object_store import ObjectInfo
from tests.doubles.object_store import ForwardingObjectStore
from tests.pictures import digit_files, digits, upload


def rows(ctx: Context, table: object) -> list[dict[str, object]]:
    with transaction(ctx.engine) as connection:
        return [dict(r) for r in connection.execute(select(table)).mappings()]  # type: ignore[call-overload]


def finish(ctx: Context, drop_id: str) -> None:
    """What is left to do for a claimed drop."""
    for chunk in range(chunk_count(ctx, drop_id)):
        inspect_chunk(ctx, drop_id, chunk)
    if validate(ctx, drop_id).accepted:
        accept(ctx, drop_id)


@pytest.mark.parametrize(
    "row",
    [
        "x/1.png,\0null",
        "x/\0.png,a",
        f"{'long' * 5000}.png,a",
        "x/1.png,<script>alert(1)</script>",
        "x/1.png,a,,,0001-01-01T00:00:00+14:00",
        "x/1.png,a,,nan,",
        "x/1.png,a,,high,",
        ",a",
        "x/1.png,\x1b[31m",
        f"x/1.png,{'é' * 5000}",
    ],
)
def test_a_strange_row_is_put_aside_and_stops_nothing(context: Context, row: str) -> None:
    files = {f"x/{i}.png": digits()[i][1] for i in range(8)}
    table = "file,label,annotator,confidence,labelled_at\n" + "".join(f"x/{i}.png,ok\n" for i in range(8) if i != 1)
    result = ingest(context, upload(context, "csv", files | {"labels.csv": (table + row + "\n").encode()}))
    assert result.version
    (drop,) = rows(context, drops)
    assert drop["accepted"] == 7
    assert drop["quarantined"] == len(rows(context, quarantine))
    assert not find_ready(context)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b'file,label\nx/1.png,"' + b"a" * 200_000, "labels.csv"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"", "lacks the column"),
    ],
)
def test_a_table_that_is_none_rejects_the_drop(context: Context, table: bytes, words: str) -> None:
    ingest(context, upload(context, "csv", {"labels.csv": table, "x/1.png": digits()[0][1]}))
    (drop,) = rows(context, drops)
    assert drop["status"] == "rejected"
    assert words in str(drop["reason"])
    assert not find_ready(context)


def test_a_table_that_changes_half_way_mixes_nothing(context: Context) -> None:
    files = {f"x/{i}.png": digits()[i][1] for i in range(8)}
    table = b"file,label\n" + b"".join(b"x/%d.png,ok\n" % i for i in range(8))
    prefix = upload(context, "csv", files | {"labels.csv": table})
    drop_id = claim(context, prefix)
    assert drop_id
    context.labels.put(prefix + "labels.csv", b"file,label\nx/1.png,other\n")
    finish(context, drop_id)
    assert {r["label"] for r in rows(context, samples)} == {"ok"}
    assert len(rows(context, samples)) == 8
    (again,) = find_ready(context)  # the changed table makes it another drop, which nobody has seen yet
    assert again.prefix == prefix


def test_files_added_and_removed_meanwhile_stay_ready(context: Context) -> None:
    prefix = upload(context, "one", digit_files(0, 20))
    drop_id = claim(context, prefix)
    assert drop_id
    context.labels.delete([next(iter(context.labels.list(prefix))).key])
    context.labels.put(prefix + "1/new.png", digits()[30][1])
    finish(context, drop_id)
    for drop in find_ready(context):
        ingest(context, drop.prefix)
    assert len(rows(context, samples)) == 20
    assert not find_ready(context)


def test_a_hopeless_drop_that_vanished_before_it_was_rejected_blocks_nobody(context: Context) -> None:
    """Its claim was killed between the row and the rejection, then the drop was removed."""
    prefix = upload(context, "empty", {})
    frozen = listing.list_drop(context, prefix)
    listing.save(context, frozen)
    entries.save(context, frozen, EMPTY_DROP, "the drop is empty")
    drops_of_catalog.begin(context.engine, frozen.drop_id, prefix, frozen.digest, datetime.now(UTC))
    context.labels.delete([prefix + "_READY"])
    upload(context, "good", digit_files(0, 10))
    waiting = claim_all(context)
    assert {w["chunks"] for w in waiting} == {0, 1}
    for one in waiting:
        finish(context, one["drop_id"])
    assert {(r["prefix"], r["status"]) for r in rows(context, drops)} == {
        ("drops/empty/", "rejected"),
        ("drops/good/", "accepted"),
    }


def test_one_drop_that_cannot_be_claimed_now_keeps_nobody_waiting(context: Context) -> None:
    upload(context, "good", digit_files(0, 10))
    upload(context, "table", {"labels.csv": b"file,label\na.png,x\n", "a.png": digits()[0][1]})

    class Changing(ForwardingObjectStore):
        """Gives every table another ETag each time."""

        def info(self, key: str) -> ObjectInfo:
            info = super().info(key)
            return info._replace(etag="other") if key.endswith(".csv") else info

    restless = replace(context, labels=Changing(context.labels))
    (one,) = claim_all(restless)
    finish(context, one["drop_id"])
    (table,) = claim_all(context)
    assert table["chunks"] == 1


def test_a_corrected_drop_bears_one_marker(context: Context) -> None:
    prefix = upload(context, "one", {"a.png": digits()[0][1]})
    ingest(context, prefix)
    assert context.labels.exists(prefix + "_REJECTED")
    upload(context, "one", digit_files(0, 5))
    ingest(context, prefix)
    assert context.labels.exists(prefix + "_INGESTED")
    assert not context.labels.exists(prefix + "_REJECTED")


def test_a_drop_of_too_many_images_is_refused_as_a_whole(make_context: Callable[..., Context]) -> None:
    context = make_context(max_drop_images=12)
    table = "file,label\n" + "".join(f"{n}.png,a\n" for n in range(13))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for key, data in digit_files(0, 13).items():
            archive.writestr(key, data)
    for name, files in {
        "files": digit_files(0, 30),
        "rows": {"labels.csv": table.encode(), "0.png": digits()[0][1]},
        "members": {"some.zip": packed.getvalue()},
    }.items():
        result = ingest(context, upload(context, name, files))
        assert result.version is None
        assert "upload it in parts" in str(result.reason), name
    assert rows(context, samples) == []
    assert {row["status"] for row in rows(context, drops)} == {"rejected"}
    assert find_ready(context) == []
    assert ingest(context, upload(context, "enough", digit_files(0, 12))).version


def test_macos_and_linux_spell_a_class_alike(context: Context) -> None:
    upload(context, "one", {"caf\u00e9/1.png": digits()[0][1], "cafe\u0301/2.png": digits()[1][1]})
    ingest(context, "drops/one")
    assert {r["label"] for r in rows(context, samples)} == {"caf\u00e9"}


def test_the_reason_of_a_rejection_reaches_the_caller(context: Context) -> None:
    result = ingest(context, upload(context, "one", {}))
    assert "empty" in str(result.reason)
