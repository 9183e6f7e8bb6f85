"""The story, step by step, as a user would live it: upload, wait, ask, upload again."""

import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from sqlalchemy import func, select

from infra.demo import drops, watch
from infra.demo.client import Client, Tally, ask_each
from infra.demo.drops import Story
from infra.demo.pictures import Picture
from infra.demo.watch import Finished
from ml import cli
from ml.catalog.engine import transaction
from ml.catalog.tables import predictions
from ml.context import Context
from ml.errors import UnavailableError
from ml.intake.upload import prepare

QUESTIONS = 150


@dataclass(frozen=True)
class Outcome:
    """Everything the summary tells."""

    cycles: list[Finished]
    before: tuple[int, int]
    reload: Tally
    asked: int
    logged: int


def live_through(context: Context, story: Story, folder: Path, console: Console) -> Outcome:
    """Run the three cycles on the running stack; see the package's docstring.

    Raises:
        UnavailableError: a part did not answer or a cycle did not end in time.
    """
    settings = context.settings
    questions = story.questions[:QUESTIONS]

    console.rule("[bold]1 · A first drop: clean images, and four bad files", align="left")
    _expect_status(settings.service_url, 503, console)
    first = _cycle(context, story.first, folder / "first", console)
    _wait_ready(settings.service_url)
    _expect_status(settings.service_url, 200, console)

    console.rule("[bold]2 · Questions to the new model", align="left")
    before = ask_each(settings, questions)
    console.print(f"  {before[0]} of {len(questions)} answered; {before[1]} named the label a person would")

    console.rule("[bold]3 · A second drop: rotated, noisy, inverted, while a client keeps asking", align="left")
    with Client(settings, questions) as client:
        second = _cycle(context, story.second, folder / "second", console)
        time.sleep(2)
    tally = client.tally
    console.print(
        f"  {tally.requests} requests meanwhile, {len(tally.failures)} failed; "
        f"model versions that answered: {', '.join(map(str, sorted(tally.versions)))}"
    )

    console.rule("[bold]4 · A third drop: shuffled labels", align="left")
    third = _cycle(context, story.third, folder / "third", console)
    console.print(f"  {third.cycle['verdict']}: {third.cycle['reason']}", markup=False)

    asked = before[0] + tally.requests - len(tally.failures)
    return Outcome([first, second, third], before, tally, asked, _logged(context, asked))


def _cycle(context: Context, pictures: list[Picture], folder: Path, console: Console) -> Finished:
    drops.write(pictures, folder)
    with prepare(folder, f"demo-{folder.name}") as upload:
        prefix = cli.send(context, upload)  # what `evergreen drop` does
    return watch.wait_for(context.engine, prefix, console)


def _expect_status(url: str, expected: int, console: Console) -> None:
    status = httpx.get(f"{url}/readyz", timeout=10).status_code
    if status != expected:
        raise UnavailableError(f"{url}/readyz answers {status}, expected {expected}")
    console.print(
        f"  the service answers {status} to /readyz: {'a model is live' if status == 200 else 'no model yet'}"
    )


def _wait_ready(url: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and httpx.get(f"{url}/readyz", timeout=10).status_code != 200:
        time.sleep(0.1)


def _logged(context: Context, expected: int, seconds: float = 20) -> int:
    """Rows in the prediction log, once the workers' spools have drained."""
    deadline = time.monotonic() + seconds
    while True:
        with transaction(context.engine) as connection:
            rows: int = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
        if rows >= expected or time.monotonic() > deadline:
            return rows
        time.sleep(0.5)
