"""Tars and zips inside a drop: read by range, as if unpacked where they lie; broken ones with their reasons."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, quarantine, samples
from ml.context import Context
from ml.ingest import ingest
from ml.intake import entries, upload
from ml.intake.claim import claim
from ml.intake.inspect import inspect_chunk
from ml.intake.validate import validate
from tests.pictures import digit_files, digits
from tests.pictures import upload as put

COUNT = 40


def tar(files: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def labels(ctx: Context) -> dict[str, str]:
    with transaction(ctx.engine) as connection:
        return dict(connection.execute(select(samples.c.sha256, samples.c.label)).all())


def held(ctx: Context) -> dict[str, tuple[str, str | None]]:
    with transaction(ctx.engine) as connection:
        rows = connection.execute(select(quarantine.c.key, quarantine.c.reasons, quarantine.c.object_key)).all()
        return {key: (" ".join(reasons), where) for key, reasons, where in rows}


def refusal(ctx: Context) -> str:
    with transaction(ctx.engine) as connection:
        return str(connection.execute(select(drops.c.reason)).scalar_one())


def expected() -> dict[str, str]:
    import hashlib

    return {hashlib.sha256(data).hexdigest(): label for label, data in digits()[:COUNT]}


def test_every_kind_of_archive_gives_what_folders_give(context: Context) -> None:
    files = list(digit_files(0, COUNT).items())
    drop = {
        "camera.tar": tar(dict(files[:10])),
        "pax.tar": tar({f"photos/{k}": v for k, v in files[10:20]}, tarfile.PAX_FORMAT),
        "phone.zip": zipped(dict(files[20:28])),
        "plain.ZIP": zipped(dict(files[28:34]), zipfile.ZIP_STORED),
        **dict(files[34:]),
    }
    result = ingest(context, put(context, "mixed", drop))
    assert result.version, result.reason
    assert labels(context) == expected()
    assert not held(context)


def test_an_archive_in_a_class_folder_holds_that_class(context: Context) -> None:
    by_label: dict[str, dict[str, bytes]] = {}
    for key, data in digit_files(0, COUNT).items():
        label, _, name = key.partition("/")
        by_label.setdefault(label, {})[name] = data
    ingest(context, put(context, "one", {f"{label}/all.zip": zipped(files) for label, files in by_label.items()}))
    assert labels(context) == expected()


def test_a_table_in_the_archive_names_its_members(context: Context) -> None:
    rows = [(f"{i}.png", label, data) for i, (label, data) in enumerate(digits()[:COUNT])]
    table = "file,label\n" + "".join(f"{name},{label}\n" for name, label, _ in rows)
    files = {"export/labels.csv": table.encode(), **{f"export/{name}": data for name, _, data in rows}}
    result = ingest(context, put(context, "one", {"export.zip": zipped(files)}))
    assert result.version, result.reason
    assert labels(context) == expected()


def encrypted(data: bytes) -> bytes:
    """The first member marked as encrypted, in the table of contents."""
    at = data.index(b"PK\1\2")
    return data[: at + 8] + struct.pack("<H", 1) + data[at + 10 :]


def lying(data: bytes, size: int) -> bytes:
    """The first member promised to have another size."""
    at = data.index(b"PK\1\2")
    return data[: at + 24] + struct.pack("<I", size) + data[at + 28 :]


def test_hostile_members_are_put_aside_with_their_reasons(context: Context) -> None:
    good = tar(digit_files(0, COUNT))
    broken = digits()[50][1]
    bomb = zipped({"1/bomb.png": bytes(5_000_000)})
    drop = {
        "good.tar": good,
        "dots.tar": tar({"../1/out.png": digits()[51][1], "/1/absolute.png": digits()[52][1], "1/in.png": broken[:60]}),
        "locked.zip": encrypted(zipped({"1/locked.png": digits()[53][1]})),
        "long.zip": lying(bomb, 100),
        "short.zip": lying(zipped({"1/short.png": digits()[54][1]}), 4_000_000_000),
        "promised.zip": lying(zipped({"1/promised.png": digits()[55][1]}), 1_000_000),
        "huge.zip": zipped({"2/huge.png": bytes(context.settings.max_image_bytes + 1)}),
    }
    result = ingest(context, put(context, "one", drop))
    assert result.version, result.reason
    assert labels(context) == expected()
    quarantined = held(context)
    wanted = {
        "../1/out.png": "leads out of the archive",
        "/1/absolute.png": "leads out of the archive",
        "1/in.png": "broken or cut off",
        "1/locked.png": "encrypted",
        "1/bomb.png": "declares 100 bytes for it and holds more",
        "1/short.png": "at most",
        "1/promised.png": "declares 1000000 bytes",
        "2/huge.png": "at most",
    }
    assert quarantined.keys() == wanted.keys()
    assert [key for key, words in wanted.items() if words not in quarantined[key][0]] == []
    where = quarantined["1/in.png"][1]
    assert where
    assert context.store.get(where) == broken[:60]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"all.tar.gz": b"\x1f\x8b"}, "compressed as a whole"),
        ({"all.zip": zipped({"1/a.png": digits()[0][1]})[:-30]}, "cannot be read as an archive"),
        ({"all.tar": tar({"1/a.png": bytes(4000)})[:2000]}, "cut off"),
        ({"all.tar": b"no tar at all" * 100}, "cannot be read as an archive"),
        ({"a.tar": tar({"1/a.png": b"x"}), "b.tar": tar({"1/a.png": b"y"})}, "rename one"),
        ({"a.tar": tar({"1/a.png": b"x"}), "1/a.png": b"y"}, "rename one"),
        ({"a.zip": zipped({})}, "no known drop format"),
    ],
)
def test_what_cannot_be_read_at_all_is_refused_as_a_whole(
    context: Context, files: dict[str, bytes], words: str
) -> None:
    assert claim(context, put(context, "one", files)) is None
    assert words in refusal(context)


def test_an_archive_replaced_after_the_claim_is_told(context: Context) -> None:
    prefix = put(context, "one", {"all.tar": tar(digit_files(0, COUNT)), "0/loose.png": digits()[60][1]})
    drop_id = claim(context, prefix)
    assert drop_id
    context.labels.put(prefix + "all.tar", tar(digit_files(100, 101)))
    inspect_chunk(context, drop_id, 0)
    validate(context, drop_id)
    reasons = {words for words, _ in held(context).values()}
    assert reasons == {"`all.tar` was replaced or removed after the drop was claimed"}


def test_pages_share_the_work_and_hold_everything_once(make_context: "type[Context]") -> None:
    ctx = make_context(inspect_bytes=10 * 8192)  # type: ignore[call-arg]
    drop_id = claim(ctx, put(ctx, "one", {"all.tar": tar(digit_files(0, COUNT))}))
    assert drop_id
    head = entries.head(ctx, drop_id)
    pages = [entries.read(ctx, drop_id, page) for page in range(head.pages)]
    assert [len(page) for page in pages] == [10, 10, 10, 10]
    assert len({row["key"] for page in pages for row in page}) == head.count == COUNT


def test_the_command_says_before_sending_what_is_inside(tmp_path: Path) -> None:
    (tmp_path / "all.zip").write_bytes(zipped({f"x/{k}": v for k, v in digit_files(0, COUNT).items()}))
    with upload.prepare(tmp_path, "one") as prepared:
        assert (prepared.format, sum(prepared.classes.values())) == ("class_folders", COUNT)
        assert list(prepared.files) == ["all.zip"]
