"""What classes are called now: renames and merges, in the order in which they were made."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, select

from ml.catalog.tables import class_operations


def class_map(connection: Connection) -> dict[str, str]:
    """Every retired class name, to what it is called now."""
    table = class_operations
    query = select(table.c.classes_before, table.c.classes_after).where(table.c.kind.in_(("rename", "merge")))
    rows = connection.execute(query.order_by(table.c.id))
    return composed((before, after[0]) for before, after in rows)


def composed(steps: Iterable[tuple[Sequence[str], str]]) -> dict[str, str]:
    """One map for several steps, each of which gives several classes one name."""
    made: dict[str, str] = {}
    for before, after in steps:
        made = {old: after if new in before else new for old, new in made.items()}
        made |= dict.fromkeys(before, after)
        made.pop(after, None)  # a name that is in use again means itself
    return made


def renamed(label: str | None, mapping: Mapping[str, str]) -> str | None:
    return None if label is None else mapping.get(label, label)
