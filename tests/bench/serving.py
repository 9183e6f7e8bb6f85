"""Answering: our service, the machine's limit and a plain peer side by side, in rounds.

MobileNetV2 at 224 px, 37 classes, JPEGs of 500×375 as forms, two workers, every answer logged with its image into
Postgres and S3 on the same cores, as is the load. The limit is decode + inference by the same functions at the same
precision, one process a core, without HTTP, before and after. The peer is what a careful user writes: FastAPI, a plain
handler, Pillow, ONNX Runtime, two workers. `c8` are requests a second at 8 connections, and so on.

Bars: `share_of_limit_c8` and `share_of_limit_c64` 0.9 (fp32), `vs_best_peer` 1.1 (fp32, c8), `p99_ratio_c64` (p99 over
64 ÷ throughput) 1.3, `c1_over_decode_and_inference` (medians) 1.2, `int8_speedup` over our fp32 1.6,
`reduced_vs_best_peer` 2.0, `small_cnn_vs_best_peer` (64 px) 1.3, `logging_share` 0.93, `batch_over_single` 1,
`memory_mb` 350, accuracy lost 0.3 points. `overload_p99_ratio` is the p99 of what is accepted of 256 connections, again
over 64 ÷ throughput.
"""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ml.models.bundle import Variant
from tests.bench.parts import ask, bare, precision, services
from tests.bench.parts.ask import Heard, Request
from tests.bench.parts.services import Up
from tests.bench.report import spread
from tests.servers import storage

# Taken out of the environment, which the services inherit: they refuse settings that they do not know.
RUNS: Final = int(os.environ.pop("EVERGREEN_BENCH_RUNS", "3"))
SECONDS: Final = float(os.environ.pop("EVERGREEN_BENCH_SECONDS", "3"))
LARGE: Final = ("mobilenet_v2", 224, 37)
SMALL: Final = ("small_cnn", 64, 10)
PHOTOS: Final = 64
BATCH: Final = 16
CORES: Final = len(os.sched_getaffinity(0))
UNLOGGED: Final = "X-Evergreen-Probe: 1\r\n"

Readings = dict[str, list[float]]


@dataclass(frozen=True)
class Field:
    """All that is compared, up and running; `left_out` is what this machine cannot, and why."""

    folder: Path
    photos: list[bytes]
    pictures: list[bytes]
    large: Path
    small: Path
    up: dict[str, Up]
    left_out: list[str]

    def ask(self, name: str, connections: int, path: str = "", header: str = "", batch: int = 1) -> Heard:
        """Ask one of them for a while; `path` follows its own."""
        service = self.up[name]
        images = self.pictures if "small" in name else self.photos
        target = f"/{service.url.split('/', 3)[3]}{path}"
        asked: list[Request] = [
            ask.form(target, [images[(n + k) % len(images)] for k in range(batch)], header)
            for n in range(0, len(images), batch)
        ]
        how = ask.ask_here if connections > 64 else _by_files(self.folder)
        return how(service.url, asked, connections, SECONDS)

    def limit(self, variant: Variant, processes: int = CORES) -> bare.Bare:
        return bare.bare(self.large, variant, self.photos, processes, SECONDS)


def run() -> dict[str, Any]:
    """Figures of all rounds; `left_out` says which are not among them here, and why."""
    readings: Readings = {}
    with _field() as field:
        for number in range(RUNS):
            reduced = [step for variant, step in (("int8", _int8), ("bf16", _bf16)) if variant in field.up]
            steps = [_fp32, *reduced, _peer, _small]
            for step in steps if number % 2 == 0 else reversed(steps):
                for name, value in step(field).items():
                    readings.setdefault(name, []).append(value)
        readings["memory_mb"] = [max(field.up[name].memory() for name in ("fp32", "int8") if name in field.up)]
        readings["MB, peer"] = [field.up["peer"].memory()]
    _compare(readings)
    figures: dict[str, Any] = {name: spread(values) for name, values in sorted(readings.items(), key=_bars_first)}
    left_out = field.left_out
    try:
        lost, unjudged = precision.figures()
        figures |= lost
        left_out += [f"accuracy at {reason}" for reason in unjudged]
    except FileNotFoundError as error:
        left_out.append(str(error))
    return {"runs": RUNS, "figures": figures, "left_out": left_out} | _medians(figures)


def _fp32(field: Field) -> dict[str, float]:
    limit, alone = field.limit("fp32"), field.limit("fp32", 1)
    c1, c8, c64 = (field.ask("fp32", n) for n in (1, 8, 64))
    after = field.limit("fp32")
    unlogged = field.ask("fp32", 8, header=UNLOGGED)
    crowd = field.ask("fp32", 256)
    middle = (limit.rate + after.rate) / 2
    return {
        "share_of_limit_c8": c8.rate / middle,
        "share_of_limit_c64": c64.rate / middle,
        "p99_ratio_c64": c64.p99 * c64.rate / 64_000,
        "c1_over_decode_and_inference": c1.p50 / alone.milliseconds,
        "logging_share": c8.rate / unlogged.rate,
        "overload_p99_ratio": crowd.p99 * c64.rate / 64_000,
        "overload refused, share": crowd.refused / max(1, crowd.refused + crowd.answers),
        "overload answers a second": crowd.rate,
        "broken or refused at c1, c8, c64": sum(h.refused + h.broken for h in (c1, c8, c64)),
        "limit fp32": middle,
        "decode + inference ms, fp32": alone.milliseconds,
        "fp32 c1": c1.rate,
        "fp32 c8": c8.rate,
        "fp32 c64": c64.rate,
        "fp32 c8, not logged": unlogged.rate,
        "fp32 c1 ms": c1.p50,
        "fp32 c64 p99 ms": c64.p99,
    }


def _int8(field: Field) -> dict[str, float]:
    limit, c8, c64 = field.limit("int8"), field.ask("int8", 8), field.ask("int8", 64)
    unlogged = field.ask("int8", 8, header=UNLOGGED)
    single = field.ask("int8", 8)
    many = field.ask("int8", 8, "/batch", batch=BATCH)
    return {
        "share_of_limit_c8, int8": c8.rate / limit.rate,
        "share_of_limit_c64, int8": c64.rate / limit.rate,
        "p99_ratio_c64, int8": c64.p99 * c64.rate / 64_000,
        "logging_share, int8": c8.rate / unlogged.rate,
        "batch_over_single": many.rate * BATCH / single.rate,
        "limit int8": limit.rate,
        "int8 c8": c8.rate,
        "int8 c64": c64.rate,
    }


def _bf16(field: Field) -> dict[str, float]:
    return {"bf16 c8": field.ask("bf16", 8).rate}


def _peer(field: Field) -> dict[str, float]:
    c8, c64 = field.ask("peer", 8), field.ask("peer", 64)
    return {"peer c8": c8.rate, "peer c64": c64.rate, "peer c64 p99 ms": c64.p99}


def _small(field: Field) -> dict[str, float]:
    return {"small_cnn c8": field.ask("small", 8).rate, "small_cnn peer c8": field.ask("small peer", 8).rate}


def _compare(readings: Readings) -> None:
    """Ratios between steps, round by round, of those that there are."""

    def ratio(name: str, above: str, below: str) -> None:
        if above in readings:
            readings[name] = [a / b for a, b in zip(readings[above], readings[below], strict=True)]

    ratio("vs_best_peer", "fp32 c8", "peer c8")
    ratio("int8_speedup", "int8 c8", "fp32 c8")
    ratio("reduced_vs_best_peer", "int8 c8", "peer c8")
    ratio("small_cnn_vs_best_peer", "small_cnn c8", "small_cnn peer c8")


@contextmanager
def _field() -> Iterator[Field]:
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        photos = _photos((500, 375))
        pictures = _photos((64, 64))
        large = services.make(folder / "large", *LARGE, photos)
        small = services.make(folder / "small", *SMALL, pictures)
        missing = services.missing(large)
        servers = stack.enter_context(storage(folder))
        up = {
            variant: stack.enter_context(services.ours(servers, folder / variant, large, variant))
            for variant in ("fp32", "int8", "bf16")
            if variant not in missing
        }
        up["small"] = stack.enter_context(services.ours(servers, folder / "of small", small, "fp32"))
        up["peer"] = stack.enter_context(services.peer(folder / "peer", large, LARGE[1]))
        up["small peer"] = stack.enter_context(services.peer(folder / "small peer", small, SMALL[1]))
        (folder / "requests").mkdir()
        yield Field(folder / "requests", photos, pictures, large, small, up, [*missing.values()])


def _photos(size: tuple[int, int]) -> list[bytes]:
    """Parts of scikit-learn's two photographs, as JPEG; a photo of 500×375 takes about 50 kB."""
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng(0)
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    photos = []
    for number in range(PHOTOS):
        source = sources[number % len(sources)]
        height = int(generator.integers(330, 420))
        width = height * size[0] // size[1]
        left = int(generator.integers(0, source.width - width + 1))
        top = int(generator.integers(0, source.height - height + 1))
        part = source.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        part.save(buffer, "JPEG", quality=90)
        photos.append(buffer.getvalue())
    return photos


def _by_files(folder: Path) -> Callable[..., Heard]:
    def asked(url: str, requests: list[Request], connections: int, seconds: float) -> Heard:
        return ask.ask(url, requests, connections, seconds, folder)

    return asked


def _bars_first(reading: tuple[str, list[float]]) -> tuple[bool, str]:
    return " c" in reading[0] or reading[0].startswith(("limit", "MB", "decode", "overload ")), reading[0]


def _medians(figures: dict[str, Any]) -> dict[str, float]:
    """The bars by their names alone."""
    return {name: figure["median"] for name, figure in figures.items() if name.isidentifier()}
