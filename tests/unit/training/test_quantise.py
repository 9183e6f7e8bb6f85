"""INT8 and bf16 beside fp32: made, measured, kept or dropped, proven, and never in the way."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ml.errors import IntegrityError
from ml.imaging import images
from ml.models import bundle, model, runtimes, variants
from ml.training import export, quantise
from ml.training.loop.fit import FitResult, fit
from ml.training.loop.recipe import Recipe
from ml.training.network import networks
from tests.pictures import digits
from tests.unit.training.test_fit_and_export import info

LIMITS = images.Limits(10**6, 10**6)


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    x = np.stack([images.decode(data, 24, 1, LIMITS) for _, data in digits()[:360]])
    return x, np.asarray([int(label) for label, _ in digits()[:360]], np.int64)


@pytest.fixture(scope="module")
def fitted(arrays: tuple[np.ndarray, np.ndarray]) -> FitResult:
    x, y = arrays
    recipe = Recipe(epochs=6, patience=5, batch_size=32, learning_rate=2e-3, seed=3)
    return fit(networks.seeded(1, 10, 24, 3), (x[:300], y[:300]), (x[300:], y[300:]), recipe)


@pytest.fixture
def folder(fitted: FitResult, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    export.export(fitted.network, info(), arrays[0][:40], tmp_path)
    return tmp_path


def add(folder: Path, arrays: tuple[np.ndarray, np.ndarray], max_loss: float = 0.05) -> tuple[bundle.Reduced, bool]:
    """What was found of INT8."""
    x, y = arrays
    verdict = quantise.add(folder, x[:300], (x[300:], y[300:]), max_loss)["int8"]
    return verdict.report, verdict.accepted


def standing(loaded: model.Model, variant: str) -> model.VariantStatus:
    (status,) = (one for one in loaded.variants if one.variant == variant)
    return status


def test_it_is_kept_with_figures_and_probes_of_its_own(folder: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    report, kept = add(folder, arrays)
    assert kept
    assert report.samples == 60
    assert report.agreement > 0.9
    assert report.measured_on == runtimes.describe("openvino")
    assert report.proven_on == (runtimes.describe("openvino"), runtimes.describe("onnxruntime"))
    assert bundle.parse((folder / bundle.INFO).read_bytes()).int8 == report
    assert set(bundle.parse((folder / bundle.INFO).read_bytes()).files) - {bundle.BF16_PROBES} == {
        bundle.MODEL, bundle.PROBES, bundle.INT8_MODEL, bundle.INT8_PROBES, bundle.WEIGHTS,
    }  # fmt: skip
    small = model.load(folder, variant="int8")
    assert small.variant == "int8"
    model.check_probes(small, folder, 1e-6)
    exact = model.load(folder, variant="fp32")
    assert exact.variant == "fp32"
    assert not np.array_equal(small.predict(arrays[0][:20]), exact.predict(arrays[0][:20]))
    assert small.predict(arrays[0][:20]) == pytest.approx(exact.predict(arrays[0][:20]), abs=0.2)
    assert (folder / bundle.INT8_MODEL).stat().st_size < 0.4 * (folder / bundle.MODEL).stat().st_size


def test_one_that_loses_too_much_leaves_no_trace(folder: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    report, kept = add(folder, arrays, max_loss=-2)
    assert not kept
    assert report.samples == 60
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_ranges_of_the_wrong_images_cost_accuracy_and_are_seen(
    folder: Path, arrays: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = arrays
    verdict = quantise.add(folder, np.zeros_like(x[:32]), (x[300:], y[300:]), 0.05)["int8"]
    assert verdict.report.accuracy_loss > 0.05
    assert not verdict.accepted


def test_runtimes_agree_and_the_one_wished_for_computes(folder: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    add(folder, arrays)
    x = arrays[0][300:]
    exact = model.load(folder, variant="fp32")
    assert exact.runtime.name == "onnxruntime"
    other = model.load(folder, variant="fp32", runtime="openvino", threads=2)
    assert other.runtime.name == "openvino"
    assert other.predict(x) == pytest.approx(exact.predict(x), abs=1e-5)
    both = [model.load(folder, variant="int8", runtime=name) for name in ("auto", "onnxruntime")]
    assert [m.runtime.name for m in both] == ["openvino", "onnxruntime"]
    assert both[0].predict(x) == pytest.approx(both[1].predict(x), abs=0.02)
    for one in (*both, other):
        assert np.array_equal(one.predict(x)[7:9], np.concatenate([one.predict(x[7:8]), one.predict(x[8:9])]))


def test_openvino_tells_nobody_that_it_is_used(folder: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    """Its converter would, when it is imported: over the network, from a fork of the process."""
    add(folder, arrays)
    program = f"""
import sys
from pathlib import Path
from ml.models import model
assert model.load(Path({str(folder)!r}), variant="int8", runtime="openvino").runtime.name == "openvino"
sys.exit(" ".join(name for name in sys.modules if "telemetry" in name))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stderr.strip() == ""


def test_bf16_is_the_same_file_in_another_precision(folder: Path, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    import openvino

    add(folder, arrays)
    bundle_info = bundle.parse((folder / bundle.INFO).read_bytes())
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert bundle_info.bf16 is None
        bundle.write(folder, bundle_info.model_copy(update={"bf16": bundle_info.int8}))
        loaded = variants.load_proven(folder, 1e-3, variant="bf16")
        assert loaded.variant == "fp32"
        assert "this processor has no BF16" in standing(loaded, "bf16").reason
        return
    loaded = variants.load_proven(folder, 1e-3, variant="bf16")
    exact = model.load(folder, variant="fp32").predict(arrays[0][300:])
    assert loaded.variant == "bf16"
    assert not np.array_equal(loaded.predict(arrays[0][300:]), exact)
    assert loaded.predict(arrays[0][300:]) == pytest.approx(exact, abs=0.05)
    assert variants.load_proven(folder, 1e-3, variant="bf16", runtime="onnxruntime").variant == "fp32"


def test_without_openvino_int8_is_computed_by_onnx_runtime(
    folder: Path, arrays: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, arrays)
    monkeypatch.setitem(sys.modules, "openvino", None)
    loaded = variants.load_proven(folder, 1e-3, variant="int8")
    assert (loaded.variant, loaded.runtime.name) == ("int8", "onnxruntime")
    assert variants.load_proven(folder, 1e-3, runtime="openvino").variant == "fp32"


def faulty(folder: Path, arrays: tuple[np.ndarray, np.ndarray], target: Path) -> Path:
    """A bundle whose INT8 probes say what this processor does not."""
    add(folder, arrays)
    shutil.copytree(folder, target)
    bundle_info = bundle.parse((target / bundle.INFO).read_bytes())
    x, p = bundle.load_probes((target / bundle.INT8_PROBES).read_bytes())
    np.savez(target / bundle.INT8_PROBES, images=x, probabilities=np.roll(p, 1, 1))
    assert bundle_info.int8
    bundle.write(
        target,
        bundle_info.model_copy(update={"int8": bundle_info.int8.model_copy(update={"speedup": 9.0}), "bf16": None}),
    )
    return target


def test_int8_that_differs_here_gives_way(
    folder: Path, arrays: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken = faulty(folder, arrays, tmp_path_factory.mktemp("broken") / "b")
    with pytest.raises(IntegrityError, match="probes"):
        model.check_probes(model.load(broken, variant="int8"), broken, 1e-3)
    for desired in ("auto", "int8"):
        loaded = variants.load_proven(broken, 1e-3, variant=desired)
        assert loaded.variant == "fp32"
        assert standing(loaded, "int8").status == "refused"
        assert "golden probes differ" in standing(loaded, "int8").reason


def test_int8_that_cannot_be_loaded_gives_way_and_fp32_is_still_proven(
    folder: Path, arrays: tuple[np.ndarray, np.ndarray]
) -> None:
    add(folder, arrays)
    assert variants.load_proven(folder, 1e-3, variant="int8").variant == "int8"
    (folder / bundle.INT8_MODEL).write_bytes(b"no model")
    assert variants.load_proven(folder, 1e-3, variant="int8").variant == "fp32"
    np.savez(folder / bundle.PROBES, images=arrays[0][:4], probabilities=np.zeros((4, 10), np.float32))
    with pytest.raises(IntegrityError, match="probes"):
        variants.load_proven(folder, 1e-3, variant="int8")
