from pathlib import Path

import pytest

from ml.context import Context
from ml.datasets.versions import Manifest
from tests.doubles.context import memory_context
from tests.unit.datasets.stored import A1, A2, A3, B1, B2, store_segment


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return memory_context(tmp_path)


@pytest.fixture
def manifest(ctx: Context) -> Manifest:
    """Segments (A1, A2, A3) and (B1, B2)."""
    ids = (store_segment(ctx, [A1, A2, A3]), store_segment(ctx, [B1, B2]))
    return Manifest(ids, {}, (), ("a", "b"))
