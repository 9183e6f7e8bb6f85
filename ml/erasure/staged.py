"""Staging tars: images of drops between inspection and acceptance, and their thumbnails."""

import tarfile

from ml.context import Context
from ml.erasure.content import Content, Swept
from ml.errors import NotFoundError
from ml.intake import source, thumbnails
from ml.storage import tar_members
from ml.storage.object_store import ObjectInfo


def sweep(ctx: Context, content: Content, *, remove: bool) -> Swept:
    """Overwrite the images in the tars, and take out their thumbnails.

    Acceptance refuses the rows of these images, so nothing reads the blank places. Lists `drops/` and reads the tars
    there: those of drops that are not finished.
    """
    swept = Swept()
    for info in ctx.store.list("drops/"):
        if "/packs/" in info.key:
            try:
                of_kind = _sweep_thumbnails if info.key.endswith(thumbnails.SUFFIX) else _sweep_tar
                swept += of_kind(ctx, info, content, remove=remove)
            except NotFoundError:  # its drop was accepted meanwhile; the data are swept under the same lock
                continue
    return swept


def _sweep_tar(ctx: Context, info: ObjectInfo, content: Content, *, remove: bool) -> Swept:
    with source.open_object(ctx.store, "", info) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        places = [(m.offset_data, m.size) for m in tar if m.name.partition(".")[0] in content.hashes]
    if places and remove:
        data = bytearray(ctx.store.get(info.key))
        for offset, size in places:
            tar_members.blank(data, offset, size)
        ctx.store.put(info.key, bytes(data), "application/x-tar")
    return Swept(1 if places else 0, sum(size for _, size in places))


def _sweep_thumbnails(ctx: Context, info: ObjectInfo, content: Content, *, remove: bool) -> Swept:
    remaining, count = thumbnails.without(ctx.store.get(info.key), content.hashes)
    if count and remove:
        ctx.store.put(info.key, remaining)
    return Swept(1 if count else 0, count * thumbnails.BYTES)
