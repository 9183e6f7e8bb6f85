"""Which names are classes, and which differ from one by nothing that people mean."""

from pathlib import Path

import pytest
import yaml

from ml.catalog import class_names

CLASSES = ("T-shirt", "coat", "ankle boot", "10", "C", "été")


def test_intake_and_the_service_have_one_rule() -> None:
    suite = yaml.safe_load((Path(__file__).parents[3] / "expectations/images.yml").read_text())
    rules = [
        e["kwargs"] for e in suite["expectations"] if e["kwargs"].get("column") == "label" and "regex" in e["kwargs"]
    ]
    assert [rule["regex"] for rule in rules] == [class_names.PATTERN]


@pytest.mark.parametrize("label", ["", "a/b", "a\\b", "tab\t", "nul\0", "line\n", "x" * 201])
def test_what_intake_refuses_is_no_name(label: str) -> None:
    assert class_names.problem(label) is not None


@pytest.mark.parametrize("label", ["x", "x" * 200, "T-shirt", "ñandú", "猫"])
def test_other_names_are_allowed(label: str) -> None:
    assert class_names.problem(label) is None


def test_names_are_compared_in_composed_form() -> None:
    assert class_names.normalised("e\N{COMBINING ACUTE ACCENT}te\N{COMBINING ACUTE ACCENT}") == "été"


@pytest.mark.parametrize(
    ("label", "near"),
    [
        ("T-Shirt", ["T-shirt"]),
        ("t shirt", ["T-shirt"]),
        ("coat_", ["coat"]),
        (" Coat", ["coat"]),
        ("ankl\N{CYRILLIC SMALL LETTER IE}boot", []),
        ("AnkleBoot", ["ankle boot"]),
        ("zebra", []),
        ("1.0", []),
        ("-10", []),
        ("10.", ["10"]),
        ("ete", []),
        ("---", []),
        ("coat", []),
    ],
)
def test_near_names_differ_by_case_spacing_or_punctuation_only(label: str, near: list[str]) -> None:
    assert class_names.near(label, CLASSES) == near
