"""`make bench NAME=…`: run one benchmark, write build/bench/NAME.json, make docs/benchmarks.md anew."""

import importlib
import json
import pkgutil
import sys
from pathlib import Path

from tests import bench
from tests.bench import report

OUTPUT = Path("build/bench")


def names() -> list[str]:
    """Modules here with a `run` function: each is a benchmark, its docstring's first line says of what."""
    modules = (m for m in pkgutil.iter_modules(bench.__path__) if not m.ispkg)
    benchmarks = (m.name for m in modules if m.name not in ("__main__", "report"))
    return sorted(benchmarks)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in names():
        for name in names():
            summary = (importlib.import_module(f"tests.bench.{name}").__doc__ or "").partition("\n")[0]
            sys.stdout.write(f"{name:12} {summary}\n")
        return 0 if not arguments else 2
    (name,) = arguments
    module = importlib.import_module(f"tests.bench.{name}")
    result = {"machine": report.machine(), "doc": module.__doc__, **module.run()}
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / f"{name}.json").write_text(json.dumps(result, indent=1, default=vars))
    sys.stdout.write(report.table(result) + "\n")
    report.refresh(name, result, Path("docs/benchmarks.md"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
