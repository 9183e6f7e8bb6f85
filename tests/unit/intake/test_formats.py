"""Each format read from a listing that exists only here."""

from datetime import UTC, datetime

import pytest

from ml.errors import InvalidInputError
from ml.intake import formats
from ml.intake.formats import Entry
from ml.intake.listing import Listing
from ml.storage.object_store import ObjectInfo


def listing(*keys: str, hint: str | None = None) -> Listing:
    return Listing("drops/one/", tuple(ObjectInfo(k, 1, "etag", None) for k in sorted(keys)), hint)


def read(table: str, *keys: str) -> dict[str, Entry]:
    entries = formats.read("labels_csv", listing("labels.csv", *keys), lambda _: table.encode())
    return {e.key: e for e in entries}


def test_the_table_wins_over_folders() -> None:
    assert formats.detect(listing("a/1.png", "labels.csv"), _never) == "labels_csv"
    assert formats.detect(listing("a/1.png", "labels.csv", hint="class_folders"), _never) == "class_folders"
    assert formats.detect(listing("a/1.png"), _never) == "class_folders"


@pytest.mark.parametrize("keys", [(), ("1.png",), (".git/config",), ("__MACOSX/a/1.png", "1.png")])
def test_what_fits_no_format_is_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match="no known drop format"):
        formats.detect(listing(*keys), _never)


def test_an_unknown_named_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match=r"`parquet`.*labels_csv, .*class_folders"):
        formats.detect(listing("a/1.png", hint="parquet"), _never)


def test_the_first_folder_is_the_label() -> None:
    entries = formats.read(
        "class_folders",
        listing("a/1.png", "a/deep/er/2.png", "b/.DS_Store", "b/Thumbs.db", " c /3.png", "4.png"),
        _never,
    )
    assert {e.key: e.label for e in entries} == {
        "a/1.png": "a",
        "a/deep/er/2.png": "a",
        " c /3.png": "c",
        "4.png": None,
    }
    assert next(e for e in entries if e.key == "4.png").problem


def test_one_folder_beside_a_table_is_no_class() -> None:
    with pytest.raises(InvalidInputError, match=r"ann\.csv beside the only folder `images`"):
        formats.read("class_folders", listing("images/1.png", "ann.csv"), _never)


def _never(key: str) -> bytes:
    raise AssertionError(f"class folders need no file, but {key} was read")


def test_every_column_is_read() -> None:
    table = (
        "\ufeffannotator,confidence, file ,labelled_at,label,more\nann,0.75,x/1.png,2026-03-01T12:00:00+02:00,cat,!\n"
    )
    assert read(table, "x/1.png")["x/1.png"] == Entry(
        "x/1.png", "cat", "ann", 0.75, datetime(2026, 3, 1, 10, tzinfo=UTC), None
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("../1.png,a,,", "outside the drop"),
        ("/x/1.png,a,,", "outside the drop"),
        ("x/../x/1.png,a,,", "outside the drop"),
        ("x/2.png,a,,", "no such file"),
        ("labels.csv,a,,", "no such file"),
        ("x/1.png,a,high,", "cannot be read"),
        ("x/1.png,a,inf,", "finite"),
        ("x/1.png,a,,yesterday", "cannot be read"),
        ("x/1.png,a,,0001-01-01T00:00:00+14:00", "cannot be read"),
        ("x/1.png,a,,\nx/1.png,b,,", "two labels: a and b"),
        ("x/1.png,a,,\nx/1.png,b,,\nx/1.png,a,,", "two labels: a and b"),
    ],
)
def test_a_bad_row_says_what_is_wrong(row: str, words: str) -> None:
    entries = read(f"file,label,confidence,labelled_at\n{row}\n", "x/1.png")
    assert words in str(entries[row.split(",")[0]].problem)


def test_no_file_is_forgotten_and_no_row_counted_twice() -> None:
    entries = read("file,label\n./x/1.png,a\nx/1.png,a\n\nx/2.png,\n", "x/1.png", "x/2.png", "x/3.png", "x/.hidden")
    assert {k: (e.label, bool(e.problem)) for k, e in entries.items()} == {
        "x/1.png": ("a", False),
        "x/2.png": (None, False),
        "x/3.png": (None, True),
    }


@pytest.mark.parametrize("table", ["", "name,label\nx,y\n", 'file,label\nx/1.png,"' + "a" * 200_000])
def test_what_is_no_table_is_refused(table: str) -> None:
    with pytest.raises(InvalidInputError, match=r"labels\.csv"):
        read(table, "x/1.png")
