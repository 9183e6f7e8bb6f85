"""The DAG files parse, are wired as documented, and the triggers lose nothing."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

REPO = Path(__file__).resolve().parents[3]

# Airflow reads its configuration when it is imported, so its parsing is tried in a process of its own.
PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
print("RESULT", json.dumps({
    "errors": {k: v[-300:] for k, v in bag.import_errors.items()},
    "dags": {d.dag_id: {
        "tasks": {t.task_id: sorted(t.downstream_task_ids) for t in d.tasks},
        "doc": bool(d.doc_md), "tags": sorted(d.tags), "timeout": d.dagrun_timeout is not None,
        "retries": min(t.retries for t in d.tasks), "owner": sorted({t.owner for t in d.tasks}),
        "bounded": all(t.execution_timeout for t in d.tasks),
        "alerts": all(t.on_failure_callback for t in d.tasks),
        "max_active_runs": d.max_active_runs, "catchup": d.catchup,
        "pools": {t.task_id: t.pool for t in d.tasks if t.pool != "default_pool"},
    } for d in bag.dags.values()}}))
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import json

    home = tmp_path_factory.mktemp("airflow")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "PYTHONPATH": str(REPO),
    }
    command = [sys.executable, "-c", PARSE, str(REPO / "dags")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=home)
    (line,) = (text for text in done.stdout.splitlines() if text.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def test_every_file_gives_its_dag(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {path.stem for path in (REPO / "dags").glob("*.py")}


def test_defaults_are_everywhere(parsed: dict[str, Any]) -> None:
    for name, dag in parsed["dags"].items():
        assert dag["doc"], name
        assert dag["timeout"], name
        assert dag["bounded"], name
        assert dag["alerts"], name
        assert dag["retries"] >= 3, name
        assert dag["owner"] == ["evergreen"], name
        assert "evergreen" in dag["tags"], name
        assert dag["max_active_runs"] == (16 if name == "approve" else 1), name
        assert not dag["catchup"], name


def test_the_wiring(parsed: dict[str, Any]) -> None:
    assert parsed["dags"]["ingest"]["tasks"] == {
        "find": ["chunks_of", "validate"],
        "chunks_of": ["inspect"],
        "inspect": ["validate"],
        "validate": ["check_labels"],
        "check_labels": ["accept"],
        "accept": [],
    }
    assert parsed["dags"]["train"]["tasks"] == {
        "plan": ["fit", "gate", "release"],
        "fit": ["gate"],
        "gate": ["ask", "release", "undecided"],
        "undecided": ["ask"],
        "ask": [],
        "release": [],
    }
    assert parsed["dags"]["approve"]["tasks"] == {"ask": ["carry_out"], "carry_out": []}
    assert parsed["dags"]["train"]["pools"] == {"fit": "train"}


def test_a_ready_drop_is_announced_again_until_it_is_gone() -> None:
    from plugins.drop_trigger import due_drops

    assert due_drops(["a", "b"], {}, now=0, refire=20) == ["a", "b"]
    assert due_drops(["a", "b"], {"a": 0.0}, now=5, refire=20) == ["b"]
    assert due_drops(["a", "b"], {"a": 0.0, "b": 5.0}, now=20, refire=20) == ["a"]


def test_the_trigger_survives_a_bucket_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from plugins import drop_trigger

    answers: list[Sequence[str] | Exception] = [
        OSError("away"),
        [],
        ["drops/a/"],
        ["drops/a/"],
        ["drops/a/", "drops/b/"],
    ]

    def find() -> tuple[Sequence[str], float]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, 0.001

    monkeypatch.setattr(drop_trigger, "finder", lambda: find)
    monkeypatch.setattr(asyncio, "sleep", _instantly(asyncio.sleep))

    async def first_two() -> list[object]:
        stream = drop_trigger.DropTrigger(refire=60).run()
        return [(await anext(stream)).payload["drops"] for _ in range(2)]

    assert asyncio.run(first_two()) == [["drops/a/"], ["drops/b/"]]


def test_the_trigger_can_be_stored_and_holds_no_secret() -> None:
    from plugins.drop_trigger import DropTrigger

    path, arguments = DropTrigger().serialize()
    assert path == "plugins.drop_trigger.DropTrigger"
    assert arguments == {"refire": 20.0}


@pytest.mark.parametrize("clicked", [False, True])
def test_an_approval_is_found_wherever_it_was_given(monkeypatch: pytest.MonkeyPatch, clicked: bool) -> None:
    """The database is away at first; an answer given elsewhere is shown in Airflow unless somebody clicked as well."""
    from airflow.sdk.execution_time import hitl

    from ml.catalog.approvals import Approval
    from plugins import approval_trigger

    answers: list[Approval | Exception | None] = [OSError("away"), None, Approval("ab12", False, "ann", "too dark")]
    request = Request(answered=False)

    def find_answer() -> Approval | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        request.answered = clicked and not answers
        return answer

    monkeypatch.setattr(approval_trigger, "answer_finder", lambda decision: {"ab12": find_answer}[decision])
    monkeypatch.setattr(hitl, "get_hitl_detail_content_detail", request.click)
    monkeypatch.setattr(hitl, "update_hitl_detail_response", request.answer)
    monkeypatch.setattr(asyncio, "sleep", _instantly(asyncio.sleep))
    trigger = approval_trigger.ApprovalTrigger(str(request.ti_id), "ab12")
    assert asyncio.run(_only_event(trigger.run())) == {"answered": True}
    assert request.answers == ([] if clicked else [(["Reject"], {"reason": "too dark (ann)"})])


def test_a_click_before_the_task_was_deferred_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.execution_time import hitl

    from plugins import approval_trigger

    request = Request(answered=True)
    monkeypatch.setattr(approval_trigger, "answer_finder", lambda _: lambda: None)
    monkeypatch.setattr(hitl, "get_hitl_detail_content_detail", request.click)
    monkeypatch.setattr(asyncio, "sleep", _instantly(asyncio.sleep))
    path, arguments = approval_trigger.ApprovalTrigger(str(request.ti_id), "ab12").serialize()
    assert path == "plugins.approval_trigger.ApprovalTrigger"
    event = asyncio.run(_only_event(approval_trigger.ApprovalTrigger(**arguments).run()))
    assert (event["chosen_options"], event["responded_by_user"]) == (["Approve"], {"id": "1", "name": "ann"})
    assert (event["params_input"], event["responded_at"]) == ({"reason": "fine"}, request.responded_at)


class Request:
    """A request in Airflow, as its API for triggers shows it."""

    def __init__(self, *, answered: bool) -> None:
        self.ti_id = uuid4()
        self.answered = answered
        self.responded_at = datetime.now(UTC)
        self.answers: list[tuple[list[str], dict[str, Any]]] = []

    def click(self, ti_id: UUID) -> Any:
        from airflow.sdk.api.datamodels._generated import HITLDetailResponse, HITLUser

        if ti_id != self.ti_id:
            raise LookupError(ti_id)
        if not self.answered:
            return HITLDetailResponse(response_received=False, responded_at=None, chosen_options=None)
        return HITLDetailResponse(
            response_received=True,
            responded_by_user=HITLUser(id="1", name="ann"),
            responded_at=self.responded_at,
            chosen_options=["Approve"],
            params_input={"reason": "fine"},
        )

    def answer(self, ti_id: UUID, chosen_options: list[str], params_input: dict[str, Any]) -> None:
        if ti_id != self.ti_id:
            raise LookupError(ti_id)
        self.answers.append((chosen_options, params_input))


async def _only_event(events: AsyncIterator[Any]) -> dict[str, Any]:
    (event,) = [event.payload async for event in events]
    return cast("dict[str, Any]", event)


def _instantly(sleep: Callable[[float], Awaitable[None]]) -> Callable[[float], Awaitable[None]]:
    async def instant(_seconds: float) -> None:
        await sleep(0)

    return instant
