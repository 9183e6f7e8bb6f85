"""What a drop says of samples: new annotations, the labels that change by them, the questions they raise."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, update

from ml.catalog.classes import class_map, renamed
from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets import labels
from ml.intake import judged
from ml.intake.judged import Judged


@dataclass(frozen=True)
class Told:
    """`relabels` maps SHA-256 of stored samples to their new label; the rest are rows to insert."""

    annotations: list[dict[str, Any]]
    relabels: dict[str, str]
    tasks: list[dict[str, Any]]
    settled: list[str]


def take(ctx: Context, drop_id: str, added: Set[str], parts: Judged) -> Told:
    """Compare what the drop says with what was said before.

    Args:
        drop_id: the drop.
        added: SHA-256 of the samples that it adds.
        parts: its rows; `good` ones with their `neighbours`.
    """
    fresh = [r for r in parts.good if r["sha256"] in added]
    said = [a for r in (*fresh, *parts.duplicates) for a in labels.from_row(r, drop_id)]
    hashes = sorted({r["sha256"] for r in parts.duplicates})
    now = judged.known_labels(ctx.engine, hashes) | {r["sha256"]: r["label"] for r in fresh}
    with transaction(ctx.engine) as connection:
        before, mapping = labels.annotations_of(connection, hashes), class_map(connection)
    for rows in before.values():
        for row in rows:  # said when the class still had its old name
            row["label"] = renamed(row["label"], mapping)
    new = labels.news((a for a in said if a["sha256"] in now), (a for rows in before.values() for a in rows))
    by_sample: dict[str, list[dict[str, Any]]] = {}
    for annotation in new:
        by_sample.setdefault(annotation["sha256"], []).append(annotation)
    relabels, tasks, settled = dict[str, str](), list[dict[str, Any]](), list[str]()
    for digest, given in by_sample.items():
        everything = [*before.get(digest, ()), *given]
        chosen = labels.current(everything, now[digest], ctx.settings)
        if digest not in added and chosen != now[digest]:
            relabels[digest] = chosen
        if votes := labels.disagreement(everything):
            tasks.append(_conflict(digest, chosen, votes))
        elif before.get(digest):
            settled.append(digest)
    return Told(new, relabels, [*tasks, *(t for r in fresh if (t := _near_conflict(r)))], settled)


def keep(connection: Connection, told: Told) -> None:
    """Write it all within the caller's transaction."""
    labels.record(connection, told.annotations)
    if told.relabels:
        statement = update(samples).where(samples.c.sha256 == bindparam("digest")).values(label=bindparam("new"))
        connection.execute(statement, [{"digest": d, "new": new} for d, new in told.relabels.items()])
    labels.close_tasks(connection, told.settled)
    labels.open_tasks(connection, told.tasks)


def _conflict(digest: str, chosen: str, votes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "sha256": digest,
        "reason": labels.CONFLICT,
        "score": 1 - votes.get(chosen, 0) / sum(votes.values()),
        "label": chosen,
        "suggested": max(votes, key=lambda label: (votes[label], label)),
        "details": {"votes": dict(votes)},
    }


def _near_conflict(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Pictures that look alike and bear different labels: one of the two is probably wrong."""
    other = next((n for n in row["neighbours"] if n.label != row["label"]), None)
    if other is None:
        return None
    return {
        "sha256": row["sha256"],
        "reason": labels.NEAR_CONFLICT,
        "score": 0.5,
        "label": row["label"],
        "suggested": other.label,
        "details": {"looks_like": other.name},
    }
