"""Decoding processes: answers in order, and one that dies takes only its image with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.errors import UnavailableError
from ml.imaging import images
from ml.imaging.images import Limits
from ml.imaging.sandbox import DecoderPool
from tests.hostile.make import GOOD, encoded, hostile, picture, png
from tests.hostile.make import progressive_bomb as scans
from tests.servers import wait_until

LIMITS = Limits(20_000_000, 40_000_000)
GOOD_PNG = encoded(picture(), "PNG")
# A decoder that a certain image ends at once, another one after a while.
FRAGILE = (
    "-c",
    "import os, sys, time\n"
    "from ml.imaging import images\n"
    "from ml.imaging import sandbox_process as decoder\n"
    "decode = images.decode_for_features\n"
    "def fragile(data, *rest):\n"
    "    if data == b'kill': os.kill(os.getpid(), 11)\n"
    "    if data == b'slow': time.sleep(30)\n"
    "    return decode(data, *rest)\n"
    "images.decode_for_features = fragile\n"
    "decoder.main(sys.argv[1:])\n",
)


def children() -> set[int]:
    result = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "sandbox_process"], capture_output=True, text=True, check=False
    )
    return {int(pid) for pid in result.stdout.split()}


def test_answers_are_those_of_this_process_in_order() -> None:
    pngs = [encoded(Image.new("L", (4 + i, 5)), "PNG") for i in range(100)]
    with DecoderPool(LIMITS) as decoders:
        futures = [decoders.submit(pngs[i : i + 7]) for i in range(0, 100, 7)]
        answers = [a for f in futures for a in f.result()]
    assert [a["width"] for a in answers] == list(range(4, 104))
    assert answers[3] == vars(images.inspect(pngs[3], LIMITS))
    assert not children()


def test_hostile_images_have_reasons_in_bounded_time() -> None:
    samples = hostile()
    with DecoderPool(LIMITS, seconds=5) as decoders:
        names = list(samples)
        answers = dict(zip(names, decoders.submit([samples[n][0] for n in names]).result(), strict=True))
    assert {n for n in names if "problem" not in answers[n]} == {n for n in names if samples[n][1] is GOOD}


def test_an_image_that_kills_its_decoder_is_the_only_victim() -> None:
    batch = [GOOD_PNG, b"kill", GOOD_PNG, b"kill", b"text", GOOD_PNG]
    with DecoderPool(LIMITS, program=FRAGILE) as decoders:
        answers = decoders.submit(batch).result()
        assert decoders.submit([GOOD_PNG]).result()[0]["width"] == 24
    assert ["width" in a for a in answers] == [True, False, True, False, False, True]
    assert answers[1] == {"problem": "decoding the image ends the decoder (status -11)"}
    assert "not an image" in answers[4]["problem"]
    assert not children()


def test_time_is_bounded() -> None:
    slow = scans(80)
    assert images.inspect(slow, LIMITS).width == 4096  # it would come to an end
    with DecoderPool(LIMITS, seconds=0.2) as decoders:
        (answer,) = decoders.submit([slow]).result()
    assert answer == {"problem": "decoding the image takes more than 0.2 s of processor time"}


def test_memory_is_bounded() -> None:
    large = encoded(Image.fromarray(np.zeros((6000, 6000), np.uint8)), "PNG")
    with DecoderPool(LIMITS, memory=400_000_000) as decoders:
        answers = decoders.submit([GOOD_PNG, large, GOOD_PNG]).result()
    assert "memory" in answers[1]["problem"]
    assert answers[0] == answers[2]


def test_the_largest_image_fits_into_the_memory_given() -> None:
    side = int(LIMITS.max_pixels**0.5)
    for kind, mode in (("PNG", "RGBA"), ("JPEG", "RGB")):
        with DecoderPool(LIMITS, seconds=60) as decoders:
            (answer,) = decoders.submit([encoded(Image.new(mode, (side, side)), kind)]).result()
        assert answer.get("width") == side, answer


def test_a_decoder_killed_from_outside_costs_nothing() -> None:
    with DecoderPool(LIMITS) as decoders:
        assert decoders.submit([GOOD_PNG]).result()
        assert len(children()) == 1
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        answers = decoders.submit([GOOD_PNG] * 3).result()
    assert [a["width"] for a in answers] == [24] * 3


def test_a_decoder_that_does_not_start_is_no_fault_of_the_image() -> None:
    with DecoderPool(LIMITS, program=("-c", "raise SystemExit(3)")) as decoders, pytest.raises(UnavailableError):
        decoders.submit([GOOD_PNG]).result()


def test_decoders_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys; from ml.imaging.sandbox import DecoderPool; from ml.imaging.images import Limits\n"
        "decoders = DecoderPool(Limits(9, 9)); decoders.__enter__(); decoders.submit([b'x']).result()\n"
        "print(decoders._idle.get()._process.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    wait_until(lambda: not Path(f"/proc/{int(result.stdout)}").exists(), what="the decoder's end")


def test_no_credentials_reach_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_S3_SECRET_KEY", "secret")
    program = (
        "-c",
        "import json, os, sys\nprint('ready', flush=True)\nsys.stdin.buffer.read(4)\n"
        "print(json.dumps([dict(os.environ)]), flush=True)\n",
    )
    with DecoderPool(LIMITS, program=program) as decoders:
        (environment,) = decoders.submit([b"x"]).result()
    assert "PYTHONPATH" in environment
    assert not [name for name in environment if name.startswith("EVERGREEN")]


def test_odd_sizes() -> None:
    with DecoderPool(LIMITS) as decoders:
        assert decoders.submit([]).result() == []
        assert "empty" in decoders.submit([b""]).result()[0]["problem"]
        assert "broken" in decoders.submit([png(9, 9, data=b"x")]).result()[0]["problem"]
