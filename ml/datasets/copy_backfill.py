"""Makes the thumbnails and signatures of samples that were stored before there were any."""

import base64
import logging
from typing import Any, Final

import numpy as np
from sqlalchemy import bindparam, select, update

from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets import loader, segments
from ml.imaging import copy_signature
from ml.imaging.copy_signature import SIDE
from ml.imaging.images import Limits
from ml.imaging.sandbox import DecoderPool
from ml.storage import tar_members

log = logging.getLogger(__name__)

_PAGE: Final = 256  # images that memory holds, and that a killed process does again
_BATCH: Final = 64


def fill(ctx: Context, most: int | None = None) -> int:
    """Return how many samples got a thumbnail; `most`: about how many at the most, None: all that lack one.

    Each page is committed, so a killed process loses one page. An image that cannot be decoded any more gets an
    empty thumbnail, so that it is not tried again.

    Raises:
        UnavailableError: a server does not answer.
    """
    done = 0
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    missing = samples.c.thumbnail.is_(None)
    with DecoderPool(limits) as decoders:
        while most is None or done < most:
            with transaction(ctx.engine) as connection:
                query = select(samples.c.segment_id).where(missing).limit(1)
                segment = connection.execute(query).scalar()
                if segment is None:
                    break
                query = select(samples.c.sha256).where(missing, samples.c.segment_id == segment)
                wanted = set(connection.execute(query).scalars())
            rows = [row for row in loader.index(ctx, segment) if row["sha256"] in wanted]
            for start in range(0, len(rows), _PAGE):
                _fill_page(ctx, decoders, segment, rows[start : start + _PAGE])
            done += len(rows)
            _give_up(ctx, segment, wanted - {row["sha256"] for row in rows})
    if done:
        log.info("made the thumbnails of %d samples", done)
    return done


def _fill_page(ctx: Context, decoders: DecoderPool, segment: str, rows: list[dict[str, Any]]) -> None:
    members = segments.read_samples(ctx.store, segment, rows)
    images = [bytes(member[tar_members.HEADER : tar_members.HEADER + row["size"]]) for row, member in members]
    batches = [decoders.submit(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    results = [result for batch in batches for result in batch.result()]
    values = []
    for row, result in zip(rows, results, strict=True):
        pixels = base64.b64decode(result.get("thumbnail", ""))
        signature = None
        if pixels and min(row["width"], row["height"]) >= SIDE:
            (found,) = copy_signature.signatures(np.frombuffer(pixels, np.uint8).reshape(1, SIDE, SIDE))
            signature = int(found) if found >= 0 else None
        values.append({"digest": row["sha256"], "pixels": pixels, "signature": signature})
    statement = update(samples).where(samples.c.sha256 == bindparam("digest"))
    with transaction(ctx.engine) as connection:
        connection.execute(
            statement.values(thumbnail=bindparam("pixels"), copy_signature=bindparam("signature")), values
        )


def _give_up(ctx: Context, segment: str, hashes: set[str]) -> None:
    """Samples that their segment does not hold, which is damaged; those that were moved meanwhile get their turn."""
    if hashes:
        lacking = (samples.c.sha256.in_(hashes), samples.c.segment_id == segment, samples.c.thumbnail.is_(None))
        with transaction(ctx.engine) as connection:
            count = connection.execute(update(samples).where(*lacking).values(thumbnail=b"")).rowcount
        log.warning("segment %s lacks %d of its samples: they get no thumbnail", segment, count)
