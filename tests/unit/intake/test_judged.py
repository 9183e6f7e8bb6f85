"""Who contradicts whom."""

from ml.intake.row_verdicts import conflicts


def test_two_labels_for_the_same_bytes_put_both_aside() -> None:
    first, second, alone = conflicts(["a/1", "b/1", "a/2"], ["a", "b", "a"], ["s", "s", "t"])
    assert "b in b/1" in str(first)
    assert "a in a/1" in str(second)
    assert alone is None


def test_what_has_no_bytes_or_no_label_contradicts_nothing() -> None:
    assert conflicts(["a/1", "b/1", "c", "d/1"], ["a", "b", None, "d"], [None, None, "s", "s"]) == [None] * 4
