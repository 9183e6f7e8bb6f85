"""Keeps erased images out of the prediction log: in what is uploaded, and in the spools of this host."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import orjson
from sqlalchemy import Connection, Engine

from ml.catalog import erasures
from ml.catalog.engine import transaction
from ml.storage import tar_members
from serving.prediction_log import spool
from serving.prediction_log.spool import MemberRange, Spool, SpoolRecord

log = logging.getLogger(__name__)

_NO_ERASURE: Final = 0


def members(records: Sequence[SpoolRecord]) -> dict[MemberRange, str]:
    """Place of each image of a pair to its SHA-256."""
    return {r.member: orjson.loads(r.row)["image_sha256"] for r in records if r.member and r.kind == "prediction"}


def find(connection: Connection, digests: Collection[str]) -> set[str]:
    """Those of the images that were erased."""
    return erasures.erased(connection, set(digests))


class SpoolCleaner:
    """Overwrites erased images in the spool files of this host.

    While everything answers, a pair is stored and deleted within seconds anyway; this is for the time when the bucket
    is away, and for folders of dead workers. Used by the uploader's thread.

    Attributes:
        confirmed: the newest erasure that this worker's files are free of; the heartbeat tells the catalog.
    """

    def __init__(self, spool_: Spool, engine: Engine) -> None:
        self._spool, self._engine = spool_, engine
        self.confirmed = _NO_ERASURE

    def clean(self) -> None:
        """Clean what was written before the newest erasure; nothing to do if there was none since the last call.

        Raises:
            UnavailableError: Postgres does not answer.
        """
        with transaction(self._engine) as connection:
            newest = erasures.newest(connection)
        if newest == self.confirmed:
            return
        self._spool.rotate()
        count = sum(self._clean(path) for path in spool.rows_files(self._spool.folder))
        for folder in spool.other_folders(self._spool.folder.parent, self._spool.folder):
            with spool.adopt(folder) as files:
                count += sum(self._clean(path) for path in files or ())
        if count:
            log.info("overwrote %d erased images in the spool", count)
        self.confirmed = newest

    def _clean(self, path: Path) -> int:
        """Overwrite the erased images of a pair; returns their number."""
        try:
            digest_by_member = members(spool.decode(path.read_bytes()).records)
        except FileNotFoundError:
            return 0
        with transaction(self._engine) as connection:
            erased = find(connection, digest_by_member.values())
        places = [member for member, digest in digest_by_member.items() if digest in erased]
        return overwrite(path.with_suffix(spool.SUFFIX), places)


def overwrite(path: Path, places: Sequence[MemberRange]) -> int:
    """Overwrite members of a tar on disk; returns their number, 0 if the images were dropped meanwhile."""
    if not places:
        return 0
    try:
        data = bytearray(path.read_bytes())
    except FileNotFoundError:
        return 0
    blank(data, places)
    with path.open("r+b") as file:
        file.write(data)
    return len(places)


def blank(tar: bytearray, places: Sequence[MemberRange]) -> None:
    """Overwrite the members that are complete in the tar: a crash of the machine may have cut it off."""
    for member in places:
        if member.offset + member.size <= len(tar):
            tar_members.blank(tar, member.offset, member.size)
