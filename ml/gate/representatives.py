"""One sample stands for each group of near copies, so that copies cannot add weight to what they show."""

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import any_, bindparam, select

from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets.loader import Split

_PAGE = 5000


def positions(ctx: Context, split: Split) -> NDArray[np.int64]:
    """Positions of the sample that came first of each group, ascending, ``int64[groups]``.

    Splits are in the order in which drops were accepted, and rewriting segments keeps it. So whoever uploads a copy
    of what is stored cannot become the one that counts, nor bring a label of theirs into the comparison; of copies
    within one drop the first by name counts, and all of them are as heavy as one.
    """
    return first_of(group_ids(ctx, split))


def first_of(groups: NDArray[np.str_]) -> NDArray[np.int64]:
    """Positions of the first sample of each group, ascending."""
    _, first = np.unique(groups, return_index=True)
    return np.sort(first).astype(np.int64)


def group_ids(ctx: Context, split: Split) -> NDArray[np.str_]:
    """The group of each sample as the catalog knows it now, ``str[N]``: near copies may be found after acceptance.

    A sample that the catalog has lost is a group of its own.
    """
    by_digest: dict[str, str] = {}
    query = select(samples.c.sha256, samples.c.group_id).where(samples.c.sha256 == any_(bindparam("page")))
    with transaction(ctx.engine) as connection:
        for start in range(0, len(split), _PAGE):
            rows = connection.execute(query, {"page": split.sha256[start : start + _PAGE]})
            by_digest.update(dict(rows.all()))
    return np.asarray([by_digest.get(digest, digest) for digest in split.sha256], np.str_)
