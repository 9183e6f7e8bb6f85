"""Poisoned drops in histories of five to eight: are they named, and is the loop as good without them as if never had?

Fashion-MNIST and CIFAR-10, drops of 150 to 900 images of which one is poisoned: one class called another, or 30 % of
the labels wrong. The champion learned the drops before it; the challenger is a refresh on all, so that in most
histories the poison is not in the newest drop. `blame_top1` is the share of challengers for which the poisoned drop is
named first; `accused` the share of models without poison for which any drop is named. The poisoned challenger then
is made the champion, as if it had slipped through. `recovered` is what the model that is trained after `drops revert`
lacks, on images never uploaded, of one that never saw the poison, in points, the worst of all. `flood_shift` is how
far ten near copies each of 40 mislabelled images move the champion's accuracy on the holdout against one copy each, in
points.

EVERGREEN_BENCH_SEEDS=3 says how many histories of each kind.
"""

import gzip
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.catalog import cycles
from ml.context import Context
from ml.datasets import revert
from ml.gate import blame, scores
from ml.training.train import train
from tests.bench.parts import stored
from tests.bench.report import Bar, spread
from tests.drops import ingest_approved
from tests.servers import Servers, mlflow_server, storage

SEEDS: Final = int(os.environ.get("EVERGREEN_BENCH_SEEDS", "3"))
SHARED: Final = Path("../shared/data")
KINDS: Final = ("class", "noise")
SIZES: Final = (150, 300, 600, 900)
CLEAN: Final = 1000
"""Images that are never uploaded, on which models are compared."""
FLOODED: Final = 40
COPIES: Final = 10
BARS: Final = {
    "blame_top1": Bar("at least", 0.9),
    "recovered": Bar("at most", 0.5),
    "flood_shift": Bar("at most", 0.5),
}
RULES: Final = {"gate_corrupted": 0, "full_every": 0, "train_threads": 1, "epochs": 8}


@dataclass(frozen=True)
class Images:
    """``uint8[N, side, side, channels]`` and their labels, positions in `names`."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True)
class History:
    """Drops of a history: positions in the images and the labels they are uploaded with; `poisoned` is one of them."""

    drops: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    poisoned: int
    clean: NDArray[np.int64]


def run() -> dict[str, Any]:
    """Figures by their names in the module's docstring; points as such, shares 0 to 1."""
    named: list[bool] = []
    scored: list[float] = []
    accused: list[bool] = []
    lacking: list[float] = []
    shifts: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="evergreen-bench-") as folder,
        storage(Path(folder)) as running,
        mlflow_server(running) as url,
    ):
        bench = _Bench(running, Path(folder), url)
        for name, images in (("fashion", _fashion()), ("cifar", _cifar())):
            for seed in range(SEEDS):
                for kind in KINDS:
                    history = _history(images, kind, seed)
                    findings, gap, clean = bench.compare(f"{name}-{kind}-{seed}", images, history)
                    lacking.append(gap)
                    accused += [] if clean is None else [bool(clean["drops"])]
                    if findings is not None:
                        named.append([row["name"] for row in findings["drops"]][:1] == [f"drop-{history.poisoned}"])
                        scored.append(findings["highest"])
            shifts.append(bench.flood(f"{name}-flood", images))
    figures = {
        "blame_top1": float(np.mean(named)),
        "recovered": max(lacking),
        "flood_shift": max(shifts),
        "accused": float(np.mean(accused)) if accused else 0.0,
        "histories": len(named),
        "highest score with poison": spread(scored),
        "points after a revert behind never poisoned": spread(lacking),
    }
    return {"runs": SEEDS, "figures": figures, "bars": BARS}


@dataclass(frozen=True)
class _Bench:
    """Systems of their own for each history."""

    running: Servers
    folder: Path
    url: str

    def compare(
        self, name: str, images: Images, history: History
    ) -> tuple[dict[str, Any] | None, float, dict[str, Any] | None]:
        """What was blamed, the points lacking after the revert, and what is blamed without poison."""
        with self._system(f"{name}-p") as ctx:
            findings, poisoned = self._challenge(ctx, images, history, [*range(len(history.drops))])
            ctx.registry.set_alias("champion", poisoned)
            done = revert.revert(ctx, f"drop-{history.poisoned}", actor="bench", reason="poisoned")
            after = self._accuracy(ctx, images, history, self._train(ctx, str(done.version)))
        with self._system(f"{name}-c") as ctx:
            without = [d for d in range(len(history.drops)) if d != history.poisoned]
            version = [_stored(ctx, f"drop-{d}", _files(images, *history.drops[d])) for d in without][-1]
            model = self._train(ctx, version, mode="full")
            never = self._accuracy(ctx, images, history, model)
            clean = self._blamed(ctx, model, version)
        return findings, 100 * (never - after), clean

    def flood(self, name: str, images: Images) -> float:
        """Points by which copies of mislabelled images move the champion's accuracy."""
        order = np.random.default_rng(0).permutation(len(images.labels))
        first, wrong = order[:1500], order[1500 : 1500 + FLOODED]
        accuracies = []
        for copies in (1, COPIES):
            with self._system(f"{name}-{copies}") as ctx:
                begun = _stored(ctx, "drop-0", _files(images, first, images.labels[first]))
                model = self._train(ctx, begun)
                flooded = _files(images, wrong, (images.labels[wrong] + 1) % 10, copies)
                version = _stored(ctx, "flood", flooded)
                side = scores.evaluate(ctx, model, scores.load_model(ctx, model), version)
                accuracies.append(100 * float(side.right.mean()))
        return max(abs(b - a) for a, b in pairwise(accuracies))

    @contextmanager
    def _system(self, name: str) -> Iterator[Context]:
        with stored.system(self.running, self.folder / name, name, self.url, **RULES) as ctx:
            yield ctx

    def _challenge(
        self, ctx: Context, images: Images, history: History, drops: list[int]
    ) -> tuple[dict[str, Any] | None, int]:
        """Upload the drops; the champion knows those before the poisoned one. What is blamed, and the challenger."""
        version = ""
        for d in drops:
            if d == history.poisoned:
                ctx.registry.set_alias("champion", self._train(ctx, version))
            version = _stored(ctx, f"drop-{d}", _files(images, *history.drops[d]))
        challenger = self._train(ctx, version)
        return self._blamed(ctx, challenger, version), challenger

    def _blamed(self, ctx: Context, model: int, version: str) -> dict[str, Any] | None:
        """As the gate does, whether the model is worse or not."""
        return blame.find(ctx, scores.evaluate(ctx, model, scores.load_model(ctx, model), version), version)

    def _train(self, ctx: Context, version: str, mode: Any = "auto") -> int:
        cycle = f"bench-{len(ctx.registry.find())}"
        cycles.open_cycle(ctx.engine, cycle, "manual")
        return train(ctx, version, cycle_id=cycle, mode=mode).model_version

    def _accuracy(self, ctx: Context, images: Images, history: History, model: int) -> float:
        loaded, _ = scores.load_model(ctx, model)
        size, channels = loaded.info.image_size, loaded.info.channels
        pixels = np.stack([_resized(images.pixels[i], size, channels) for i in history.clean])
        answers = np.concatenate([loaded.predict(pixels[i : i + 250]).argmax(1) for i in range(0, len(pixels), 250)])
        names = np.asarray(loaded.info.labels)[answers]
        return float((names == np.asarray(images.names)[images.labels[history.clean]]).mean())


def _stored(ctx: Context, name: str, files: stored.Files) -> str:
    """The dataset version with the drop, whatever checks found in it."""
    done = ingest_approved(ctx, name, files)
    if done.version is None:
        raise RuntimeError(f"the drop was not accepted: {done.reason}")
    return done.version


def _history(images: Images, kind: str, seed: int) -> History:
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    order = generator.permutation(len(images.labels))
    count = int(generator.integers(5, 9))
    sizes, poisoned = generator.choice(SIZES, count), int(generator.integers(1, count))
    sizes[0] = max(600, sizes[0])  # the champion's first
    ends = np.cumsum([CLEAN, *sizes])
    drops = [(order[a:b], images.labels[order[a:b]].copy()) for a, b in pairwise(ends)]
    labels = drops[poisoned][1]
    if kind == "class":
        before, shift = generator.integers(10), generator.integers(1, 10)
        labels[labels == before] = (before + shift) % 10
    else:
        wrong = generator.random(len(labels)) < 0.3
        labels[wrong] = (labels[wrong] + generator.integers(1, 10, int(wrong.sum()))) % 10
    return History(drops, poisoned, order[:CLEAN])


def _files(images: Images, positions: NDArray[np.int64], labels: NDArray[np.int64], copies: int = 1) -> stored.Files:
    """PNG files; copies after the first have noise of ±3 grey levels."""
    files: stored.Files = {}
    generator = np.random.default_rng(1)
    for i, label in zip(positions, labels, strict=True):
        for copy in range(copies):
            pixels = images.pixels[i].astype(np.int16)
            if copy:
                pixels = pixels + generator.integers(-3, 4, pixels.shape)
            buffer = io.BytesIO()
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).squeeze()).save(buffer, "PNG")
            files[f"{images.names[label]}/{i:05}-{copy}.png"] = buffer.getvalue()
    return files


def _resized(pixels: NDArray[np.uint8], size: int, channels: int) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels.squeeze())
    mode = "L" if channels == 1 else "RGB"
    resized = image.convert(mode).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8).reshape(size, size, channels)


def _fashion() -> Images:
    folder, names = SHARED / "fashion-mnist", ("tshirt", "trouser", "pullover", "dress", "coat")
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return Images(pixels[:12_000], labels[:12_000], (*names, "sandal", "shirt", "sneaker", "bag", "boot"))


def _cifar() -> Images:
    files = stored.files(12_000)
    names = tuple(sorted({key.split("/")[0] for key in files}))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files.values()])
    labels = np.asarray([names.index(key.split("/")[0]) for key in files], np.int64)
    return Images(pixels, labels, names)
