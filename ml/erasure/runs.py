"""Runs in MLflow: the sheet of misclassified images, `plots/mistakes.png`, whose images `mistakes.csv` names."""

import csv
import io
from typing import Final

from ml.context import Context
from ml.erasure.content import Content, Swept
from ml.errors import NotFoundError

_TABLE: Final = "mistakes.csv"
_SHEET: Final = "plots/mistakes.png"


def sweep(ctx: Context, content: Content, *, remove: bool) -> Swept:
    """Delete the sheets that show an erased image, and its row in their tables.

    Lists MLflow's artifacts and reads every `mistakes.csv`, of 24 rows.
    """
    swept = Swept()
    for info in ctx.artifacts.list(f"{ctx.settings.artifacts_prefix}/"):
        folder, _, name = info.key.rpartition("/")
        if name == _TABLE:
            try:
                swept += _sweep_run(ctx, folder, content, remove=remove)
            except NotFoundError:  # the run was deleted meanwhile
                continue
    return swept


def _sweep_run(ctx: Context, folder: str, content: Content, *, remove: bool) -> Swept:
    table = list(csv.reader(io.StringIO(ctx.artifacts.get(f"{folder}/{_TABLE}").decode())))
    kept = [row for row in table if not row or row[0] not in content.hashes]
    if len(kept) == len(table):
        return Swept()
    try:
        size = ctx.artifacts.info(f"{folder}/{_SHEET}").size
    except NotFoundError:
        size = 0
    if remove:
        ctx.artifacts.delete([f"{folder}/{_SHEET}"])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(kept)
        # Last, since the table is what the sheet is found by.
        ctx.artifacts.put(f"{folder}/{_TABLE}", text.getvalue().encode(), "text/csv")
    return Swept(2 if size else 1, size)
