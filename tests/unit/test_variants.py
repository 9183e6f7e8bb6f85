"""Which variant answers: the fastest that is right on this processor, whatever was found on the trainer's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import numpy_helper

from ml.errors import IntegrityError
from ml.models import bundle, model, runtimes, variants
from ml.models.bundle import VariantSetting
from ml.models.model import Model, VariantStatus
from tests.bundles import add_int8, make_bundle

SIZE, LABELS = 16, tuple("abcdefgh")
ELSEWHERE = "openvino on a processor that there is not"
TOLERANCE = 1e-3
"""As the settings have it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With INT8 that is said to be twice as fast here."""
    make_bundle(tmp_path, LABELS, SIZE)
    add_int8(tmp_path)
    return tmp_path


def info(folder: Path) -> bundle.BundleInfo:
    return bundle.parse((folder / bundle.INFO).read_bytes())


def say(folder: Path, variant: str = "int8", **changes: Any) -> None:
    """Change what the bundle says of a variant."""
    bundle_info = info(folder)
    report = bundle_info.reduced()["int8"].model_copy(update=changes)
    bundle.write(folder, bundle_info.model_copy(update={variant: report}))


def standing(loaded: Model, variant: str) -> VariantStatus:
    (status,) = (one for one in loaded.variants if one.variant == variant)
    return status


@pytest.mark.parametrize(
    ("desired", "speedup", "chosen"),
    [("auto", 2, "int8"), ("auto", 0.9, "fp32"), ("fp32", 2, "fp32"), ("int8", 0.9, "int8")],
)
def test_it_follows_wish_and_speed(folder: Path, desired: VariantSetting, speedup: float, chosen: str) -> None:
    say(folder, speedup=speedup)
    loaded = variants.load_proven(folder, TOLERANCE, variant=desired)
    assert loaded.variant == chosen
    assert {one.variant: one.status for one in loaded.variants} == dict.fromkeys(("fp32", "int8"), "available") | {
        chosen: "serving"
    }
    assert standing(loaded, chosen).reason == ""
    assert standing(loaded, "int8").speedup == speedup
    make_bundle(folder / "exact", LABELS, SIZE)
    assert variants.load_proven(folder / "exact", TOLERANCE, variant=desired).variant == "fp32"


def test_the_fastest_that_this_processor_has_answers(folder: Path) -> None:
    """bf16, which not every processor has, beside INT8, which each has."""
    say(folder, "bf16", speedup=9)
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in capable:
        loaded = variants.load_proven(folder, TOLERANCE)
        assert loaded.variant == "int8"
        assert standing(loaded, "bf16").status == "refused"
        assert "this processor has no BF16" in standing(loaded, "bf16").reason
        return
    images, _ = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    expected = model.load(folder, variant="bf16").predict(images)
    np.savez(folder / bundle.BF16_PROBES, images=images, probabilities=expected)
    loaded = variants.load_proven(folder, TOLERANCE)
    assert loaded.variant == "bf16"
    assert standing(loaded, "int8").status == "available"
    assert "bf16 is faster" in standing(loaded, "int8").reason


def test_a_speed_from_elsewhere_is_measured_here_once(folder: Path) -> None:
    say(folder, measured_on=ELSEWHERE, speedup=77)
    int8 = standing(variants.load_proven(folder, TOLERANCE), "int8")
    assert int8.speedup != 77
    assert int8.status == (
        "available" if int8.speedup is not None and int8.speedup < variants.MIN_SPEEDUP else "serving"
    )
    kept = json.loads((folder / bundle.SPEEDS).read_text())
    assert kept == {f"int8 by {runtimes.describe('openvino')}": int8.speedup}
    for speed, chosen in ((0.5, "fp32"), (5.0, "int8")):
        (folder / bundle.SPEEDS).write_text(json.dumps(dict.fromkeys(kept, speed)))
        loaded = variants.load_proven(folder, TOLERANCE)
        assert (loaded.variant, standing(loaded, "int8").speedup) == (chosen, speed)
        assert chosen == "int8" or "0.50 times as fast as fp32 here" in standing(loaded, "int8").reason
    (folder / bundle.SPEEDS).write_text('{"int8 by')
    assert standing(variants.load_proven(folder, TOLERANCE), "int8").speedup != 77
    assert set(json.loads((folder / bundle.SPEEDS).read_text())) == set(kept)


def test_what_was_measured_is_no_part_of_the_bundle(folder: Path) -> None:
    say(folder, measured_on=ELSEWHERE)
    before = info(folder).files
    variants.load_proven(folder, TOLERANCE)
    assert (folder / bundle.SPEEDS).exists()
    bundle.write(folder, info(folder))
    assert info(folder).files == before


def test_workers_that_start_at_once_choose_alike(folder: Path) -> None:
    say(folder, measured_on=ELSEWHERE)
    program = (
        "import sys; from pathlib import Path; from ml.models import variants; "
        "loaded = variants.load_proven(Path(sys.argv[1]), 1e-3); print(loaded.variant, loaded.variants[1].speedup)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    choices = {worker.communicate()[0] for worker in running}
    assert [worker.returncode for worker in running] == [0, 0, 0]
    assert len(choices) == 1


def test_a_folder_that_cannot_be_written_to_is_measured_by_each(folder: Path) -> None:
    say(folder, measured_on=ELSEWHERE)
    (folder / bundle.SPEEDS).mkdir()
    assert standing(variants.load_proven(folder, TOLERANCE), "int8").speedup


def test_a_bundle_of_before_says_nothing_of_places_and_still_answers(folder: Path) -> None:
    bundle_info = json.loads((folder / bundle.INFO).read_text())
    del bundle_info["proven_on"]
    for name in ("proven_on", "measured_on"):
        del bundle_info["int8"][name]
    (folder / bundle.INFO).write_text(json.dumps(bundle_info))
    loaded = variants.load_proven(folder, TOLERANCE, variant="int8")
    assert loaded.variant == "int8"
    assert standing(loaded, "int8").proven_on == ()


def test_a_variant_that_the_bundle_does_not_have_is_an_error(folder: Path) -> None:
    with pytest.raises(IntegrityError, match="has no bf16, only fp32, int8"):
        model.load(folder, variant="bf16")
    say(folder, "bf16")
    with pytest.raises(IntegrityError, match="onnxruntime does not compute bf16"):
        model.load(folder, variant="bf16", runtime="onnxruntime")


def test_no_two_products_of_int8_exceed_16_bits(folder: Path) -> None:
    """Which is why it is right everywhere, also where no processor without VNNI can be stood in for."""
    assert 0 < 2 * 255 * most(folder / bundle.INT8_MODEL) <= np.iinfo(np.int16).max


def most(path: Path) -> int:
    """The largest absolute value of the 8-bit weights."""
    arrays = [numpy_helper.to_array(one) for one in onnx.load(str(path)).graph.initializer]
    return max(int(np.abs(a.astype(int)).max()) for a in arrays if a.dtype == np.int8 and a.size > len(LABELS))
