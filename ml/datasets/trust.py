"""How far the labels of a drop are trusted: as a whole, or by the verified identity of each annotator.

Names in an uploaded table are not identities. In a drop of a trusted uploader they count as annotators; in any other
they are one vote together. Only annotators of a drop that the loop made itself from feedback are verified: they are
names of API keys, with a level that Postgres knows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from sqlalchemy import Connection, exists, select

from ml.catalog import feedback as feedback_catalog
from ml.catalog.api_keys import Level
from ml.catalog.tables import feedback
from ml.datasets import labels
from ml.datasets.labels import Annotation
from ml.intake import quarantine_store
from ml.settings import Settings

_SOURCE_BY_LEVEL: Mapping[str, str] = {"annotate": labels.VERIFIED, "review": labels.REVIEWER}
AGREEING = 2
"""Verified annotators who must agree to change or enter validation and holdout."""


@dataclass(frozen=True)
class Trust:
    """Trust in the labels of a drop.

    Attributes:
        whole: the uploader is trusted.
        levels: levels of verified annotators, by name; all others propose.
    """

    whole: bool
    levels: Mapping[str, Level] = field(default_factory=dict)

    def source(self, annotator: str | None) -> str:
        """The source of an annotation (see `ml.datasets.labels`)."""
        if self.whole:
            return labels.DROP
        return _SOURCE_BY_LEVEL.get(self.levels.get(annotator or "", "propose"), labels.UNTRUSTED)

    def may_evaluate(self, annotations: Sequence[Annotation], label: str) -> bool:
        """Whether a new sample of this label may enter validation or holdout."""
        if self.whole:
            return True
        supporting = [a for a in annotations if a.label == label]
        agreeing = Counter(a.source for a in {(a.annotator, a.source): a for a in supporting}.values())
        return agreeing[labels.REVIEWER] > 0 or agreeing[labels.VERIFIED] >= AGREEING


def of_drop(connection: Connection, prefix: str, settings: Settings) -> Trust:
    """The trust in the drop at `prefix`.

    Drops that the loop made from feedback, or a person released from quarantine, are known by Postgres: an uploader
    gains nothing by a name like theirs.
    """
    of_feedback = exists().where(feedback.c.drop_prefix == prefix)
    levels = feedback_catalog.levels_by_annotator(connection, prefix)
    if levels or connection.execute(select(of_feedback)).scalar_one():
        return Trust(whole=False, levels=levels)
    if quarantine_store.is_release(connection, prefix):
        return Trust(whole=True)
    name = prefix.removeprefix(settings.drops_prefix).rstrip("/")
    return Trust(whole=any(fnmatchcase(name, pattern) for pattern in settings.trusted_drops))
