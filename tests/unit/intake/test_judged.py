"""Who contradicts whom."""

from typing import Any

from ml.intake.judged import conflicts


def row(key: str, label: str | None, sha256: str | None) -> dict[str, Any]:
    return {"key": key, "label": label, "sha256": sha256}


def test_two_labels_for_the_same_bytes_put_both_aside() -> None:
    found = conflicts([row("a/1", "a", "s"), row("b/1", "b", "s"), row("a/2", "a", "t")])
    assert set(found) == {"a/1", "b/1"}
    assert "b in b/1" in found["a/1"]


def test_what_has_no_bytes_or_no_label_contradicts_nothing() -> None:
    assert conflicts([row("a/1", "a", None), row("b/1", "b", None), row("c", None, "s"), row("d/1", "d", "s")]) == {}
