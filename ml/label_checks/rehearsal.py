"""The check of labels for a drop that is not uploaded yet: `evergreen validate`."""

import logging
from collections.abc import Sequence

from threadpoolctl import threadpool_limits

from ml.context import Context
from ml.errors import UnavailableError
from ml.intake import staging_tars
from ml.intake.findings import Finding
from ml.intake.row_verdicts import RowVerdicts
from ml.label_checks import examine
from ml.label_checks.examine import Examined
from ml.label_checks.stage import COLUMNS, choose

log = logging.getLogger(__name__)


def findings(
    ctx: Context,
    local: Context,
    drop_id: str,
    rows: RowVerdicts,
    with_stored: bool,
) -> Sequence[Finding]:
    """What the stage would find in an inspected drop; without the stored samples where they cannot be reached.

    Args:
        ctx: with the stored samples.
        local: with the store that holds the inspected images.
        drop_id: the drop.
        rows: its validated rows.
        with_stored: whether the stored samples can be reached.
    """
    chosen = choose(rows.rows("good", *COLUMNS))
    encoded = [
        staging_tars.image(member, row["bytes"])
        for member, row in zip(staging_tars.read(local, drop_id, chosen), chosen, strict=True)
    ]
    examined = Examined(drop_id, rows.count("good"), chosen, encoded)
    with threadpool_limits(1):
        if with_stored:
            try:
                return examine.examine(ctx, examined).findings
            except UnavailableError as error:
                log.warning("labels are not compared with the stored samples: %s", error)
        return examine.examine(ctx, examined, with_stored=False).findings
