"""Uploads: files of drops in the labels bucket, the loop's own drops included, and archives that hold the images."""

from collections.abc import Iterator
from functools import partial
from typing import Final

from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.markers import READY
from ml.catalog.tables import drops
from ml.context import Context
from ml.erasure.content import Content, Swept, matching
from ml.errors import InvalidInputError, NotFoundError
from ml.intake import archives, source
from ml.storage.object_store import ObjectInfo

_FINISHED: Final = ("accepted", "rejected")


def sweep(ctx: Context, content: Content, *, remove: bool) -> Swept:
    """Delete every copy below the drops' prefix; an archive as a whole, once its drop is finished.

    Lists all objects, reads those of the images' sizes and the tables of contents of archives.
    """
    swept, found_archives = Swept(), list[ObjectInfo]()

    def plain() -> Iterator[ObjectInfo]:
        for info in ctx.labels.list(ctx.settings.drops_prefix):
            if archives.is_archive(info.key.rpartition("/")[2]):
                found_archives.append(info)
            yield info

    for info in matching(ctx.labels, plain(), content):
        swept += Swept(objects=1, bytes=info.size)
        if remove:
            ctx.labels.delete([info.key])
    for archive in found_archives:
        swept += _sweep_archive(ctx, archive, content, remove=remove)
    return swept


def _sweep_archive(ctx: Context, archive: ObjectInfo, content: Content, *, remove: bool) -> Swept:
    try:
        if not _holds(ctx, archive, content):
            return Swept()
    except InvalidInputError as error:
        return Swept(notes=(f"the upload `{archive.key}` could not be searched: {error}",))
    if remove and not _is_finished(ctx, archive.key):
        reason = f"the upload `{archive.key}` holds an erased image beside others of a drop that is not finished"
        return Swept(left=(f"{reason}; it is deleted once the drop was accepted or rejected",))
    if remove:
        ctx.labels.delete([archive.key])
    return Swept(objects=1, bytes=archive.size)


def _holds(ctx: Context, archive: ObjectInfo, content: Content) -> bool:
    members = archives.members(archive, partial(source.open_object, ctx.labels, ""))
    for member in members:
        if member.problem is None and content.may_have(member.size):
            try:
                span = ctx.labels.get(archive.key, member.offset, member.span)
                if content.has(source.member(span, archive.key, member.size)):
                    return True
            except (InvalidInputError, NotFoundError):
                continue
    return False


def _is_finished(ctx: Context, key: str) -> bool:
    """Whether the drop of this object was ingested: every good image of its archives is in the data."""
    name, slash, _ = key.removeprefix(ctx.settings.drops_prefix).partition("/")
    prefix = f"{ctx.settings.drops_prefix}{name}/"
    if not slash or ctx.labels.exists(prefix + READY):
        return False
    with transaction(ctx.engine) as connection:
        statuses = connection.execute(select(drops.c.status).where(drops.c.prefix == prefix)).scalars().all()
    return bool(statuses) and all(status in _FINISHED for status in statuses)
