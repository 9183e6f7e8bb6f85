"""`evergreen demo`: start the stack, tell the story, keep the stack up."""

import os
import time
from pathlib import Path

from rich.console import Console
from sqlalchemy import func, select

from infra.demo import drops, pictures, steps, story, summary
from ml import context
from ml.catalog.engine import transaction
from ml.catalog.tables import drops as drops_table
from ml.errors import ConflictError
from ml.settings import Settings

BUILD = Path("build")
MARKER = "made-by-demo"
_START = "mend what is named above (a log's last lines tell why a part does not run), then `make demo` again."


def run_demo(home: Path, data: Path | None, stack: str) -> int:
    """Run the demo; the exit code is 0 only if every step ended as expected.

    Args:
        home: the local stack's data folder; one that an earlier demo made is set aside.
        data: the user's own images, see `pictures.load`.
        stack: `local` or `compose`.
    """
    console = Console()
    started = time.monotonic()
    data_story = drops.make_story(pictures.load(data))
    count = len(data_story.first) + len(data_story.second) + len(data_story.third)
    console.print(f"[bold]Evergreen[/] on {count} images in three drops ({data or 'scikit-learn handwritten digits'})")
    settings = None
    try:
        with steps.step("0 · The stack starts", "every part becomes healthy", console, _START):
            settings = _start(home, stack, console)
        up_after = time.monotonic() - started
        ctx = context.connect(settings)
        _require_empty_system(ctx)
        outcome = story.run(ctx, data_story, BUILD / "demo", console)
    except steps.StepFailedError as failed:
        steps.show(failed, settings, _logs(home, stack), console)
        return 1
    report = summary.as_dict(outcome, settings)
    summary.write(report, BUILD / "demo.json")
    summary.show(outcome, report, stack, console)
    console.print(f"  Stack up after {up_after:.0f} s, story told after {time.monotonic() - started:.0f} s.")
    return 0


def _start(home: Path, stack: str, console: Console) -> Settings:
    if stack == "compose":
        from infra import compose

        return compose.up()
    from infra.local import status

    _set_aside(home, console)
    status.start(home, console)
    (home / MARKER).touch()
    return Settings.load({**os.environ, "EVERGREEN_HOME": str(home)})


def _set_aside(home: Path, console: Console) -> None:
    """The story begins with an empty system; what an earlier demo left is kept under another name."""
    if not (home / MARKER).exists():
        return
    from infra.local import stack as local

    local.down(home)
    renamed = home.with_name(f"{home.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    home.rename(renamed)
    console.print(
        f"  An earlier demo's data folder is set aside as {renamed}; delete it when you like.", style="yellow"
    )


def _require_empty_system(ctx: context.Context) -> None:
    with transaction(ctx.engine) as connection:
        count = connection.execute(select(func.count()).select_from(drops_table)).scalar_one()
    if count:
        raise ConflictError(
            f"this system holds {count} drops, and the story begins with an empty one: choose another data folder "
            "with `EVERGREEN_HOME=…` (local) or remove the volumes with `docker compose down -v` (compose)"
        )


def _logs(home: Path, stack: str) -> str:
    return "docker compose logs NAME" if stack == "compose" else f"{home / 'logs'} (Airflow's tasks: tasks/ there)"
