"""/v1/label-tasks: questions about labels, and a reviewer's answers."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from sqlalchemy import Engine

from ml.catalog import label_answers, label_queue
from ml.catalog.engine import limit_statements, transaction
from ml.catalog.label_answers import Reviewer
from ml.catalog.label_queue import LabelTaskRecord
from serving.api.route_classes import requires_role
from serving.api.schemas import LabelTask, LabelTaskAnswer, LabelTaskClosed, LabelTasks, problems
from serving.auth.access import IDENTITY, Identity
from serving.dependencies import Injected

router = APIRouter(prefix="/v1/label-tasks", tags=["labels"], route_class=requires_role("review"))

SECONDS: Final = 4.0
LOCAL_NAME: Final = "a program of the service's machine"

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
_PROBLEMS: Final = problems(
    _404="There is no such task.",
    _409="It was answered or dismissed already.",
    _422="The label is no class.",
    _503="The catalog does not answer.",
)


@router.get(
    "",
    summary="Open questions about labels, the most doubtful first",
    responses=problems(_503="The catalog does not answer."),
)
async def open_tasks(dependencies: Injected, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> LabelTasks:
    tasks = await dependencies.database.run_within(SECONDS, read, dependencies.engine, limit)
    return LabelTasks(tasks=[LabelTask.model_validate(task, from_attributes=True) for task in tasks])


@router.post("/{number}/answer", summary="Say what the label is", responses=_PROBLEMS)
async def answer(number: Id, body: LabelTaskAnswer, dependencies: Injected, request: Request) -> LabelTaskClosed:
    """It outweighs all that was said before, and is in the data from the next collection of feedback on."""
    reviewer = _reviewer(request)
    await dependencies.database.run_within(SECONDS, _answer, dependencies.engine, number, body.label, reviewer)
    return LabelTaskClosed(id=number, status="answered", label=body.label)


@router.post("/{number}/dismiss", summary="The question needs no answer", responses=_PROBLEMS)
async def dismiss(number: Id, dependencies: Injected, request: Request) -> LabelTaskClosed:
    await dependencies.database.run_within(SECONDS, _dismiss, dependencies.engine, number, _reviewer(request))
    return LabelTaskClosed(id=number, status="dismissed", label=None)


def read(engine: Engine, limit: int) -> list[LabelTaskRecord]:
    """The open tasks, the most doubtful first.

    Raises:
        UnavailableError: Postgres does not answer, or not in time.
    """
    with transaction(engine) as connection:
        limit_statements(connection, round(1000 * SECONDS))
        return label_queue.open_tasks(connection, limit)


def _answer(engine: Engine, number: int, label: str, reviewer: Reviewer) -> None:
    with transaction(engine) as connection:
        label_answers.answer(connection, number, label, reviewer)


def _dismiss(engine: Engine, number: int, reviewer: Reviewer) -> None:
    with transaction(engine) as connection:
        label_queue.close(connection, number, "dismissed", None, reviewer.name)


def _reviewer(request: Request) -> Reviewer:
    identity: Identity = request.scope[IDENTITY]
    caller: str | None = request.state.caller
    return Reviewer(identity.id, caller or LOCAL_NAME)
