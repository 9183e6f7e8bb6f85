"""Facts of a file that tell its class."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ml.label_checks import leaks
from ml.label_checks.leaks import FileFacts

FACTS = [
    FileFacts(f"drops/a/{'xy'[i % 2]}/{i:05}.jpg", "JPEG", 100 + i * 7 % 50, 80, False, 3.0, 900, 40, 90)
    for i in range(200)
]
LABELS = ["xy"[i % 2] for i in range(200)]


def test_an_even_drop_leaks_nothing() -> None:
    assert leaks.find(FACTS, LABELS) == ()


def test_format_size_quality_border_and_name_are_told() -> None:
    def of(label: str, **changes: Any) -> set[str]:
        facts = [replace(f, **changes) if of == label else f for f, of in zip(FACTS, LABELS, strict=True)]
        findings = leaks.find(facts, LABELS)
        assert not any(f.holds for f in findings)
        return {f.kind for f in findings}

    assert of("x", format="PNG") == {"format_tells_class"}
    assert of("x", width=300) == {"size_tells_class"}
    assert of("x", quality=200.0) == {"quality_tells_class"}
    assert of("x", border=0.0, border_level=255.0) == {"border_tells_class"}
    named = [replace(f, key=f.key.replace("/0", f"/{of}_0")) for f, of in zip(FACTS, LABELS, strict=True)]
    (finding,) = leaks.find(named, LABELS)
    assert finding.kind == "name_tells_class"
    assert "100%" in finding.message


def test_few_images_and_one_class_say_nothing() -> None:
    assert leaks.find(FACTS[:20], LABELS[:20]) == ()
    assert leaks.find(FACTS, ["x"] * 200) == ()


def test_one_class_in_each_drop_is_told() -> None:
    others = {"d-1": ["y"] * 30, "d-2": ["z"] * 30}
    (finding,) = leaks.one_class_a_drop(["x"] * 40, others)
    assert finding.kind == "drop_tells_class"
    assert leaks.one_class_a_drop(["x"] * 40, others | {"d-3": ["x", "y"] * 20}) == ()
    assert leaks.one_class_a_drop(["x", "y"], others) == ()
    assert leaks.one_class_a_drop(["x"], {}) == ()


def test_quality_is_read_from_the_tables_and_hostile_bytes_are_survived() -> None:
    def jpeg(quality: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    assert leaks.quality_of(jpeg(30)) > leaks.quality_of(jpeg(90)) > 0
    for data in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xdb\x00\x00", b"\xff\xd8\xff\xdb\xff\xff", b"\x89PNG"):
        assert leaks.quality_of(data) >= 0
