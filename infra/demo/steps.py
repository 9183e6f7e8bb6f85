"""The steps of the demo: the expected result of each, and the report when it was not reached."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
from rich.console import Console
from rich.text import Text

from infra.demo.watch import STAGES, CycleResult
from ml.cli.output import printable
from ml.errors import EvergreenError
from ml.settings import Settings
from ml.validation import data_docs

_WIDTH = 12


_STUCK: Final = (
    "`evergreen status` (STACK=compose: `docker compose ps`) tells which part is not healthy, its log why; Airflow's "
    "page shows which task waits or failed. Too little memory or disk stops the loop, too. `make demo` again begins "
    "with an empty system."
)
_JUDGED: Final = (
    "open the report, it has the figures behind this verdict. Your own images may be too few for this story, or too "
    "hard; of the digits that come along it is a fault of Evergreen: please report these lines."
)


class StepFailedError(EvergreenError):
    """A step did not end as expected; `cycle` is its cycle, if it had one."""

    def __init__(self, step: "Step", happened: str, advice: str, cycle: CycleResult | None = None) -> None:
        super().__init__(f"{step.title}: expected that {step.expected}; {happened}")
        self.step, self.happened, self.advice, self.cycle = step, happened, advice, cycle


@dataclass(frozen=True)
class Step:
    """A step: its title and its expected result."""

    title: str
    expected: str

    def require(self, met: bool, happened: str, advice: str, cycle: CycleResult | None = None) -> None:
        """Raises StepFailedError, with what happened and what to do, unless `met`."""
        if not met:
            raise StepFailedError(self, happened, advice, cycle)

    def check_verdict(self, cycle: CycleResult, verdicts: tuple[str, ...]) -> CycleResult:
        """The cycle, if it ended with one of these verdicts; else StepFailedError."""
        verdict, reason = cycle.cycle.verdict, cycle.cycle.reason
        self.require(verdict in verdicts, f"the verdict was {verdict}: {reason}", _JUDGED, cycle)
        return cycle


@contextmanager
def step(title: str, expected: str, console: Console, advice: str = _STUCK) -> Iterator[Step]:
    """Run a block as a step: errors of the stack in the block become a failure of the step.

    Raises:
        StepFailedError: the step did not end as expected.
    """
    console.rule(f"[bold]{title}", align="left")
    current = Step(title, expected)
    try:
        yield current
    except StepFailedError:
        raise
    except (EvergreenError, httpx.HTTPError) as error:
        raise StepFailedError(current, f"{type(error).__name__.removesuffix('Error')}: {error}", advice) from error


def show(failed: StepFailedError, settings: Settings | None, logs: str, console: Console) -> None:
    """Which step failed, what was expected, what happened, where to look, what to do; it fits 80 columns.

    Args:
        settings: None where the stack did not come up.
        logs: where the stack's logs are.
    """
    console.print()
    console.print(Text.assemble(("✗ This step failed: ", "bold red"), (failed.step.title, "bold")))
    _paragraph("expected", failed.step.expected, console)
    _paragraph("happened", failed.happened, console)
    if failed.cycle:
        _paragraph("stages", _stages(failed.cycle), console)
        if settings and (key := _report_key(failed.cycle)):
            _place("report", data_docs.url(settings, key), console)
    if settings:
        _place("airflow", settings.airflow_url, console)
    _place("logs", logs, console)
    up = " The stack stays up to be looked at; `make down` stops it." if settings else ""
    _paragraph("what to do", failed.advice + up, console)


def _stages(cycle: CycleResult) -> str:
    seconds = cycle.cycle.seconds
    ended = [f"{name} {seconds[name]:.1f} s" for name in STAGES if name in seconds]
    return f"{', '.join(ended) or 'none'} (the last one done is {ended[-1].split()[0] if ended else 'none'})"


def _report_key(cycle: CycleResult) -> str | None:
    """The page of the decision, else that of the drop's validation."""
    return (cycle.decision.report_key if cycle.decision else None) or cycle.drop.report_key


def _paragraph(name: str, words: str, console: Console) -> None:
    """Print a name, and beside it the text, wrapped."""
    shown = Text(printable(words))
    lines = shown.wrap(console, max(20, console.width - _WIDTH - 2))
    for number, line in enumerate(lines):
        line.rstrip()
        console.print(Text.assemble("  ", (f"{name if number == 0 else '':{_WIDTH - 2}}", "bold"), "  ", line))


def _place(name: str, where: str, console: Console) -> None:
    """Print a name and an address or path, without line breaks, so that it can be copied."""
    console.print(Text.assemble("  ", (f"{name:{_WIDTH - 2}}", "bold"), "  ", where), soft_wrap=True)
