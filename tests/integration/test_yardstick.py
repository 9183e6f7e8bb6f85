"""No drop changes the labels by which its own challenger is judged, and a copy of a sample adds no weight."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ml.catalog import label_queue
from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.datasets import answers, fixes, loader, revert, versions
from ml.gate import representatives
from ml.ingest import ingest
from tests.drops import ingest_approved
from tests.gates import Gate
from tests.pictures import digit_files, upload


def relabelled(label: str, to: str, stop: int = 700) -> dict[str, bytes]:
    """A drop of known digits under another label, by two invented annotators."""
    known = {name.replace("/", "-"): data for name, data in digit_files(0, stop).items() if name.startswith(label)}
    rows = [f"{name},{to},{who}" for name in known for who in ("ann", "bob")]
    return known | {"labels.csv": "\n".join(["file,label,annotator", *rows]).encode()}


def attack(gate: Gate) -> int:
    """All threes become eights; returns how many of them are in the holdout, near copies once."""
    holdout = loader.load(gate.ctx, gate.dataset, "holdout", 8, 1)
    once = holdout.take(representatives.positions(gate.ctx, holdout))
    version = ingest_approved(gate.ctx, "attack", relabelled("3", "8")).version
    assert version is not None
    gate.dataset = version
    return int((np.asarray(once.classes)[once.labels] == "3").sum())


def test_a_drop_that_relabels_the_holdout_does_not_promote_its_challenger(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    before = gate.decide(gate.model(2, seed=1)).statistics
    threes = attack(gate)
    decision = gate.decide(gate.model(3))
    figures, changes = decision.statistics, decision.statistics["relabelled"]
    assert decision.verdict == "needs_person", "by the new labels it is ahead"
    assert f"drop attack changed {threes} of the holdout's labels ({threes} 3 to 8)" in decision.reason
    assert f"{threes / figures['holdout']:.1%} of the holdout's labels were changed" in decision.reason
    assert figures["champion_accuracy"] == before["champion_accuracy"], "judged by the labels as they were"
    assert figures["champion_brier"] == pytest.approx(before["champion_brier"], abs=1e-6)
    assert figures["challenger_accuracy"] < figures["champion_accuracy"]
    assert (changes["changed"], changes["applied"], changes["reference"]) == (threes, 0, before_dataset(gate))
    assert changes["right_after"]["challenger"] > changes["right_before"]["challenger"]
    assert changes["right_after"]["champion"] < changes["right_before"]["champion"]
    assert changes["brier_after"]["champion"] > changes["brier_before"]["champion"]
    (row,) = changes["by"]
    assert (row["by"], row["annotators"]) == ("drop attack", ["ann", "bob"])
    assert {(s["before"], s["after"], s["judged"]) for s in changes["samples"]} == {("3", "8", "3")}
    assert decision.report_key is not None
    assert b"drop attack" in gate.ctx.store.get(decision.report_key)
    worse = gate.decide(gate.model(4, fitted_to=30))
    assert worse.verdict == "reject", "ahead by neither"


def before_dataset(gate: Gate) -> str:
    return gate.registry.tags(1)["dataset_version"]


def test_few_changed_labels_ask_nobody_and_count_as_before(
    make_gate: Callable[..., Gate],
) -> None:
    gate = make_gate(gate_relabelled=0.5)
    gate.make_live(gate.model(1))
    attack(gate)
    decision = gate.decide(gate.model(2))
    assert decision.verdict == "reject"
    assert "which count as before" in decision.reason


def test_rejected_challengers_move_no_yardstick_and_a_revert_does(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    threes = attack(gate)
    gate.decide(gate.model(2))
    newer = ingest(gate.ctx, upload(gate.ctx, "two", digit_files(700, 900))).version
    assert newer is not None
    gate.dataset = newer
    assert gate.decide(gate.model(3)).statistics["relabelled"]["changed"] == threes, "still not the champion's labels"
    undone = revert.revert(gate.ctx, "attack", actor="ann", reason="poison").version
    assert undone is not None
    gate.dataset = undone
    changes = gate.decide(gate.model(4, fitted_to=900, seed=2)).statistics["relabelled"]
    assert (changes["changed"], changes["applied"]) == (0, 0), "as the champion knew them"


def test_a_champion_that_learned_poison_is_judged_by_the_labels_without_it(gate: Gate) -> None:
    threes = attack(gate)
    gate.make_live(gate.model(1))
    undone = revert.revert(gate.ctx, "attack", actor="ann", reason="poison").version
    assert undone is not None
    gate.dataset = undone
    decision = gate.decide(gate.model(2))
    changes = decision.statistics["relabelled"]
    assert (changes["changed"], changes["applied"]) == (0, threes), "the operator's act counts at once"
    assert [row["by"] for row in changes["applied_by"]] == ["the revert of attack"]
    assert decision.verdict == "promote"


def test_an_operators_word_counts_at_once(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    holdout = loader.load(gate.ctx, gate.dataset, "holdout", 8, 1)
    digest = holdout.sha256[0]
    label = holdout.classes[(holdout.labels[0] + 1) % 10]
    other = {"x.png": dict(by_digest())[digest], "labels.csv": f"file,label\nx.png,{label}".encode()}
    ingest(gate.ctx, upload(gate.ctx, "doubt", other))
    with transaction(gate.ctx.engine) as connection:
        (task,) = label_queue.open_tasks(connection, 10)
    version = answers.answer(gate.ctx, task.id, label, actor="ann").version
    assert version is not None
    gate.dataset = version
    changes = gate.decide(gate.model(2)).statistics["relabelled"]
    (changed,) = changes["samples"]
    assert (changes["applied"], changed["by"], changed["judged"]) == (1, "operator ann", label)


def by_digest() -> list[tuple[str, bytes]]:
    import hashlib

    return [(hashlib.sha256(data).hexdigest(), data) for data in digit_files(0, 700).values()]


def test_a_bulk_correction_counts_at_once_and_can_be_undone(gate: Gate) -> None:
    threes = attack(gate)
    gate.make_live(gate.model(1))
    fixed = fixes.fix(gate.ctx, "attack", "8", "3", actor="ann", reason="they are threes")
    gate.dataset = fixed.version
    decision = gate.decide(gate.model(2))
    changes = decision.statistics["relabelled"]
    assert changes["applied"] == threes
    assert changes["changed"] == 0
    assert decision.verdict == "promote"
    undone = fixes.undo(gate.ctx, fixed.id, actor="ann")
    assert undone.samples == fixed.samples
    (record,) = fixes.history(gate.ctx)
    assert (record.samples, record.undone_by, record.label_after) == (fixed.samples, "ann", "3")


def test_near_copies_count_once_in_every_figure(gate: Gate) -> None:
    gate.make_live(gate.model(1))
    before = gate.decide(gate.model(2, seed=1)).statistics
    holdout = loader.load(gate.ctx, gate.dataset, "holdout", 8, 1)
    files = dict(by_digest())
    copies = {}
    for number, digest in enumerate(holdout.sha256[:20]):
        picture = Image.open(io.BytesIO(files[digest]))
        for copy in range(5):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG", compress_level=copy)
            copies[f"9/{number}-{copy}.png"] = buffer.getvalue()
    flood = ingest(gate.ctx, upload(gate.ctx, "flood", copies)).version
    assert flood is not None
    gate.dataset = flood
    after = gate.decide(gate.model(3, seed=1)).statistics
    assert after["holdout"] == before["holdout"]
    assert after["holdout_samples"] == versions.get(gate.ctx, flood).holdout > before["holdout_samples"]
    assert after["champion_accuracy"] == before["champion_accuracy"]
    assert sum(row["samples"] for row in after["groups"] if row["kind"] == "class") == after["holdout"]
    assert f"groups of near copies ({after['holdout_samples']} samples)" in gate.decide(3).reason
    assert gate.count(samples) > len(files)


def test_a_sample_that_the_catalog_lost_is_a_group_of_its_own(gate: Gate) -> None:
    holdout = loader.load(gate.ctx, gate.dataset, "holdout", 8, 1)
    unknown = replace(holdout, sha256=[f"{i:064x}" for i in range(len(holdout))])
    assert representatives.positions(gate.ctx, unknown).tolist() == list(range(len(holdout)))
