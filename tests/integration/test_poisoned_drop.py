"""A poisoned drop is held; approved by mistake it is blamed and reverted; the next model is as if it never came."""

import random
from collections.abc import Callable

import numpy as np
from typer.testing import CliRunner

from ml.catalog import decisions, drops
from ml.catalog.cycles import CycleRecord
from ml.catalog.decisions import Decision
from ml.cli.main import app
from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.splits import SPLITS
from ml.gate import scores
from ml.imaging import images
from ml.ingest import ingest
from ml.pipeline import run_cycle
from tests.environment import environment
from tests.pictures import digits, upload

LIMITS = images.Limits(max_bytes=10_000, max_pixels=10_000)


def quiet(stage: str, detail: str) -> None:
    """Nobody listens."""


def shuffled_digits() -> list[tuple[str, bytes]]:
    """Mixed, so that no drop has writers of its own and counts as images of another kind."""
    return random.Random(1).sample(digits(), len(digits()))


def files(start: int, stop: int, shift: int = 0) -> dict[str, bytes]:
    """Digits as class folders; each is called by the class that is `shift` after its own."""
    numbered = enumerate(shuffled_digits()[start:stop], start)
    return {f"{(int(label) + shift) % 10}/{i:04}.png": data for i, (label, data) in numbered}


def output_of(ctx: Context, *arguments: str) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, arguments, env=environment(ctx.settings) | {"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def accuracy(ctx: Context, version: int | None) -> float:
    """Of a model, on digits that are never uploaded."""
    assert version is not None
    model, _ = scores.load_model(ctx, version)
    info, unseen = model.info, shuffled_digits()[1497:]
    pixels = [images.decode(data, info.image_size, info.channels, LIMITS) for _, data in unseen]
    answers = model.predict(np.stack(pixels)).argmax(1)
    return float(np.mean([info.labels[a] == label for a, (label, _) in zip(answers, unseen, strict=True)]))


def contents(ctx: Context, version: str) -> dict[str, tuple[str, str]]:
    """SHA-256 of the version's samples → split and label."""
    parts = {name: loader.load(ctx, version, name, 8, 1) for name in SPLITS}
    return {
        digest: (name, part.classes[label])
        for name, part in parts.items()
        for digest, label in zip(part.sha256, part.labels, strict=True)
    }


def decision_of(ctx: Context, cycle: CycleRecord) -> Decision:
    assert cycle.decision_id is not None, cycle.reason
    return decisions.get(ctx.engine, cycle.decision_id)


def check_held(ctx: Context, held: CycleRecord) -> None:
    """The drop waits, and its worst images are named and can be shown."""
    assert held.verdict == "held"
    shown = output_of(ctx, "drops", "show", "crowd")
    assert "look like the stored" in shown
    finding = next(f for f in drops.get(ctx.engine, held.id).findings if f["holds"])
    assert all(key in shown for key in finding["images"][:20])
    assert {place["key"] for place in finding["pictures"]} <= set(finding["images"])
    assert finding["pictures"]


def check_blamed(ctx: Context, decision: Decision, drop_id: str) -> None:
    """The gate refuses the challenger, and names the drop of all three, its images and the way out."""
    assert decision.verdict == "reject"
    first = decision.statistics["blame"]["drops"][0]
    assert (first["drop"], first["name"], len(first["images"])) == (drop_id, "crowd", 20)
    assert first["contradicting"] > first["expected"]
    assert "evergreen drops revert crowd --reason" in decision.reason
    shown = output_of(ctx, "decisions", "show", decision.id)
    assert all(image["sha256"] in shown for image in first["images"])


def test_a_poisoned_drop_leaves_no_trace_once_it_is_reverted(
    make_context: Callable[..., Context], mlflow_url: str
) -> None:
    rules = {"epochs": 5, "gate_corrupted": 0, "train_threads": 1, "holdout_growth": 0.1, "holdout_growth_least": 10}
    ctx = make_context(mlflow_url=mlflow_url, model_name="poisoned", experiment="poisoned", **rules)
    first = run_cycle(ctx, upload(ctx, "monday", files(0, 350)), on_stage=quiet)
    assert first.verdict == "promote", first.reason
    before = accuracy(ctx, first.model_version)
    crowd = upload(ctx, "crowd", files(450, 1100, shift=1))
    check_held(ctx, run_cycle(ctx, crowd, on_stage=quiet))
    clean = ingest(ctx, upload(ctx, "tuesday", files(350, 450))).version
    assert clean is not None, "a drop that waits holds up no other"

    output_of(ctx, "drops", "approve", "crowd", "--reason", "not looked at")
    poisoned = run_cycle(ctx, crowd, on_stage=quiet)
    check_blamed(ctx, decision_of(ctx, poisoned), poisoned.id)
    assert accuracy(ctx, poisoned.model_version) < before - 0.3

    assert "crowd: 650 samples taken out" in output_of(
        ctx, "drops", "revert", "crowd", "--reason", "labels are off by one"
    )
    reverted = versions.latest(ctx)
    assert reverted is not None
    assert contents(ctx, reverted.id) == contents(ctx, clean), "the same samples, splits and labels as without it"
    again = run_cycle(ctx, retrain=True, on_stage=quiet)
    assert "crowd" not in str(again.reason)
    assert accuracy(ctx, again.model_version) > before - 0.1
