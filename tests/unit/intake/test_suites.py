"""The shipped expectations on small frames, and what a person may write into such a file."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from ml.errors import InvalidInputError
from ml.validation import data_docs, suites
from ml.validation.suites import SuiteResult

SHIPPED = Path(__file__).parents[3] / "expectations"
GOOD: dict[str, Any] = {
    "key": "a/1.png",
    "label": "a",
    "problem": None,
    "width": 28.0,
    "height": 28.0,
    "aspect": 1.0,
    "contrast": 0.3,
    "conflict": None,
    "class_problem": None,
}
FIGURES: dict[str, Any] = {
    "images": 10,
    "good_share": 1.0,
    "duplicate_share": 0.0,
    "class_shift": None,
    "unknown_share": None,
    "brightness_shift": None,
    "size_ratio": None,
}


def images(*changes: dict[str, Any]) -> SuiteResult:
    rows = [GOOD, *(GOOD | {"key": f"k{i}"} | change for i, change in enumerate(changes))]
    return suites.validate(SHIPPED / "images.yml", pd.DataFrame(rows).astype({"label": object}))


def drop(**changes: Any) -> SuiteResult:
    return suites.validate(SHIPPED / "drop.yml", suites.single_row_frame(FIGURES | changes))


def own(folder: Path, text: str, frame: pd.DataFrame) -> SuiteResult:
    path = folder / "own.yml"
    path.write_text("name: own\nexpectations:\n" + text)
    return suites.validate(path, frame)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"problem": "broken"}, "broken"),
        ({"label": None}, "it has no label"),
        ({"label": "a/b"}, "no slash"),
        ({"label": "x" * 201}, "1 to 200 characters"),
        ({"label": "a\x1b[31m"}, "no control character"),
        ({"width": 3.0}, "found 3"),
        ({"width": 4097.0}, "the width must be 4 to 4096 pixels; found 4097"),
        ({"height": 6000.0}, "the height must be 4 to 4096 pixels; found 6000"),
        ({"aspect": 11.0}, "longer side"),
        ({"contrast": 0.0}, "blank"),
        ({"conflict": "it contradicts"}, "it contradicts"),
        ({"class_problem": "it is new"}, "it is new"),
    ],
)
def test_a_bad_row_and_only_it_is_named_with_words(change: dict[str, Any], words: str) -> None:
    verdict = images(change, {})
    assert list(verdict.reasons) == ["k0"]
    assert words in verdict.reasons["k0"][0]
    assert not verdict.overall


def test_good_rows_pass_at_the_limits() -> None:
    limits: list[dict[str, Any]] = [
        {"width": 4.0},
        {"height": 4096.0},
        {"aspect": 10.0},
        {"label": "x" * 200},
        {"label": "日本語 & <b>"},
    ]
    assert images(*limits).success


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"good_share": 0.49}, "share of good ones is 0.49"),
        ({"images": 0}, "no images"),
    ],
)
def test_a_bad_drop_is_named_with_words(changes: dict[str, Any], words: str) -> None:
    ((reason,),) = drop(**changes).reasons.values()
    assert words in reason


@pytest.mark.parametrize(
    ("expectations", "columns"),
    [
        (
            [
                ("expect_column_values_to_not_be_null", {"column": "a"}),
                ("expect_column_max_to_be_between", {"column": "b"}),
            ],
            {"a", "b"},
        ),
        ([("expect_column_values_to_not_be_null", {"column": "a", "row_condition": 'col("b") > 1'})], None),
        ([("expect_column_pair_values_to_be_equal", {"column_A": "a", "column_B": "b"})], None),
        ([("expect_table_row_count_to_be_between", {"min_value": 1})], None),
    ],
)
def test_a_suite_tells_which_columns_it_is_about(
    tmp_path: Path, expectations: list[tuple[str, dict[str, Any]]], columns: set[str] | None
) -> None:
    file = tmp_path / "s.yml"
    entries = [{"type": kind, "kwargs": kwargs} for kind, kwargs in expectations]
    file.write_text(yaml.safe_dump({"name": "s", "expectations": entries}))
    assert suites.columns(file) == columns


def test_an_expectation_of_the_whole_frame_speaks_for_the_whole(tmp_path: Path) -> None:
    text = (
        "  - type: expect_column_mean_to_be_between\n"
        "    kwargs: {column: v, max_value: 1}\n"
        "    meta: {reason: 'mean {value}'}\n"
        "  - {type: expect_table_row_count_to_be_between, kwargs: {min_value: 5}}\n"
    )
    verdict = own(tmp_path, text, pd.DataFrame({"key": ["a", "b"], "v": [2.0, 4.0]}))
    assert verdict.overall[0] == "mean 3"
    assert "expect_table_row_count_to_be_between" in verdict.overall[1]
    assert "found 2" in verdict.overall[1]
    assert not verdict.reasons


def test_every_failing_row_is_named_however_many() -> None:
    verdict = images(*({"width": 1.0} for _ in range(500)))
    assert set(verdict.reasons) == {f"k{i}" for i in range(500)}
    (failed,) = verdict.failed
    assert len(failed["keys"]) == 500


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_shift": 0.9}, "the mix of classes is far"),
        ({"unknown_share": 1.0}, "of classes that are new"),
        ({"brightness_shift": -5.0}, "-5 standard deviations"),
        ({"size_ratio": 1000.0}, "1000 times as many"),
        ({"duplicate_share": 0.95}, "stored already"),
    ],
)
def test_an_unusual_drop_is_warned_of_and_accepted(changes: dict[str, Any], words: str) -> None:
    verdict = drop(**changes)
    assert verdict.success
    assert not verdict.reasons
    (warning,) = verdict.warnings
    assert words in warning


def test_a_warning_is_reported_and_puts_nothing_aside(tmp_path: Path) -> None:
    text = "  - {type: expect_column_max_to_be_between, kwargs: {column: v, max_value: 1}, severity: warning}\n"
    text += "  - {type: expect_column_values_to_be_in_set, kwargs: {column: v, value_set: [1]}, severity: info}\n"
    verdict = own(tmp_path, text, pd.DataFrame({"key": ["a"], "v": [2.0]}))
    assert verdict.success
    assert not verdict.reasons
    assert len(verdict.failed) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  - {type: expect_column_values_to_be_between, kwargs: {column: nope, min_value: 1}}\n", "between of nope"),
        ("  - {type: expect_the_moon, kwargs: {column: v}}\n", r"expectation 1 \(expect_the_moon"),
        ("  - {type: expect_column_values_to_be_between, kwargs: {column: v, minimum: 1}}\n", "minimum"),
        ("  - {type: expect_column_values_to_be_null, kwargs: {column: v}, severity: deadly}\n", "deadly"),
        ("  - {kwargs: {column: v}}\n", "expectation 1"),
        ("  - just words\n", "just words"),
        ("  - [\n", "not a valid expectation suite"),
        ("", "not a valid expectation suite"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"own\.yml.*{words}"):
        own(tmp_path, text, pd.DataFrame({"key": ["a"], "v": [2.0]}))
    with pytest.raises(InvalidInputError, match=r"missing\.yml"):
        suites.validate(tmp_path / "missing.yml", pd.DataFrame({"key": ["a"]}))


def test_data_docs_show_hostile_names_as_text(tmp_path: Path) -> None:
    text = "  - {type: expect_column_values_to_be_in_set, kwargs: {column: v, value_set: [ok, 'a&b']}}\n"
    frame = pd.DataFrame({"key": ["<script>alert(1)</script>", "fine", "also"], "v": ["<img src=x>", "a&b", "ok"]})
    verdict = own(tmp_path, text, frame)
    assert list(verdict.reasons) == ["<script>alert(1)</script>"]
    assert "<img src=x>" in verdict.reasons["<script>alert(1)</script>"][0]
    rows = list(verdict.reasons.items())
    figures = {"format": "<i>"}
    page = data_docs.render("<u>drop</u>", "d-1", ("bad", "<b>no</b>"), [("Each image", verdict)], figures, rows)
    assert "&lt;img src=x&gt;" in page
    assert "&lt;script&gt;alert(1)" in page
    for markup in ("<img", "<script", "<u>", "<b>", "<i>", "&amp;lt;"):
        assert markup not in page


def test_a_page_of_data_docs_needs_nothing_from_elsewhere_and_stays_small() -> None:
    verdict = images(*({"width": 1.0} for _ in range(500)))
    page = data_docs.render(
        "Drop", "d-1", ("good", "ok"), [("Each image", verdict)], {"images": 501}, list(verdict.reasons.items())
    )
    assert "http" not in page
    assert "<script" not in page
    assert "width" in page
    assert "500, the first 200 of them" in page
    assert len(page) < 100_000
