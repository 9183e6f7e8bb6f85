"""Records of the catalog: their fields are the columns of their tables, and they print as the rows did."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_type_hints

import orjson
import pytest
from sqlalchemy import Table

from ml.catalog import tables
from ml.catalog.api_keys import ApiKeyRecord
from ml.catalog.cycles import CycleRecord
from ml.catalog.decisions import DecisionHistoryRecord
from ml.catalog.deployments import DeploymentHistoryRecord, DeploymentRecord, ReplicaRecord
from ml.catalog.drops import DropRecord
from ml.catalog.label_changes import LabelChangeRecord
from ml.catalog.label_queue import LabelTaskRecord
from ml.catalog.validations import ValidationRecord
from ml.cli import output
from ml.datasets.classes import OperationRecord
from ml.intake.quarantine_store import QuarantineRecord

RECORDS = [
    (CycleRecord, tables.cycles),
    (DeploymentRecord, tables.deployments),
    (DropRecord, tables.drops),
    (LabelChangeRecord, tables.label_changes),
    (LabelTaskRecord, tables.label_tasks),
    (OperationRecord, tables.class_operations),
    (ReplicaRecord, tables.replicas),
    (ValidationRecord, tables.validations),
]
NOW = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)


@pytest.mark.parametrize(("record", "table"), RECORDS, ids=lambda value: getattr(value, "__name__", None))
def test_fields_are_the_columns_in_their_order(record: type, table: Table) -> None:
    hints = get_type_hints(record)
    optional = [(field.name, type(None) in get_args(hints[field.name])) for field in fields(record)]
    assert optional == [(column.name, column.nullable) for column in table.columns]


DEPLOYMENT: dict[str, Any] = {
    "id": 3,
    "model_version": 2,
    "previous_version": 1,
    "decision_id": "d2",
    "bundle_prefix": "models/2",
    "bundle_digest": "0" * 64,
    "strategy": "canary",
    "share": 0.1,
    "status": "trial",
    "reason": None,
    "findings": {"answers": 7},
    "created_at": NOW,
    "trial_at": NOW,
    "finished_at": None,
    "actor": "gate",
    "verdict": "promote",
    "decision_reason": "it is better",
    "served_from": None,
    "served_until": None,
}
DECISION = {
    "id": "d2",
    "model_version": 2,
    "champion_version": None,
    "dataset_version": "v1",
    "verdict": "needs_person",
    "reason": "unclear on class 1",
    "actor": "gate",
    "statistics": {"holdout": 40},
    "report_key": None,
    "created_at": NOW,
    "approval_approved": True,
    "approval_actor": "ann",
    "approval_reason": "looked",
}
QUARANTINED: dict[str, Any] = {
    "id": 7,
    "drop_id": "d",
    "key": "a/1.png",
    "label": "a",
    "sha256": None,
    "reasons": ["not an image"],
    "object_key": None,
    "status": "held",
    "actor": None,
    "note": None,
    "released_to": None,
    "ended_at": None,
    "created_at": NOW,
    "prefix": "drops/one/",
}
KEY = {
    "id": "0123456789ab",
    "name": "ann",
    "roles": ["predict"],
    "per_second": 5.0,
    "burst": 10,
    "created_by": "bob",
    "created_at": NOW,
    "changed_at": NOW,
    "expires_at": None,
    "revoked_at": None,
    "used_at": None,
    "identity": "0123456789ab",
}


@pytest.mark.parametrize(
    ("record", "row"),
    [
        (DeploymentHistoryRecord(**DEPLOYMENT), DEPLOYMENT),
        (DecisionHistoryRecord.from_row(DECISION), DECISION),
        (QuarantineRecord(**QUARANTINED), QUARANTINED),
        (ApiKeyRecord.from_row(KEY, NOW), KEY | {"state": "good"}),
    ],
    ids=["deployment", "decision", "quarantine", "key"],
)
def test_a_command_prints_a_record_as_json_with_the_keys_in_the_order_of_the_columns(
    record: object, row: dict[str, object], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    output.emit([record], as_json=True)
    assert capsysbinary.readouterr().out == orjson.dumps([row], option=orjson.OPT_INDENT_2) + b"\n"


@pytest.mark.parametrize(
    ("expires_in", "revoked", "state"),
    [(None, False, "good"), (1, False, "good"), (0, False, "expired"), (-1, False, "expired"), (-1, True, "revoked")],
)
def test_the_state_of_a_key(expires_in: int | None, revoked: bool, state: str) -> None:
    expires_at = None if expires_in is None else NOW + timedelta(seconds=expires_in)
    row = KEY | {"expires_at": expires_at, "revoked_at": NOW if revoked else None}
    assert ApiKeyRecord.from_row(row, NOW).state == state
