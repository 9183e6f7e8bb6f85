"""Model versions: which bundle each number means, from what data it was trained, and its number in MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, decisions, deployments, model_versions


@dataclass(frozen=True, slots=True)
class ModelVersionRecord:
    """A row of `model_versions`.

    Attributes:
        run_id: the MLflow run of the training; empty for a version that a person registered without one.
        registered_version: its number in MLflow when last seen there; None if it was lost.
        tags: strings by name, as in MLflow.
    """

    version: int
    run_id: str
    bundle_prefix: str
    bundle_digest: str
    registered_version: int | None
    tags: dict[str, str]


def get(engine: Engine, version: int) -> ModelVersionRecord | None:
    return _first(engine, model_versions.c.version == version)


def of_bundle(engine: Engine, prefix: str) -> ModelVersionRecord | None:
    """The version whose bundle has this prefix."""
    return _first(engine, model_versions.c.bundle_prefix == prefix)


def of_registered(engine: Engine, registered_version: int) -> ModelVersionRecord | None:
    """The newest version that had this number in MLflow."""
    return _first(engine, model_versions.c.registered_version == registered_version)


def find(engine: Engine, tags: Mapping[str, str]) -> list[ModelVersionRecord]:
    """The versions that have all these tags, newest first."""
    query = select(*_columns()).where(model_versions.c.tags.contains(dict(tags)))
    with transaction(engine) as connection:
        rows = connection.execute(query.order_by(model_versions.c.version.desc())).mappings()
        return [ModelVersionRecord(**row) for row in rows]


def add(engine: Engine, record: ModelVersionRecord, *, is_new: bool) -> ModelVersionRecord:
    """Insert a version; returned with its number, or the version that has the bundle already.

    Args:
        is_new: it was trained just now, so it gets a number above all that were ever used, whatever MLflow's is.
            Otherwise its number is kept unless another bundle has it.
    """
    with transaction(engine) as connection:
        connection.execute(text("lock table model_versions in share row exclusive mode"))
        same_bundle = select(*_columns()).where(model_versions.c.bundle_prefix == record.bundle_prefix)
        if (row := connection.execute(same_bundle).mappings().first()) is not None:
            return ModelVersionRecord(**row)
        version = _free_number(connection, record, is_new=is_new)
        values = {name: getattr(record, name) for name in record.__dataclass_fields__} | {"version": version}
        connection.execute(insert(model_versions).values(values))
        return ModelVersionRecord(**values)


def change(engine: Engine, version: int, **columns: Any) -> None:
    """Set columns of a version."""
    with transaction(engine) as connection:
        connection.execute(update(model_versions).where(model_versions.c.version == version).values(**columns))


def add_tags(engine: Engine, version: int, tags: Mapping[str, str]) -> None:
    """Set tags of a version; its others stay."""
    change(engine, version, tags=model_versions.c.tags.op("||")(literal(dict(tags), JSONB)))


def _free_number(connection: Connection, record: ModelVersionRecord, *, is_new: bool) -> int:
    used: list[int] = [
        connection.execute(select(func.coalesce(func.max(column), 0))).scalar_one()
        for column in (
            model_versions.c.version,
            deployments.c.model_version,
            decisions.c.model_version,
            cycles.c.model_version,
        )
    ]
    if is_new:
        return max(record.version, max(used) + 1)
    taken = select(model_versions.c.version).where(model_versions.c.version == record.version)
    # Of what was deployed by this number before there was the table, the newest counts.
    deployed = select(deployments.c.bundle_prefix).where(deployments.c.model_version == record.version)
    prefix = connection.execute(deployed.order_by(deployments.c.id.desc()).limit(1)).scalar()
    is_taken = connection.execute(taken).first() is not None or prefix not in (None, record.bundle_prefix)
    return max(used) + 1 if is_taken else record.version


def _first(engine: Engine, condition: Any) -> ModelVersionRecord | None:
    query = select(*_columns()).where(condition).order_by(model_versions.c.version.desc()).limit(1)
    with transaction(engine) as connection:
        row = connection.execute(query).mappings().first()
    return ModelVersionRecord(**row) if row else None


def _columns() -> list[Any]:
    return [model_versions.c[name] for name in ModelVersionRecord.__dataclass_fields__]
