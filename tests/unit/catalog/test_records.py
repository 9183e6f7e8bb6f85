"""Records of the catalog have the columns of their tables: each query builds them from whole rows."""

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
from sqlalchemy import Table

from ml.catalog import tables
from ml.catalog.deployments import DeploymentRecord, ReplicaRecord

RECORDS = [(DeploymentRecord, tables.deployments), (ReplicaRecord, tables.replicas)]


@pytest.mark.parametrize(("record", "table"), RECORDS, ids=lambda value: getattr(value, "__name__", None))
def test_fields_are_the_columns_in_their_order(record: type, table: Table) -> None:
    hints = get_type_hints(record)
    optional = [(field.name, type(None) in get_args(hints[field.name])) for field in fields(record)]
    assert optional == [(column.name, column.nullable) for column in table.columns]
