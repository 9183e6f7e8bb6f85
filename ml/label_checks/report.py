"""What the check of labels found, as JSON beside the drop's report and as a page of Data Docs."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from ml.errors import IntegrityError
from ml.intake.findings import Finding
from ml.label_checks.confusion import Moved
from ml.label_checks.judge import Judgement

_FORMAT: Final = 1
_SHOWN: Final = 50


@dataclass(frozen=True)
class SuspectImage:
    """An image of the drop whose label may be wrong."""

    key: str
    sha256: str
    label: str
    likely: str
    probability: float


@dataclass(frozen=True)
class LabelReport:
    """The result of a drop's check.

    Attributes:
        images: how many images the drop brought.
        judged: how many were looked at, chosen by their hash.
        figures: of `Judgement`, without the images.
        moved: pairs of given and likely class.
    """

    drop_id: str
    images: int
    judged: int
    figures: dict[str, Any]
    moved: tuple[Moved, ...]
    suspects: tuple[SuspectImage, ...]
    findings: tuple[Finding, ...]

    def to_json(self) -> bytes:
        body = {"format": _FORMAT, **asdict(self), "findings": [f.as_json() for f in self.findings]}
        return orjson.dumps(body, option=orjson.OPT_INDENT_2)

    @classmethod
    def parse(cls, data: bytes) -> "LabelReport":
        """Raises IntegrityError if the object is damaged."""
        try:
            body = orjson.loads(data)
            return cls(
                body["drop_id"],
                body["images"],
                body["judged"],
                body["figures"],
                tuple(Moved(**m) for m in body["moved"]),
                tuple(SuspectImage(**s) for s in body["suspects"]),
                tuple(Finding(**(f | {"images": tuple(f["images"])})) for f in body["findings"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"the report of a label check is damaged: {error!r}") from error


def key(drop_id: str) -> str:
    return f"drops/{drop_id}/labels.json"


def figures(judgement: Judgement) -> dict[str, Any]:
    """The numbers of a judgement that people see, rounded."""
    names = ("basis", "noise", "low", "high", "separability", "learned", "expected")
    values = {name: getattr(judgement, name) for name in names}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def words(report: LabelReport) -> str:
    """The result in a sentence."""
    figures = report.figures
    noise, low, high = (figures.get(name) for name in ("noise", "low", "high"))
    if report.judged == 0:
        return "The labels could not be checked: there are too few images, and nothing stored to compare with."
    looked = f"{report.judged} of {report.images} images were looked at"
    if noise is None:
        return f"{looked}; within the drop the labels are learned at Cohen's kappa {figures.get('learned') or 0:.2f}."
    most = "at most " if figures["basis"] == "drop" else ""
    return f"{looked}; {most}{noise:.1%} of the labels are wrong (95 %: {low:.1%} to {high:.1%})."


def page_rows(report: LabelReport) -> list[tuple[str, list[str]]]:
    """Rows of the page: pairs of classes, then the worst images."""
    pairs = [
        (f"{m.given} → {m.likely}", [f"{m.images:.0f} of {m.of} images, {m.share:.0%}, at least {m.low:.0%}"])
        for m in report.moved
    ]
    return pairs + [_suspect_row(s) for s in report.suspects[:_SHOWN]]


def _suspect_row(suspect: SuspectImage) -> tuple[str, list[str]]:
    return suspect.key, [f"called {suspect.label}, looks like {suspect.likely} ({suspect.probability:.0%})"]
