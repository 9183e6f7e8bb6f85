"""Erasures: what was erased, as salted hashes, and what is left of each erasure to be done.

The list can be searched only by somebody who has the content (or its SHA-256) and the secret in Postgres:
HMAC-SHA-256 (RFC 2104) of the SHA-256 in hex.
"""

import hmac
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from sqlalchemy import ARRAY, Connection, Text, any_, bindparam, func, insert, select, update

from ml.catalog.tables import erased_content, erasure_secret, erasures

_PAGE: Final = 5000
_LOCK: Final = 0x65726173  # "eras"


@dataclass(frozen=True, slots=True)
class UnfinishedErasure:
    """An erasure that has not removed everything yet.

    Attributes:
        sizes: SHA-256 to the size of the encoded image in bytes, None where it is unknown.
        segments: ids of segments that held any of it.
        receipt: what was removed so far.
    """

    id: int
    sizes: dict[str, int | None]
    dataset_version: str | None
    segments: list[str]
    models: list[int]
    receipt: dict[str, Any]


def erased(connection: Connection, hashes: Collection[str]) -> set[str]:
    """Those of `hashes` (SHA-256 in hex) that were erased. Reads an index entry per hash, and none before the first."""
    present = select(erasure_secret.c.secret, select(erased_content.c.hmac).exists())
    secret, any_erased = connection.execute(present).one()
    if not any_erased or not hashes:
        return set()
    erased_hashes = set[str]()
    for page in pages(hashes):
        by_salted = {_salted(secret, digest): digest for digest in page}
        query = select(erased_content.c.hmac).where(erased_content.c.hmac == _any("salted"))
        erased_hashes |= {by_salted[s] for s in connection.execute(query, {"salted": list(by_salted)}).scalars()}
    return erased_hashes


def known_sizes(connection: Connection, hashes: Collection[str]) -> dict[str, int]:
    """Sizes in bytes that earlier erasures of the same content noted."""
    secret: bytes = connection.execute(select(erasure_secret.c.secret)).scalar_one()
    sizes = dict[str, int]()
    for page in pages(hashes):
        by_salted = {_salted(secret, digest): digest for digest in page}
        query = select(erased_content.c.hmac, erased_content.c.size).where(
            erased_content.c.hmac == _any("salted"), erased_content.c.size.is_not(None)
        )
        for salted, size in connection.execute(query, {"salted": list(by_salted)}):
            sizes[by_salted[salted]] = size
    return sizes


def register(connection: Connection, hashes: Collection[str], *, actor: str, reason: str) -> int:
    """Insert an erasure of `hashes`; from the commit on they are refused everywhere. Returns its id.

    Waits for transactions that hold `lock_out`, so that none of them commits rows that it checked before. Nothing
    else may follow in the transaction.
    """
    secret: bytes = connection.execute(select(erasure_secret.c.secret)).scalar_one()
    statement = insert(erasures).values(actor=actor, reason=reason).returning(erasures.c.id)
    erasure_id: int = connection.execute(statement).scalar_one()
    for page in pages(hashes):
        rows = [{"hmac": _salted(secret, d), "erasure_id": erasure_id, "sha256": d} for d in page]
        connection.execute(insert(erased_content), rows)
    # Last, so that it is held for moments.
    connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    return erasure_id


def lock_out(connection: Connection) -> None:
    """Let no erasure begin until this transaction ends: what `erased` says in it stays true until the commit."""
    connection.execute(select(func.pg_advisory_xact_lock_shared(_LOCK)))


def note_sizes(connection: Connection, erasure_id: int, sizes: Mapping[str, int]) -> None:
    """Store sizes of the erased images, in bytes."""
    statement = (
        update(erased_content)
        .where(erased_content.c.erasure_id == erasure_id, erased_content.c.sha256 == bindparam("digest"))
        .values(size=bindparam("bytes"))
    )
    for page in pages(sizes):
        connection.execute(statement, [{"digest": digest, "bytes": sizes[digest]} for digest in page])


def unfinished(connection: Connection) -> list[int]:
    """Ids of erasures that have not finished, oldest first."""
    query = select(erasures.c.id).where(erasures.c.finished_at.is_(None)).order_by(erasures.c.id)
    return list(connection.execute(query).scalars())


def read(connection: Connection, erasure_id: int) -> UnfinishedErasure:
    """An unfinished erasure with its hashes."""
    names = ("dataset_version", "segments", "models", "receipt")
    query = select(*(erasures.c[name] for name in names)).where(erasures.c.id == erasure_id)
    row = connection.execute(query).mappings().one()
    content = select(erased_content.c.sha256, erased_content.c.size).where(
        erased_content.c.erasure_id == erasure_id, erased_content.c.sha256.is_not(None)
    )
    return UnfinishedErasure(id=erasure_id, sizes=dict(connection.execute(content).all()), **row)


def same(connection: Connection, hashes: Collection[str]) -> int | None:
    """The id of an unfinished erasure of exactly this content, if there is one."""
    for erasure_id in unfinished(connection):
        count = select(func.count()).where(erased_content.c.erasure_id == erasure_id)
        if connection.execute(count).scalar_one() == len(hashes) and set(read(connection, erasure_id).sizes) == set(
            hashes
        ):
            return erasure_id
    return None


def record(connection: Connection, erasure_id: int, **columns: Any) -> None:
    """Update columns of an erasure."""
    connection.execute(update(erasures).where(erasures.c.id == erasure_id).values(**columns))


def record_removal(connection: Connection, erasure_id: int, removal: Mapping[str, Any]) -> None:
    """Add what was taken out of the data (`ml.erasure.samples.Removal`) to an erasure, whose earlier runs took some."""
    before = read(connection, erasure_id)
    receipt = dict(before.receipt)
    receipt["samples"] = receipt.get("samples", 0) + removal["samples"]
    for name in ("lost_versions", "learned"):
        receipt[name] = sorted({*receipt.get(name, ()), *removal[name]})
    segments = sorted({*before.segments, *removal["segments"]})
    record(connection, erasure_id, segments=segments, receipt=receipt)


def finish(connection: Connection, erasure_id: int) -> None:
    """Mark an erasure as finished: only the salted hashes remain."""
    record(connection, erasure_id, finished_at=func.now())
    forget = update(erased_content).where(erased_content.c.erasure_id == erasure_id).values(sha256=None)
    connection.execute(forget)


def newest(connection: Connection) -> int:
    """The id of the newest erasure, 0 before the first."""
    return connection.execute(select(func.max(erasures.c.id))).scalar() or 0


def pages(hashes: Collection[str]) -> Iterator[Sequence[str]]:
    """The hashes in order, in lists that one statement takes."""
    iterator = iter(sorted(hashes))
    while page := list(islice(iterator, _PAGE)):
        yield page


def _salted(secret: bytes, sha256: str) -> str:
    return hmac.digest(secret, sha256.encode(), "sha256").hex()


def _any(name: str) -> Any:
    return any_(bindparam(name, type_=ARRAY(Text)))
