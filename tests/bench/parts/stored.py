"""Systems with CIFAR-10 in them, for benchmarks of what comes after intake."""

import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ml.catalog.migrate import migrate
from ml.context import Context, connect
from ml.ingest import ingest
from tests.servers import Servers

DATA = Path(os.environ.get("EVERGREEN_BENCH_CIFAR10", "../shared/data/cifar10/train.tar"))

Files = dict[str, bytes]
"""Keys below the drop, `CLASS/NAME.jpg`, and bytes."""


def files(count: int, path: Path = DATA) -> Files:
    """`count` images, evenly over the archive, whose order is by class.

    Raises:
        FileNotFoundError: CIFAR-10 is not there.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: a tar of CIFAR-10's images as <class>/<number>.jpg; "
            "EVERGREEN_BENCH_CIFAR10 may name that of the training images, test.tar lies beside it"
        )
    with tarfile.open(path) as archive:
        members = sorted((m for m in archive if m.isfile()), key=lambda m: m.name)
        chosen = [members[i * len(members) // count] for i in range(min(count, len(members)))]
        return {"/".join(m.name.split("/")[-2:]): archive.extractfile(m).read() for m in chosen}  # type: ignore[union-attr]


def dealt(whole: Files, parts: int) -> list[Files]:
    """The images dealt out to so many parts, each with all classes."""
    every = list(whole.items())
    return [dict(every[number::parts]) for number in range(parts)]


@contextmanager
def system(running: Servers, home: Path, name: str, mlflow_url: str | None = None, **more: object) -> Iterator[Context]:
    """An empty system with a registered model and an experiment of its own."""
    address = {"mlflow_url": mlflow_url} if mlflow_url else {}
    settings = running.settings(home, model_name=name, experiment=name, **address, **more)
    ctx = connect(settings)
    migrate(ctx.engine)
    yield ctx
    ctx.engine.dispose()


def upload(ctx: Context, name: str, drop: Files) -> str:
    """The drop's prefix."""
    prefix = f"{ctx.settings.drops_prefix}{name}/"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: ctx.labels.put(prefix + one[0], one[1]), drop.items()))
    ctx.labels.put(f"{prefix}_READY", b"")
    return prefix


def stored(ctx: Context, name: str, drop: Files) -> tuple[str, str]:
    """Ingest the drop: its id and the dataset version that it gave."""
    done = ingest(ctx, upload(ctx, name, drop))
    if done.version is None:
        raise RuntimeError(f"the drop was not accepted: {done.reason}")
    return done.drop_id, done.version
