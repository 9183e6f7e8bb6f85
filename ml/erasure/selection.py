"""What to erase: by hash, drop, subject, or the answer that was given on it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, select

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, predictions, quarantine, samples
from ml.context import Context
from ml.errors import InvalidInputError, NotFoundError
from ml.intake import row_verdicts

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Selection:
    """Images to erase; one of the attributes is set.

    Attributes:
        hashes: SHA-256 of encoded images, wherever they are.
        drop: every image that drops at this prefix added to the data or left in quarantine.
        subject: every such image of this subject (column `subject` of a drop's table).
        prediction: the image of this answer.
    """

    hashes: tuple[str, ...] = ()
    drop: str | None = None
    subject: str | None = None
    prediction: UUID | None = None


def of_hashes(hashes: Sequence[str]) -> Selection:
    """Raises InvalidInputError for what is no SHA-256 in hex."""
    lower = tuple(digest.strip().lower() for digest in hashes)
    if wrong := [digest for digest in lower if not _SHA256.fullmatch(digest)]:
        raise InvalidInputError(f"`{wrong[0][:80]}` is no SHA-256: 64 hexadecimal digits, as `sha256sum FILE` prints")
    return Selection(hashes=lower)


def of_drop(prefix: str) -> Selection:
    return Selection(drop=f"{prefix.rstrip('/')}/")


def of_subject(subject: str) -> Selection:
    return Selection(subject=subject)


def of_prediction(identifier: str) -> Selection:
    """Raises InvalidInputError for what is no id."""
    try:
        return Selection(prediction=UUID(identifier))
    except ValueError as error:
        raise InvalidInputError(f"`{identifier[:80]}` is no prediction id: answers name theirs as `id`") from error


def resolve(ctx: Context, selection: Selection) -> set[str]:
    """The SHA-256 of the selected images: about 120 bytes of memory each.

    Raises:
        NotFoundError: nothing is known by the name of the drop, subject or answer.
    """
    if selection.hashes:
        return set(selection.hashes)
    if selection.drop is not None:
        return _of_drop(ctx, selection.drop)
    if selection.subject is not None:
        return _of_subject(ctx, selection.subject)
    if selection.prediction is not None:
        return _of_prediction(ctx, selection.prediction)
    raise InvalidInputError("say what to erase: hashes, a drop, a subject or a prediction")


def _of_drop(ctx: Context, prefix: str) -> set[str]:
    stored = select(samples.c.sha256).join(drops, samples.c.drop_id == drops.c.id).where(drops.c.prefix == prefix)
    held = select(quarantine.c.sha256).join(drops, quarantine.c.drop_id == drops.c.id)
    held = held.where(drops.c.prefix == prefix, quarantine.c.sha256.is_not(None))
    with transaction(ctx.engine) as connection:
        if connection.execute(select(drops.c.id).where(drops.c.prefix == prefix).limit(1)).first() is None:
            raise NotFoundError(f"no drop lies at `{prefix}`; `evergreen drops` lists them")
        return {digest for query in (stored, held) for digest in connection.execute(query).scalars()}


def _of_subject(ctx: Context, subject: str) -> set[str]:
    """Samples by the catalog; images in quarantine by the verdicts of each drop that has some there."""
    with_images: Select[Any] = select(quarantine.c.drop_id).where(quarantine.c.object_key.is_not(None)).distinct()
    with transaction(ctx.engine) as connection:
        hashes = set(connection.execute(select(samples.c.sha256).where(samples.c.subject == subject)).scalars())
        drop_ids = list(connection.execute(with_images).scalars())
    for drop_id in sorted(drop_ids):
        hashes |= set(_of_subject_in_drop(ctx, drop_id, subject))
    if not hashes:
        raise NotFoundError(f"no image of subject `{subject}` is in the data or in quarantine")
    return hashes


def _of_subject_in_drop(ctx: Context, drop_id: str, subject: str) -> Iterator[str]:
    try:
        with row_verdicts.open_stored(ctx, drop_id) as verdicts:
            for verdict in row_verdicts.ROW_VERDICTS:
                table = verdicts.columns(verdict, ("sha256", "subject"))
                for digest, name in zip(table["sha256"].to_pylist(), table["subject"].to_pylist(), strict=True):
                    if name == subject and digest:
                        yield digest
    except NotFoundError:  # rejected before its images were looked at
        return


def _of_prediction(ctx: Context, identifier: UUID) -> set[str]:
    at = datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)  # RFC 9562: 48 bits of milliseconds
    query = select(predictions.c.image_sha256).where(predictions.c.id == identifier, predictions.c.at == at)
    with transaction(ctx.engine) as connection:
        digest = connection.execute(query).scalar()
    if digest is None:
        raise NotFoundError(f"no answer {identifier} is in the prediction log; a new one takes seconds to get there")
    return {digest}
