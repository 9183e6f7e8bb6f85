"""Classes that feedback proposes: none of them is a class before a person confirms it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import class_names, existing_samples, feedback
from ml.catalog.engine import transaction
from ml.catalog.tables import class_proposals
from ml.catalog.tables import feedback as feedback_table
from ml.errors import ConflictError, InvalidInputError

Decision = Literal["confirmed", "declined"]


@dataclass(frozen=True)
class ProposedClass:
    """A name that feedback uses and that is no class.

    Attributes:
        callers: keys that use it; persons: end users that they named; images: of which it was said.
        near: proposed names that differ from it only by case, spacing or punctuation.
    """

    name: str
    callers: int
    persons: int
    images: int
    near: list[str]
    first_at: datetime


def pending(engine: Engine, most: int = 200) -> list[ProposedClass]:
    """The names that nobody decided, those of most callers first."""
    table = feedback_table.c
    with transaction(engine) as connection:
        decided = select(class_proposals.c.name)
        query = (
            select(
                table.label,
                func.count(table.key_id.distinct()).label("callers"),
                func.count(func.concat(table.key_id, "/", table.source).distinct()).label("persons"),
                func.count(table.image_sha256.distinct()).label("images"),
                func.min(table.given_at).label("first_at"),
            )
            .where(table.status == "stored", table.revoked_at.is_(None), table.label.not_in(decided))
            .where(table.label.not_in(feedback.known_labels(connection)))
            .where(table.key_id.not_in(feedback.excluded_callers(connection)))
            .group_by(table.label)
        )
        query = query.order_by(func.count(table.key_id.distinct()).desc(), table.label).limit(most)
        rows = connection.execute(query).all()
    names = [row.label for row in rows]
    return [
        ProposedClass(row.label, row.callers, row.persons, row.images, class_names.near(row.label, names), row.first_at)
        for row in rows
    ]


def decide(engine: Engine, name: str, decision: Decision, *, actor: str, reason: str) -> str:
    """Confirm that a name is a class, or say that it is none; returns the name as it is stored.

    A confirmed name is a class from the first sample on that has it: what was said with it is collected from now on.
    The last decision counts.

    Raises:
        InvalidInputError: the name is not allowed.
        ConflictError: it is a class already.
    """
    name = class_names.normalised(name.strip())
    if problem := class_names.problem(name):
        raise InvalidInputError(problem)
    with transaction(engine) as connection:
        if name in existing_samples.classes(connection):
            raise ConflictError(f"`{name}` is a class already")
        statement = insert(class_proposals).values(name=name, status=decision, actor=actor, reason=reason)
        new = statement.excluded
        changes = {"status": new.status, "actor": new.actor, "reason": new.reason, "decided_at": func.now()}
        connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changes))
        _ask_again(connection, name)
    return name


def _ask_again(connection: Connection, name: str) -> None:
    """Have the review queue told anew of the images that were said to be of this class."""
    connection.execute(update(feedback_table).where(feedback_table.c.label == name).values(queued=False))
