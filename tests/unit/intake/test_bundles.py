"""Work is bundled into no more pieces than Airflow can map, and none is lost."""

import pytest

from ml.intake.pending import chunk_batches


@pytest.mark.parametrize(
    ("chunks", "pieces"),
    [([], 0), ([0], 0), ([1], 1), ([3, 2], 5), ([1000], 1000), ([1001], 501), ([5000, 1], 835), ([1] * 1000, 1000)],
)
def test_every_chunk_is_in_one_piece(chunks: list[int], pieces: int) -> None:
    batches = chunk_batches([{"drop_id": f"d{i}", "chunks": n} for i, n in enumerate(chunks)], limit=1000)
    assert len(batches) == pieces
    covered = sorted((piece["drop_id"], chunk) for piece in batches for chunk in piece["chunks"])
    assert covered == sorted((f"d{i}", c) for i, n in enumerate(chunks) for c in range(n))


def test_more_drops_than_pieces_end_all_the_same() -> None:
    batches = chunk_batches([{"drop_id": str(i), "chunks": 2} for i in range(5)], limit=3)
    assert [piece["chunks"] for piece in batches] == [[0, 1]] * 5
