"""What labelling tools export: images with one label are taken, everything else is refused with the reason."""

import io
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.errors import InvalidInputError
from ml.intake import formats
from ml.intake.formats import Annotation, Entry
from ml.intake.listing import Listing
from ml.storage.object_store import ObjectInfo


def read(files: dict[str, bytes]) -> tuple[str, dict[str, Entry]]:
    """The format found and its entries; files named `*.jpg` may be empty."""
    listing = Listing("d/", tuple(ObjectInfo(k, len(v), "e", None) for k, v in sorted(files.items())))
    name = formats.detect(listing, files.__getitem__)
    return name, {e.key: e for e in formats.read(name, listing, files.__getitem__)}


def labels(files: dict[str, bytes]) -> tuple[str, dict[str, str | None]]:
    name, entries = read(files)
    return name, {key: e.label or f"! {e.problem}" for key, e in entries.items()}


def images(*keys: str) -> dict[str, bytes]:
    return dict.fromkeys(keys, b"")


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def studio(*tasks: dict[str, Any]) -> dict[str, bytes]:
    return {"project-1.json": json.dumps(tasks).encode()}


def task(image: str, *choices: tuple[str, Any], **more: Any) -> dict[str, Any]:
    """A task and each annotator's choice."""
    annotations = [
        {"completed_by": who, "result": [{"type": "choices", "value": {"choices": [label]}}], "was_cancelled": False}
        for label, who in choices
    ]
    return {"id": 1, "data": {"image": image}, "annotations": annotations, "predictions": [{"result": []}], **more}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("labels_jsonl", {"labels.jsonl": b'{"file": "x/1.jpg", "label": "cat"}\n\n{"file": "x/2.jpg", "label": 7}\n'}),
        ("labels_parquet", {"labels.parquet": parquet([{"file": "x/1.jpg", "label": "cat"}, {"file": "x/2.jpg", "label": "7"}])}),
        ("huggingface", {"metadata.jsonl": b'{"file_name": "x/1.jpg", "label": "cat"}\n{"file_name": "x/2.jpg", "label": "7"}'}),
        ("huggingface", {"x/metadata.csv": b"file_name,label\n1.jpg,cat\n2.jpg,7\n"}),
        ("roboflow", {"x/_classes.csv": b"filename, 7, cat\n1.jpg, 0, 1\n2.jpg, 1, 0\n"}),
        ("label_studio", studio(task("/data/upload/3/1a2b3c4d-1.jpg", ("cat", 1)), task("s3://b/d/x/2.jpg", ("7", 2)))),
        ("label_studio", studio(task("/data/local-files/?d=y/x/1.jpg", ("cat", 1)), task("http://h/x/2.jpg?a=b", ("7", 2)))),
        (
            "coco",
            {
                "annotations/labels_train.json": json.dumps(
                    {
                        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "7"}],
                        "images": [{"id": 5, "file_name": "1.jpg"}, {"id": 6, "file_name": "other/x/2.jpg"}],
                        "annotations": [{"image_id": 5, "category_id": 1}, {"image_id": 6, "category_id": 2}],
                    }
                ).encode()
            },
        ),
        (
            "datumaro",
            {
                "annotations/train.json": json.dumps(
                    {
                        "categories": {"label": {"labels": [{"name": "7"}, {"name": "cat"}]}},
                        "items": [
                            {"id": "1", "annotations": [{"type": "label", "label_id": 1}]},
                            {"id": "2", "image": {"path": "x/2.jpg"}, "annotations": [{"type": "label", "label_id": 0}]},
                        ],
                    }
                ).encode()
            },
        ),
        (
            "cvat",
            {
                "annotations.xml": b'<annotations><image name="x/1.jpg"><tag label="cat"/></image>'
                b'<image name="2.jpg"><tag label="7"/></image></annotations>'
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_format_is_told_by_looking_and_read(name: str, files: dict[str, bytes]) -> None:
    assert labels(files | images("x/1.jpg", "x/2.jpg")) == (name, {"x/1.jpg": "cat", "x/2.jpg": "7"})


def test_annotators_are_kept_and_the_majority_is_the_drops_answer() -> None:
    when = {"updated_at": "2026-03-01T12:00:00.5Z"}
    annotated = task("x/1.jpg", ("cat", {"email": "ann@x"}), ("dog", 7), ("cat", {"id": 9}))
    annotated["annotations"][0] |= when
    _, entries = read(studio(annotated) | images("x/1.jpg"))
    assert entries["x/1.jpg"] == Entry(
        "x/1.jpg",
        "cat",
        "ann@x",
        labelled_at=datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC),
        others=(Annotation("dog", "user 7"), Annotation("cat", "9")),
    )


def test_cancelled_annotations_and_predictions_say_nothing() -> None:
    annotated = task("x/1.jpg", ("dog", 1), ("cat", 2))
    annotated["annotations"][0]["was_cancelled"] = True
    empty = task("x/2.jpg") | {"predictions": [{"result": [{"type": "choices", "value": {"choices": ["dog"]}}]}]}
    assert labels(studio(annotated, empty) | images("x/1.jpg", "x/2.jpg"))[1] == {"x/1.jpg": "cat", "x/2.jpg": "! None"}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (studio(task("x/1.jpg", ("cat", 1), ("dog", 2)), task("x/2.jpg", ("a", 1))), "user 1 says cat, user 2 says dog"),
        ({"_classes.csv": b"filename,a,b\nx/1.jpg,1,1\nx/2.jpg,1,0\n"}, r"several labels \(a, b\)"),
        ({"_classes.csv": b"filename,a\nx/1.jpg,yes\nx/2.jpg,1\n"}, "must hold 0 and 1; found 'yes'"),
        ({"labels.jsonl": b'{"file":"x/1.jpg","label":"a","confidence":"NaN"}\n{"file":"x/2.jpg","label":"a"}'}, "finite"),
        ({"metadata.jsonl": b'{"file_name":"x/1.jpg","label":["a","b"]}\n{"file_name":"x/2.jpg","label":"a"}'}, "several"),
        (
            {
                "annotations.xml": b'<annotations><image name="1.jpg"><box label="a"/></image>'
                b'<image name="2.jpg"><tag label="b"/></image></annotations>'
            },
            "annotated with box",
        ),
    ],
)  # fmt: skip
def test_what_has_not_one_label_is_put_aside_with_the_reason(files: dict[str, bytes], words: str) -> None:
    _, entries = read(files | images("x/1.jpg", "x/2.jpg"))
    assert entries["x/1.jpg"].label is None
    with pytest.raises(InvalidInputError, match=words):
        raise InvalidInputError(str(entries["x/1.jpg"].problem))
    assert entries["x/2.jpg"].label


COCO_BOX = {
    "categories": [{"id": 1, "name": "a"}],
    "images": [{"id": 5, "file_name": "1.jpg"}],
    "annotations": [{"image_id": 5, "category_id": 1, "bbox": [0, 0, 1, 1]}],
}
BOMB = b'<!DOCTYPE a [<!ENTITY b "cc">]><annotations><image name="1.jpg"><tag label="&b;"/></image></annotations>'


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"annotations/instances.json": json.dumps(COCO_BOX).encode()}, "holds boxes or masks"),
        (studio({"data": {"image": "x/1.jpg"}, "annotations": [{"result": [{"type": "rectanglelabels"}]}]}), "rectangle"),
        ({"annotations.xml": b'<annotations><image name="1.jpg"><polygon/></image></annotations>'}, "polygon"),
        ({"annotations.xml": BOMB}, "entities"),
        ({"annotations.xml": b"\xff\xfe<"}, "not UTF-8"),
        ({"annotations.xml": b"<annotations>"}, "not valid XML"),
        ({"labels.jsonl": b"[" * 100_000}, "not valid JSON"),
        ({"labels.jsonl": b"[1]"}, "line 1, must be a JSON object"),
        ({"labels.parquet": b"PAR1 not really PAR1"}, "cannot be read as Parquet"),
        ({"labels.parquet": parquet([{"file": "x/1.jpg"}])}, "lacks the column label"),
        ({"metadata.jsonl": b'{"file_name":"x/1.jpg","text":"a cat"}'}, "no column `label`"),
        ({"_classes.csv": b"filename\nx/1.jpg\n"}, "no class columns"),
    ],
)  # fmt: skip
def test_a_drop_of_another_kind_is_refused_as_a_whole(files: dict[str, bytes], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        read(files | images("x/1.jpg"))


def test_a_file_of_boxes_beside_one_of_labels_is_passed_over() -> None:
    plain = COCO_BOX | {"annotations": [{"image_id": 5, "category_id": 1}]}
    files = {"annotations/a.json": json.dumps(COCO_BOX).encode(), "annotations/b.json": json.dumps(plain).encode()}
    assert labels(files | images("x/1.jpg")) == ("coco", {"x/1.jpg": "a"})


@pytest.mark.parametrize(
    "files",
    [
        {"cat/annotations.xml": b"x", "cat/1.jpg": b""},
        {"cat/info.json": b"[]", "cat/1.jpg": b""},
        {"notes.json": b"{}", "cat/1.jpg": b"", "dog/1.jpg": b""},
        {"broken.json": b"{", "cat/1.jpg": b"", "dog/1.jpg": b""},
    ],
)
def test_other_files_among_class_folders_do_not_mislead(files: dict[str, bytes]) -> None:
    assert labels(files)[0] == "class_folders"


def test_a_name_that_could_mean_two_files_is_not_guessed() -> None:
    _, labelled = labels(
        studio(task("1.jpg", ("cat", 1)), task("b/2.jpg", ("cat", 1))) | images("a/1.jpg", "b/1.jpg", "b/2.jpg")
    )
    assert "no such file" in str(labelled["1.jpg"])
    assert labelled["b/2.jpg"] == "cat"


@pytest.mark.parametrize("junk", [None, 7, "x", [], {}, [None], {"a": [1]}])
def test_wild_json_in_the_right_places_never_crashes(junk: Any) -> None:
    shapes: list[Any] = [
        {
            "images": [junk, {"id": junk, "file_name": junk}],
            "annotations": [junk, {"image_id": junk}],
            "categories": [junk],
        },
        {"items": [junk, {"id": junk, "annotations": junk if isinstance(junk, list) else []}], "categories": {}},
        [{"data": {"image": junk}, "annotations": junk}],
        [{"data": {}, "annotations": [junk, {"result": [junk, {"type": "choices"}], "completed_by": junk}]}],
    ]
    for body in shapes:
        with suppress(InvalidInputError):
            read({"a.json": json.dumps(body).encode()} | images("x/1.jpg"))
