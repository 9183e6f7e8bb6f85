"""Decisions on a real dataset version of digits, over models of known worth: linear ones, fitted to more or fewer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from ml.catalog import cycles, decisions
from ml.catalog.cycles import CycleRecord
from ml.catalog.decisions import Decision
from ml.catalog.engine import transaction
from ml.catalog.tables import scores as scores_table
from ml.context import Context
from ml.datasets import loader
from ml.gate.decide import decide
from tests.bundles import make_bundle, make_live, upload
from tests.file_registry import FileRegistry

DIGITS = tuple("0123456789")


@dataclass
class Gate:
    """A dataset version of 700 digits, and room for models."""

    ctx: Context
    registry: FileRegistry
    folder: Path
    dataset: str

    def model(
        self,
        version: int,
        fitted_to: int = 450,
        labels: tuple[str, ...] = DIGITS,
        seed: int = 0,
        *,
        mistaken: tuple[str, str] | None = None,
    ) -> int:
        """Register a model that knows `labels`, fitted to so many of their training images.

        Args:
            mistaken: whatever would be the first label is answered by the second.
        """
        train = loader.load(self.ctx, self.dataset, "train", 8, 1)
        x = np.asarray(train.images, np.float32).reshape(len(train), -1) / 255
        truth = np.asarray(train.classes)[train.labels]
        order = [i for i in np.random.default_rng(seed).permutation(len(train)) if truth[i] in labels][:fitted_to]
        y = (truth[order, np.newaxis] == np.asarray(labels)).astype(np.float32) * 2 - 1
        x = x[order] - 0.25
        weights = np.linalg.solve(x.T @ x + np.eye(64, dtype=np.float32), x.T @ y)
        if mistaken is not None:
            label, other = (labels.index(name) for name in mistaken)
            weights[:, other] = weights[:, label] + 0.01
        folder = self.folder / f"v{version}-{len(list(self.folder.iterdir()))}"
        digest = make_bundle(folder, labels, seed=version, weights=8 * weights.astype(np.float32))
        self.registry.add(version, upload(self.ctx, folder, version), digest, dataset_version=self.dataset)
        return version

    def decide(self, version: int) -> Decision:
        cycle = f"c{version}"
        cycles.open_cycle(self.ctx.engine, cycle, "manual")
        return decide(self.ctx, version, cycle_id=cycle)

    def promote_by_hand(self, version: int) -> None:
        """As an operator does."""
        given = Decision(f"word-{version}", version, None, None, "promote", "so be it", "operator:ann", {})
        with transaction(self.ctx.engine) as connection:
            decisions.record(connection, given)
        self.make_live(version, f"word-{version}")

    def make_live(self, version: int, decision_id: str | None = None) -> None:
        """Deploy the version, as a release does."""
        make_live(self.ctx, self.registry, version, decision_id)

    def registered(self, number: int) -> int:
        """The version that the registry knows by this number."""
        digest = self.registry.bundle(number).digest
        return next(v.version for v in self.ctx.registry.find(bundle_digest=digest))

    def cycle(self, version: int) -> CycleRecord:
        return cycles.get(self.ctx.engine, f"c{version}")

    def count(self, table: object) -> int:
        with transaction(self.ctx.engine) as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]

    def scored(self, version: int) -> list[str]:
        """Object keys of a model's scores."""
        with transaction(self.ctx.engine) as connection:
            query = select(scores_table.c.object_key).where(scores_table.c.model_version == version)
            return sorted(connection.execute(query).scalars())

    def break_bundle(self, version: int, how: str) -> None:
        key = f"{self.registry.bundle(version).prefix}/model.onnx"
        if how == "missing":
            self.ctx.artifacts.delete([key])
        else:
            self.ctx.artifacts.put(key, b"no model")
