"""What a bundle made for a benchmark says of itself."""

from collections.abc import Sequence

from ml.models.bundle import BundleInfo


def described(architecture: str, labels: Sequence[str], side: int, channels: int, seed: int = 0) -> BundleInfo:
    """Classes of equal shares, and no lineage."""
    return BundleInfo(
        architecture=architecture,
        labels=tuple(labels),
        image_size=side,
        channels=channels,
        dataset_version="bench",
        run_id="bench",
        code_version="bench",
        seed=seed,
        class_shares=dict.fromkeys(labels, 1 / len(labels)),
        files={},
    )
