"""INT8 and the features of processors, on each processor that this machine can stand in for."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from ml.models import bundle, model
from tests import capabilities
from tests.bundles import add_int8, make_bundle

SIZE, LABELS = 16, tuple("abcdefgh")
TOLERANCE = 1e-3
"""As the settings have it."""
ANSWERS = """
import json, sys
from pathlib import Path
from ml.models import bundle, variants
folder = Path(sys.argv[1])
images, _ = bundle.load_probes((folder / bundle.INT8_PROBES).read_bytes())
said = {}
for runtime in sys.argv[2:]:
    loaded = variants.load_proven(folder, 1e-3, variant="int8", runtime=runtime)
    reason = next(one.reason for one in loaded.variants if one.variant == "int8")
    said[runtime] = [loaded.variant, loaded.runtime.name, reason, loaded.predict(images).tolist()]
print(json.dumps(said))
"""


def test_int8_is_right_on_every_processor(tmp_path: Path) -> None:
    make_bundle(tmp_path, LABELS, SIZE)
    add_int8(tmp_path)
    here, *others = capabilities.machines()
    asked = (ANSWERS, str(tmp_path), "onnxruntime", "openvino")
    expected = json.loads(here.run(*asked))
    for machine in others:
        results = json.loads(machine.run(*asked))
        for runtime, (variant, by, reason, answers) in results.items():
            assert (variant, by, reason) == ("int8", runtime, ""), machine.name
            assert np.allclose(answers, expected[runtime][-1], atol=TOLERANCE * model.SLACK["int8"]), machine.name


def test_weights_of_8_bits_are_refused_where_they_saturate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bundles were made before. Products of the first half exceed 16 bits in pairs, those of the second do not."""
    from onnxruntime import quantization

    whole = quantization.quantize_static
    monkeypatch.setattr(
        quantization, "quantize_static", lambda *a, **options: whole(*a, **options | {"reduce_range": False})
    )
    half = SIZE * SIZE // 2
    weights = np.random.default_rng(0).normal(0, 0.02, (2 * half, len(LABELS))).astype(np.float32)
    weights[:half, 0], weights[half:, 0] = 0.2, -0.1
    make_bundle(tmp_path, LABELS, SIZE, weights=weights)
    add_int8(tmp_path)
    images = np.full((4, SIZE, SIZE, 1), 250, np.uint8)
    images[2:, 0] = 0
    np.savez(tmp_path / bundle.INT8_PROBES, images=images, probabilities=in_floats(tmp_path, images))
    for machine in capabilities.machines():
        variant, _, reason, _ = json.loads(machine.run(ANSWERS, str(tmp_path), "onnxruntime"))["onnxruntime"]
        assert variant == ("int8" if machine.full_range else "fp32"), machine.name
        assert machine.full_range or "golden probes differ" in reason, machine.name


def test_openvino_sees_it_alike() -> None:
    """bf16 is there for OpenVINO where x86 has it, and nowhere under a limit to AVX2."""
    program = (
        "import openvino; from ml.models import cpu; "
        "able = openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'); "
        "print('BF16' in able, bool(cpu.features('openvino') & {'avx512_bf16', 'amx_bf16'}))"
    )
    for machine in capabilities.machines():
        theirs, ours = (word == "True" for word in machine.run(program).split())
        assert theirs or not ours, machine.name
        assert not (theirs and machine.variables), machine.name


def in_floats(folder: Path, images: np.ndarray) -> np.ndarray:
    """Answers of the INT8 graph without kernels for integers, which are right on every processor."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(folder / bundle.INT8_MODEL), options, providers=["CPUExecutionProvider"])
    return bundle.probabilities(session.run(None, {"images": images})[0], 1.0)
