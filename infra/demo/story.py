"""The demo, step by step: upload, wait, predict, upload again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from sqlalchemy import func, select

from infra.demo import drops, watch
from infra.demo.client import LoadClient, RequestStats, ask_each
from infra.demo.drops import Story
from infra.demo.pictures import Picture
from infra.demo.steps import step
from infra.demo.watch import CycleResult
from ml.catalog.engine import transaction
from ml.catalog.tables import predictions
from ml.cli import main
from ml.context import Context
from ml.errors import IntegrityError, UnavailableError
from ml.intake.upload import prepare

QUESTIONS = 150

EXPECTED_VERDICTS: Final = (("promote",), ("promote",), ("held",))
"""Verdicts that the three cycles may end with."""

_SERVICE: Final = "the service's log tells why it refused or failed. `make demo` again begins with an empty system."


@dataclass(frozen=True)
class Outcome:
    """The results that the summary shows."""

    cycles: list[CycleResult]
    reload: RequestStats
    predicted: int
    logged: int


def run(context: Context, story: Story, folder: Path, console: Console) -> Outcome:
    """Run the three cycles on the running stack; see the package's docstring.

    Raises:
        StepFailedError: a step did not end as expected: a server did not answer, a cycle stalled or ended with
            another verdict, a prediction was lost.
    """
    settings = context.settings
    questions = story.questions[:QUESTIONS]

    title, promise = "1 · A first drop: clean images, and four bad files", "its model is promoted and then answers"
    with step(title, promise, console) as current:
        _wait_status(settings.service_url, 503, console)
        first = current.check_verdict(_cycle(context, story.first, folder / "first", console), EXPECTED_VERDICTS[0])
        _wait_status(settings.service_url, 200, console)

    with step("2 · Questions to the new model", "every question is answered", console) as current:
        before = ask_each(settings, questions)
        console.print(
            f"  {before.answered} of {len(questions)} answered; {before.right} named the label a person would"
        )
        current.require(not before.failures, f"{_failed(before.failures)} of {len(questions)}", _SERVICE)

    title = "3 · A second drop: rotated, noisy, inverted, while a client keeps asking"
    with step(title, "the second model is promoted, goes live, and no request fails meanwhile", console) as current:
        with LoadClient(settings, questions) as client:
            second = current.check_verdict(
                _cycle(context, story.second, folder / "second", console), EXPECTED_VERDICTS[1]
            )
            if second.cycle.model_version is None:
                raise IntegrityError("the cycle is promoted but names no model version")
            client.wait_for(second.cycle.model_version)
        stats = client.stats
        console.print(
            f"  {stats.requests} requests meanwhile, {len(stats.failures)} failed; "
            f"model versions that answered: {', '.join(map(str, sorted(stats.versions)))}"
        )
        current.require(not stats.failures, f"{_failed(stats.failures)} of {stats.requests} requests", _SERVICE, second)

    title = "4 · A third drop: shuffled labels"
    with step(title, "the drop waits for a person, who is told why", console) as current:
        third = current.check_verdict(_cycle(context, story.third, folder / "third", console), EXPECTED_VERDICTS[2])
        console.print(f"  {third.cycle.verdict}: {third.cycle.reason}", markup=False)

    with step("5 · The prediction log", "it has every answer that was given", console) as current:
        predicted = before.answered + stats.requests - len(stats.failures)
        logged = watch.wait_until(
            lambda: _logged(context), lambda rows: rows >= predicted, f"{predicted} rows in the prediction log"
        )
        console.print(f"  {logged} rows for {predicted} answers")
    return Outcome([first, second, third], stats, predicted, logged)


def _cycle(context: Context, pictures: list[Picture], folder: Path, console: Console) -> CycleResult:
    drops.write(pictures, folder)
    with prepare(folder, f"demo-{folder.name}") as upload:
        prefix = main.send(context, upload)  # what `evergreen drop` does
    return watch.wait_for_cycle(context, prefix, console)


def _failed(failures: list[str]) -> str:
    return f"{len(failures)} failed, the first with: {failures[0] if failures else ''}"


def _wait_status(url: str, expected: int, console: Console) -> None:
    """Wait until the service's readiness is as expected.

    Raises:
        UnavailableError: it has a model too early, or its status did not become the expected one.
    """
    goal = f"{url}/readyz to answer {expected}"
    status = watch.wait_until(lambda: _status(url), lambda status: status in (expected, 200), goal)
    if status != expected:
        raise UnavailableError(f"waited for {goal}, which is {status}: a model is live that no drop of this story made")
    state = "a model is live" if expected == 200 else "no model yet"
    console.print(f"  the service answers {expected} to /readyz: {state}")


def _status(url: str) -> int | str:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code
    except httpx.HTTPError as error:
        return f"no answer ({type(error).__name__})"


def _logged(context: Context) -> int:
    """The number of rows in the prediction log."""
    with transaction(context.engine) as connection:
        rows: int = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
    return rows
