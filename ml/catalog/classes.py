"""Maps retired class names to current ones, from the recorded renames and merges."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, select

from ml.catalog.tables import class_operations


def class_map(connection: Connection) -> dict[str, str]:
    """Every retired class name to its current name."""
    table = class_operations
    query = select(table.c.classes_before, table.c.classes_after).where(table.c.kind.in_(("rename", "merge")))
    rows = connection.execute(query.order_by(table.c.id))
    return compose_renames((before, after[0]) for before, after in rows)


def compose_renames(renames: Iterable[tuple[Sequence[str], str]]) -> dict[str, str]:
    """Compose successive renames, each of several classes to one name, into one map."""
    mapping: dict[str, str] = {}
    for before, after in renames:
        mapping = {old: after if new in before else new for old, new in mapping.items()}
        mapping |= dict.fromkeys(before, after)
        mapping.pop(after, None)  # a name in use again maps to itself
    return mapping


def renamed(label: str | None, mapping: Mapping[str, str]) -> str | None:
    return None if label is None else mapping.get(label, label)
