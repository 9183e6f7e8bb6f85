"""Drops that checks would hold and that a person let through, as ones that slip through."""

from ml.catalog import drops
from ml.context import Context
from ml.ingest import IngestResult, ingest
from ml.intake import held
from tests.pictures import upload


def slipped(ctx: Context, name: str, files: dict[str, bytes]) -> IngestResult:
    """Ingest a drop, approving it if it is held."""
    done = ingest(ctx, upload(ctx, name, files))
    if drops.get(ctx.engine, done.drop_id).status != "held":
        return done
    held.approve(ctx, done.drop_id, actor="ann", reason="not looked at")
    return ingest(ctx, drops.get(ctx.engine, done.drop_id).prefix)
