"""The story, step by step, as a user would live it: upload, wait, ask, upload again."""

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
from infra.demo.watch import Finished
from ml.catalog.engine import transaction
from ml.catalog.tables import predictions
from ml.cli.main import main
from ml.context import Context
from ml.errors import UnavailableError
from ml.intake.upload import prepare

QUESTIONS = 150

PROMISED: Final = (("promote",), ("promote",), ("stopped", "reject"))
"""Verdicts that the three cycles may end with."""

_SERVICE: Final = "the service's log tells why it refused or failed. `make demo` again begins with an empty system."


@dataclass(frozen=True)
class Outcome:
    """Everything the summary tells."""

    cycles: list[Finished]
    reload: RequestStats
    asked: int
    logged: int


def live_through(context: Context, story: Story, folder: Path, console: Console) -> Outcome:
    """Run the three cycles on the running stack; see the package's docstring.

    Raises:
        StepFailedError: a step did not end as it promised: a part did not answer, a cycle stood still or ended with
            another verdict, an answer was lost.
    """
    settings = context.settings
    questions = story.questions[:QUESTIONS]

    title, promise = "1 · A first drop: clean images, and four bad files", "its model is promoted and then answers"
    with step(title, promise, console) as this:
        _wait_status(settings.service_url, 503, console)
        first = this.ended(_cycle(context, story.first, folder / "first", console), PROMISED[0])
        _wait_status(settings.service_url, 200, console)

    with step("2 · Questions to the new model", "every question is answered", console) as this:
        before = ask_each(settings, questions)
        console.print(
            f"  {before.answered} of {len(questions)} answered; {before.right} named the label a person would"
        )
        this.require(not before.failures, f"{_failed(before.failures)} of {len(questions)}", _SERVICE)

    title = "3 · A second drop: rotated, noisy, inverted, while a client keeps asking"
    with step(title, "the second model is promoted, goes live, and no request fails meanwhile", console) as this:
        with LoadClient(settings, questions) as client:
            second = this.ended(_cycle(context, story.second, folder / "second", console), PROMISED[1])
            client.wait_for(second.cycle["model_version"])
        tally = client.tally
        console.print(
            f"  {tally.requests} requests meanwhile, {len(tally.failures)} failed; "
            f"model versions that answered: {', '.join(map(str, sorted(tally.versions)))}"
        )
        this.require(not tally.failures, f"{_failed(tally.failures)} of {tally.requests} requests", _SERVICE, second)

    title = "4 · A third drop: shuffled labels"
    with step(title, "the drop is stopped, or its model rejected", console) as this:
        third = this.ended(_cycle(context, story.third, folder / "third", console), PROMISED[2])
        console.print(f"  {third.cycle['verdict']}: {third.cycle['reason']}", markup=False)

    with step("5 · The prediction log", "it has every answer that was given", console) as this:
        asked = before.answered + tally.requests - len(tally.failures)
        logged = watch.until(
            lambda: _logged(context), lambda rows: rows >= asked, f"{asked} rows in the prediction log"
        )
        console.print(f"  {logged} rows for {asked} answers")
    return Outcome([first, second, third], tally, asked, logged)


def _cycle(context: Context, pictures: list[Picture], folder: Path, console: Console) -> Finished:
    drops.write(pictures, folder)
    with prepare(folder, f"demo-{folder.name}") as upload:
        prefix = main.send(context, upload)  # what `evergreen drop` does
    return watch.wait_for(context, prefix, console)


def _failed(failures: list[str]) -> str:
    return f"{len(failures)} failed, the first with: {failures[0] if failures else ''}"


def _wait_status(url: str, expected: int, console: Console) -> None:
    """Until the service says whether it has a model, as expected.

    Raises:
        UnavailableError: it has one before there can be any, or its answer stayed another for long.
    """
    goal = f"{url}/readyz to answer {expected}"
    status = watch.until(lambda: _status(url), lambda status: status in (expected, 200), goal)
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
    """Rows in the prediction log, where the workers' spools drain to."""
    with transaction(context.engine) as connection:
        rows: int = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
    return rows
