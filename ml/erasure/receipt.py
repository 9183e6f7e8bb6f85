"""The receipt of an erasure: what was removed where, what it means for models and versions, and what is left."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from ml.catalog import erasures
from ml.catalog.engine import transaction
from ml.context import Context
from ml.erasure.content import Swept
from ml.errors import UnavailableError


@dataclass(frozen=True)
class Receipt:
    """The result of an erasure so far.

    Attributes:
        id: of the erasure.
        images: how many were asked for.
        samples: how many of them were in the data.
        version: the dataset version without them; None if no version had them.
        models: registry versions trained or validated on any of them.
        lost_versions: dataset versions that can no longer be rebuilt.
        stores: by store, the objects deleted or rewritten, their bytes, and rows. At least: what a process that was
            killed had removed and not written down yet is missing.
        notes: what a person should know.
        left: what could not be done, and why; empty when the erasure has finished and a scan found nothing.
    """

    id: int
    images: int
    samples: int
    version: str | None
    models: list[int]
    lost_versions: list[str]
    stores: dict[str, dict[str, int]]
    notes: list[str]
    left: list[str]

    @property
    def objects(self) -> int:
        return sum(store["objects"] for store in self.stores.values())


def key(erasure_id: int) -> str:
    return f"erasures/{erasure_id}.json"


def save(ctx: Context, erasure_id: int, swept: Mapping[str, Swept]) -> Receipt:
    """Add what was swept to the erasure's receipt, store it in Postgres and the bucket; finish it if nothing is left.

    Raises:
        UnavailableError: Postgres does not answer.
    """
    with transaction(ctx.engine) as connection:
        erasure = erasures.read(connection, erasure_id)
        body = erasure.receipt | {
            "stores": _added(erasure.receipt.get("stores", {}), swept),
            "notes": sorted({*erasure.receipt.get("notes", ()), *(n for s in swept.values() for n in s.notes)}),
            "left": [sentence for result in swept.values() for sentence in result.left],
        }
        receipt = Receipt(
            id=erasure_id,
            images=len(erasure.sizes),
            samples=body.get("samples", 0),
            version=erasure.dataset_version,
            models=erasure.models,
            lost_versions=body.get("lost_versions", []),
            **{name: body[name] for name in ("stores", "notes", "left")},
        )
        erasures.record(connection, erasure_id, receipt=body)
    try:
        ctx.store.put(key(erasure_id), orjson.dumps(asdict(receipt), option=orjson.OPT_INDENT_2), "application/json")
    except UnavailableError as error:
        receipt.left.append(f"the receipt: {error}")
    if not receipt.left:
        with transaction(ctx.engine) as connection:
            erasures.finish(connection, erasure_id)
    return receipt


def _added(before: dict[str, dict[str, int]], swept: Mapping[str, Swept]) -> dict[str, dict[str, Any]]:
    total = {name: dict(counts) for name, counts in before.items()}
    for name, result in swept.items():
        counts = total.setdefault(name, {"objects": 0, "bytes": 0, "rows": 0})
        for figure in counts:
            counts[figure] += getattr(result, figure)
    return total
