"""Erases images from every store, and proves it by a scan.

The content is registered first, so that it is refused everywhere from then on. Every later step can be repeated:
an erasure that was interrupted, or that could not reach a store, is finished by the next one or by `maintain`.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Final

from ml.catalog import erasures
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.erasures import UnfinishedErasure
from ml.context import Context
from ml.erasure import answers, bundles, hosts, quarantined, runs, samples, staged, uploads
from ml.erasure import receipt as receipts
from ml.erasure.content import Content, Swept
from ml.erasure.receipt import Receipt
from ml.erasure.selection import Selection, resolve
from ml.errors import NotFoundError, UnavailableError

log = logging.getLogger(__name__)

_LOCK: Final = "erasures"
Sweep = Callable[..., Swept]
SWEEPS: Final[dict[str, Sweep]] = {
    "uploads": uploads.sweep,
    "quarantine": quarantined.sweep,
    "staging tars": staged.sweep,
    "prediction log": answers.sweep,
    "MLflow runs": runs.sweep,
}
"""The stores that are searched by hash alone."""


def erase(ctx: Context, selection: Selection, *, actor: str, reason: str) -> Receipt:
    """Remove the selected images from every store, and finish earlier erasures that have not.

    What is erased is refused when it comes again. The same selection again is harmless: every store is searched anew.
    One erasure runs at a time.

    Returns:
        What was removed where, and what is left to do.

    Raises:
        NotFoundError: nothing is known by the name of the drop, subject or answer.
        UnavailableError: Postgres does not answer. A bucket or MLflow that does not is named in the receipt.
    """
    with advisory_lock(ctx.engine, _LOCK):
        try:
            with advisory_lock(ctx.engine, "datasets"):
                hashes = resolve(ctx, selection)
                with transaction(ctx.engine) as connection:
                    erasure_id = erasures.same(connection, hashes)
                    if erasure_id is None:
                        erasure_id = erasures.register(connection, hashes, actor=actor, reason=reason)
        except NotFoundError:
            _finish_others(ctx, None)
            raise
        receipt = _complete(ctx, erasure_id)
        _finish_others(ctx, erasure_id)
    return receipt


def finish(ctx: Context) -> int:
    """Go on with the erasures that have not finished; returns how many still have not."""
    with advisory_lock(ctx.engine, _LOCK):
        return _finish_others(ctx, None)


def scan(ctx: Context, selection: Selection) -> dict[str, Swept]:
    """Search every store for the images without removing anything; what was found, by store.

    Objects are told by content: those of the size of an image are read. The size is known of what was erased and of
    what the data hold; for anything else every object below the drops and in quarantine is read.

    Raises:
        UnavailableError: a store does not answer: then nothing is proven.
    """
    hashes = resolve(ctx, selection)
    data, sizes = samples.scan(ctx, hashes), samples.sizes(ctx, hashes) | _sizes(ctx, hashes)
    return {"data": data} | _scan_by_hash(ctx, _content(dict.fromkeys(hashes) | sizes))


def _finish_others(ctx: Context, except_id: int | None) -> int:
    with transaction(ctx.engine) as connection:
        ids = [i for i in erasures.unfinished(connection) if i != except_id]
    return sum(bool(_complete(ctx, erasure_id).left) for erasure_id in ids)


def _complete(ctx: Context, erasure_id: int) -> Receipt:
    """Take every step that is left; the receipt says what could not be done."""
    swept = dict[str, Swept]()
    _attempt(swept, "data", lambda: _sweep_data(ctx, erasure_id))
    erasure = _read(ctx, erasure_id)
    content = _content(erasure.sizes)
    for name, sweep in SWEEPS.items():
        _attempt(swept, name, partial(sweep, ctx, content, remove=True))
    _attempt(swept, "bundles", lambda: bundles.sweep(ctx, erasure.receipt.get("probes", {}), remove=True))
    _attempt(swept, "this host's cache", lambda: hosts.sweep_cache(ctx))
    _attempt(swept, "spools", lambda: hosts.unconfirmed(ctx, erasure_id))
    if not any(result.left for result in swept.values()):
        _attempt(swept, "scan", lambda: _verify(ctx, content))
    receipt = receipts.save(ctx, erasure_id, swept)
    log.info("erasure %d: %s", erasure_id, "; ".join(receipt.left) or "finished")
    return receipt


def _sweep_data(ctx: Context, erasure_id: int) -> Swept:
    """Rewrite the segments, find out who learned from the images, and delete the old segments."""
    hashes = set(_read(ctx, erasure_id).sizes)
    with advisory_lock(ctx.engine, "datasets"):
        removal = samples.take_out(ctx, erasure_id, hashes)
        with transaction(ctx.engine) as connection:
            if removal.version is not None:
                erasures.record(connection, erasure_id, dataset_version=removal.version)
            erasures.note_sizes(connection, erasure_id, _sizes(ctx, hashes - removal.sizes.keys()))
    erasure = _read(ctx, erasure_id)
    models = samples.models_of(ctx, erasure.receipt.get("learned", ()))
    probes = bundles.find(ctx, models, erasure.segments, hashes)
    receipt = erasure.receipt | {"probes": erasure.receipt.get("probes", {}) | probes}
    with transaction(ctx.engine) as connection:
        erasures.record(connection, erasure_id, models=sorted({*erasure.models, *models}), receipt=receipt)
    # Last: their bytes are what the probes are compared with.
    return replace(samples.delete_segments(ctx, erasure.segments), rows=removal.samples)


def _verify(ctx: Context, content: Content) -> Swept:
    swept = {"data": samples.scan(ctx, content.hashes)} | _scan_by_hash(ctx, content)
    return Swept(
        left=tuple(
            f"the scan found {result.objects} objects and {result.rows} rows in: {name}"
            for name, result in swept.items()
            if result.objects or result.rows
        )
    )


def _scan_by_hash(ctx: Context, content: Content) -> dict[str, Swept]:
    return {name: sweep(ctx, content, remove=False) for name, sweep in SWEEPS.items()}


def _sizes(ctx: Context, hashes: Collection[str]) -> dict[str, int]:
    """Sizes in bytes of images that an earlier erasure, the quarantine or the prediction log knows."""
    with transaction(ctx.engine) as connection:
        known = erasures.known_sizes(connection, hashes)
    return known | quarantined.sizes(ctx, hashes) | answers.sizes(ctx, hashes)


def _attempt(swept: dict[str, Swept], name: str, step: Callable[[], Swept]) -> None:
    try:
        swept[name] = step()
    except UnavailableError as error:
        swept[name] = Swept(left=(f"{name}: {error}",))


def _content(sizes: dict[str, int | None]) -> Content:
    known = {size for size in sizes.values() if size is not None}
    return Content(frozenset(sizes), frozenset(known) if all(size is not None for size in sizes.values()) else None)


def _read(ctx: Context, erasure_id: int) -> UnfinishedErasure:
    with transaction(ctx.engine) as connection:
        return erasures.read(connection, erasure_id)
