"""Bundles: golden probes are images of the validation split, so they may show an erased one.

Which bundles do is found from the pixels while the image is still in the store. The probes that show it are cut
out: the bundle keeps its model and its other probes and gets another digest, in the registry and in the
deployments. The bundle that is live stays as it is until another one is: replicas verify it by its digest.
"""

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update

from ml.catalog.engine import transaction
from ml.catalog.tables import deployments
from ml.context import Context
from ml.datasets import loader, segments
from ml.erasure.content import Swept
from ml.errors import NotFoundError
from ml.imaging import images
from ml.imaging.images import Limits
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.models.registry import DIGEST_TAG
from ml.storage import tar_members

_PROBE_FILES: Final[tuple[str, ...]] = (bundle.PROBES, bundle.INT8_PROBES, bundle.BF16_PROBES)
_IN_USE: Final = ("trial", "rolling", "live")


def find(
    ctx: Context, models: Collection[int], segment_ids: Collection[str], hashes: Collection[str]
) -> dict[str, list[str]]:
    """Model version to the SHA-256 of the pixels of its probes that show an image of these segments.

    Raises:
        UnavailableError: a server does not answer.
    """
    hashes_by_bundle = dict[str, list[str]]()
    erased_by_shape = dict[tuple[int, int], set[str]]()
    for version in models:
        try:
            place = ctx.registry.bundle(version)
            info = bundle.parse(ctx.artifacts.get(f"{place.prefix}/{bundle.INFO}"))
            probes, _ = bundle.load_probes(ctx.artifacts.get(f"{place.prefix}/{bundle.PROBES}"))
        except NotFoundError:
            continue
        shape = info.image_size, info.channels
        if shape not in erased_by_shape:
            images_of_segments = _erased_images(ctx, segment_ids, hashes)
            erased_by_shape[shape] = {_decoded_hash(ctx, data, info) for data in images_of_segments}
        if shown := {_pixel_hash(probe) for probe in probes} & erased_by_shape[shape]:
            hashes_by_bundle[str(version)] = sorted(shown)
    return hashes_by_bundle


def sweep(ctx: Context, probes_by_version: Mapping[str, Collection[str]], *, remove: bool) -> Swept:
    """Cut the probes out of the bundles that `find` found."""
    swept = Swept()
    for version, pixels in probes_by_version.items():
        try:
            swept += _sweep_bundle(ctx, int(version), set(pixels), remove=remove)
        except NotFoundError:  # somebody deleted the model version
            continue
    return swept


def _sweep_bundle(ctx: Context, version: int, pixels: Collection[str], *, remove: bool) -> Swept:
    place = ctx.registry.bundle(version)
    raw = ctx.artifacts.get(f"{place.prefix}/{bundle.INFO}")
    info = bundle.parse(raw)
    stored = {name: ctx.artifacts.get(f"{place.prefix}/{name}") for name in _PROBE_FILES if name in info.files}
    cut = {name: _cut(data, pixels) for name, data in stored.items()}
    count = sum(removed for _, removed in cut.values())
    size = sum(len(stored[name]) for name, (_, removed) in cut.items() if removed)
    if not remove:
        return Swept(objects=sum(removed > 0 for _, removed in cut.values()), bytes=size)
    if count and _was_deleted(ctx, version) and not _is_in_use(ctx, place.prefix):
        ctx.artifacts.delete([f"{place.prefix}/{name}" for name, (_, removed) in cut.items() if removed])
        note = f"model version {version} was deleted in MLflow: the files of its probes were deleted too"
        return Swept(sum(removed > 0 for _, removed in cut.values()), size, notes=(note,))
    if count and (reason := _why_kept(ctx, version, place.prefix, cut)):
        return Swept(left=(reason,))
    # A run that was killed may have cut the files and not recorded it: what differs is recorded now.
    files = info.files | {name: bundle.digest(data) for name, (data, _) in cut.items()}
    new = info.model_copy(update={"files": files}).model_dump_json(indent=1).encode() if files != info.files else raw
    for name, (data, removed) in cut.items():
        if removed:
            ctx.artifacts.put(f"{place.prefix}/{name}", data)
    if new != raw:
        ctx.artifacts.put(f"{place.prefix}/{bundle.INFO}", new, "application/json")
    digest = bundle.digest(new)
    with transaction(ctx.engine) as connection:
        of_bundle = update(deployments).where(deployments.c.bundle_prefix == place.prefix)
        connection.execute(of_bundle.values(bundle_digest=digest))
    if digest != place.digest:
        ctx.registry.tag(version, {DIGEST_TAG: digest})
    note = f"model version {version}: {count} probes were cut out of its bundle, whose digest is {digest} now"
    return Swept(sum(r > 0 for _, r in cut.values()), size, notes=(note,) if count else ())


def _why_kept(ctx: Context, version: int, prefix: str, cut: Mapping[str, tuple[bytes, int]]) -> str | None:
    if any(not len(bundle.load_probes(data)[0]) for data, removed in cut.values() if removed):
        return f"every probe of model version {version} shows an erased image: delete the version in MLflow"
    if _is_in_use(ctx, prefix):
        return (
            f"probes of model version {version} show an erased image and the version is in use: "
            "they are cut out once another one is live"
        )
    return None


def _is_in_use(ctx: Context, prefix: str) -> bool:
    in_use = select(deployments.c.id).where(deployments.c.bundle_prefix == prefix, deployments.c.status.in_(_IN_USE))
    with transaction(ctx.engine) as connection:
        return connection.execute(in_use.limit(1)).first() is not None


def _was_deleted(ctx: Context, version: int) -> bool:
    try:
        ctx.registry.check_registered(version)
    except NotFoundError:
        return True
    return False


def _cut(data: bytes, pixels: Collection[str]) -> tuple[bytes, int]:
    """The file without the probes of these pixels, and how many these were."""
    probes, probabilities = bundle.load_probes(data)
    kept = np.asarray([_pixel_hash(probe) not in pixels for probe in probes], bool)
    if kept.all():
        return data, 0
    buffer = io.BytesIO()
    np.savez(buffer, images=probes[kept], probabilities=probabilities[kept])
    return buffer.getvalue(), int((~kept).sum())


def _erased_images(ctx: Context, segment_ids: Collection[str], hashes: Collection[str]) -> Iterator[bytes]:
    """The bytes of the erased validation images in these segments; of one that is deleted already, none."""
    for segment in segment_ids:
        try:
            rows: list[dict[str, Any]] = [
                row for row in loader.index(ctx, segment) if row["sha256"] in hashes and row["split"] == "validation"
            ]
            for row, member in segments.read_samples(ctx.store, segment, rows):
                yield bytes(member[tar_members.HEADER : tar_members.HEADER + row["size"]])
        except NotFoundError:
            continue


def _decoded_hash(ctx: Context, data: bytes, info: BundleInfo) -> str:
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    return _pixel_hash(images.decode(data, info.image_size, info.channels, limits))


def _pixel_hash(image: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
