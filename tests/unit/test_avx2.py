"""What the second pass of the unit tests leaves out cannot depend on instruction sets."""

from pathlib import Path

import grimp
import pytest

from tests import avx2

COMPUTING = {"torch", "torchvision", "onnxruntime", "openvino"}


@pytest.fixture(scope="module")
def computing() -> set[str]:
    """Modules that import such a library, directly or through ours, at their top or in a function."""
    packages = ("ml", "serving", "infra", "plugins", "tests")
    graph = grimp.build_graph(*packages, include_external_packages=True, cache_dir=None)
    return set().union(*(graph.find_downstream_modules(library) for library in COMPUTING))


@pytest.mark.parametrize("name", avx2.LEFT_OUT)
def test_what_is_left_out_reaches_no_library_that_computes(name: str, computing: set[str]) -> None:
    path = Path("tests/unit") / name
    files = [path] if path.suffix else sorted(path.glob("**/*.py"))
    assert files
    unexpected = [str(file) for file in files if ".".join(file.with_suffix("").parts) in computing]
    assert unexpected == [], "they compute: take this entry out of tests.avx2.LEFT_OUT, or name a folder's other files"


def test_what_computes_is_found(computing: set[str]) -> None:
    assert {"tests.unit.training.test_fit_and_export", "tests.unit.test_variants"} <= computing
