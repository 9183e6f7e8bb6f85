"""The gate stage: a challenger becomes a recorded decision."""

import hashlib
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import func, update

from ml.catalog import cycles, decisions, deployments, holdout_comparisons
from ml.catalog.decisions import Decision
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.holdout_comparisons import HoldoutComparison
from ml.catalog.tables import cycles as cycles_table
from ml.context import Context
from ml.datasets import holdout
from ml.errors import IntegrityError, NotFoundError
from ml.gate import blame, evidence, policy, report, scores, yardstick
from ml.gate.policy import Policy, Ruling
from ml.gate.scores import EvaluatedModel
from ml.models.model import Model
from ml.validation import data_docs

log = logging.getLogger(__name__)


def decide(ctx: Context, model_version: int, *, cycle_id: str, against_new_champion: bool = False) -> Decision:
    """Evaluate a challenger against the champion on the holdout of its dataset version, and record the decision.

    Idempotent: a cycle has one decision on its model, and so have the same challenger, champion and dataset.

    Args:
        against_new_champion: the cycle's decision was made against a champion that is not live any more, so another
            one replaces it in the cycle; both stay recorded.

    Raises:
        NotFoundError: no such version, or it has no tag `dataset_version`.
        IntegrityError: the challenger's bundle is broken.
        UnavailableError: a server does not answer.
    """
    dataset = ctx.registry.tags(model_version).get("dataset_version")
    # One gate at a time: the level of a decision depends on how many decisions were made before.
    with advisory_lock(ctx.engine, "gate"):
        cycle = cycles.get(ctx.engine, cycle_id)
        if not against_new_champion and cycle.decision_id is not None:
            recorded = decisions.get(ctx.engine, cycle.decision_id)
            if recorded.model_version == model_version:
                return recorded
        live = deployments.live(ctx.engine)
        champion = live.model_version if live else None
        if live is not None and champion == model_version:
            return decisions.get(ctx.engine, live.decision_id)
        if dataset is None:
            raise NotFoundError(
                f"version {model_version} has no tag `dataset_version`, so there is no holdout to judge it on"
            )
        key = f"{ctx.settings.model_name}:{model_version}:{champion}:{dataset}:gate"
        decision_id = hashlib.sha256(key.encode()).hexdigest()[:16]
        if (decision := decisions.find(ctx.engine, decision_id)) is None:
            with cycles.stage(ctx.engine, cycle_id, "gate"):
                decision = _decide(ctx, decision_id, model_version, champion, dataset)
    _publish(ctx, decision, cycle_id)
    log.info("decision %s: %s version %d: %s", decision.id, decision.verdict, model_version, decision.reason)
    return decision


def asks_for_labels(decision: Decision) -> str | None:
    """How many labels are needed, if only a small or reused holdout blocked a better challenger; None otherwise."""
    figures, spent = decision.statistics, decision.statistics.get("budget")
    if (
        not spent or decision.verdict == "promote" or "incumbents" not in figures
    ):  # recorded before the rule `better` existed
        return None
    rules = Policy(**figures["rules"])
    if policy.harms(figures, rules):
        return None
    if rules.rule == "better":
        if not policy.lacks_samples_only(figures, rules):
            return None
        overall = [figures["lead"]] if figures["new_classes"] else []
        needed = evidence.samples_to_exclude([*figures["incumbents"], *overall], rules.margin)
        labels = math.ceil(needed / figures["holdout_share"])
        return (
            f"version {decision.model_version} is ahead, but {figures['holdout']} holdout samples cannot exclude a "
            f"loss of more than {policy.points(rules.margin)}. For that about {needed} more are needed: about "
            f"{labels} labelled images"
        )
    gain = spent["gain"]
    if not spent["labels_needed"] or gain["difference"] <= 0 or gain["p_value"] > spent["alpha"]:
        return None
    return (
        f"version {decision.model_version} may be better; the holdout shows {spent['detectable']:.1%} and more only. "
        f"To see {spent['wanted']:.1%} next time, {spent['fresh_needed']} fresh holdout samples are needed: "
        f"about {spent['labels_needed']} labelled images"
    )


def _decide(ctx: Context, decision_id: str, challenger: int, champion: int | None, dataset: str) -> Decision:
    """Decide and record: the report is stored first, database rows last."""
    ruling, figures = _judge(ctx, challenger, champion, dataset)
    decision = Decision(
        id=decision_id,
        model_version=challenger,
        champion_version=champion,
        dataset_version=dataset,
        verdict=ruling.verdict,
        reason=ruling.reason,
        actor="gate",
        statistics=figures,
        report_key=report_key(decision_id),
    )
    ctx.store.put(f"decisions/{decision_id}/report.json", orjson.dumps(asdict(decision)), "application/json")
    ctx.store.put(str(decision.report_key), report.render(decision).encode(), "text/html; charset=utf-8")
    with transaction(ctx.engine) as connection:
        decisions.record(connection, decision)
        holdout.record_use(connection, decision_id, figures["holdout_samples"])
        if spent := figures.get("budget"):
            outcome = "declined" if ruling.verdict == "needs_person" else ruling.verdict
            holdout_comparisons.record(
                connection, HoldoutComparison(spent["number"], decision_id, spent["level"], outcome)
            )
    return decision


def _judge(ctx: Context, challenger: int, champion: int | None, dataset: str) -> tuple[Ruling, dict[str, Any]]:
    rules = Policy.from_settings(ctx.settings)
    evaluated = scores.evaluate(ctx, challenger, scores.load_model(ctx, challenger), dataset)
    figures = evidence.challenger_figures(evaluated) | {
        "rules": asdict(rules),
        "holdout_share": ctx.settings.holdout_share,
    }
    champion_model, broken = _champion(ctx, champion)
    if champion is None or champion_model is None or policy.too_small(len(evaluated.right), rules):
        ruling = policy.first_model(evaluated.right, evaluated.holdout.labels, figures, rules)
        if broken:
            ruling = Ruling(ruling.verdict, f"{broken}; {ruling.reason}")
        return ruling, figures | {"groups": evidence.class_rows(evaluated)}
    champion_side = scores.evaluate(ctx, champion, champion_model, dataset)
    best = _best_so_far(ctx, champion_side, dataset)
    labels = yardstick.find(ctx, champion, dataset, evaluated.holdout)
    sides = {"champion": champion_side, "challenger": evaluated}
    by_reference = {name: labels.judge(side) for name, side in sides.items()}
    best_judged = by_reference["champion"] if best is champion_side else labels.judge(best)
    figures |= evidence.challenger_figures(by_reference["challenger"], figures["served"])
    figures |= evidence.paired_figures(ctx, by_reference["challenger"], by_reference["champion"], best_judged, dataset)
    figures["relabelled"] = yardstick.figures(labels, sides, by_reference)
    ruling = policy.against_champion(figures, rules)
    if ruling.verdict != "promote" and blame.is_needed(figures):
        figures["blame"] = blame.find(ctx, by_reference["challenger"], dataset)
        if figures["blame"] is not None:
            ruling = Ruling(ruling.verdict, f"{ruling.reason}; {blame.sentence(figures['blame'])}")
    return ruling, figures


def _champion(ctx: Context, version: int | None) -> tuple[tuple[Model, Path] | None, str | None]:
    if version is None:
        return None, None
    try:
        return scores.load_model(ctx, version), None
    except (IntegrityError, NotFoundError) as error:
        log.warning("champion %s cannot be compared with: %s", version, error)
        return None, f"champion {version} is broken ({error})"


def _best_so_far(ctx: Context, champion: EvaluatedModel, dataset: str) -> EvaluatedModel:
    """The best champion so far, or the champion if that model is no longer available."""
    best = decisions.best_so_far(ctx.engine, champion.version)
    if best == champion.version:
        return champion
    try:
        return scores.evaluate(ctx, best, scores.load_model(ctx, best), dataset)
    except (IntegrityError, NotFoundError) as error:
        log.warning("version %d, the best so far, cannot be compared with: %s", best, error)
        return champion


def report_key(decision_id: str) -> str:
    """Object key of the decision's report in the store bucket."""
    return f"decisions/{decision_id}/report.html"


def _publish(ctx: Context, decision: Decision, cycle_id: str) -> None:
    """Publish the decision as tags of the MLflow version and in the cycle."""
    figures = decision.statistics
    tags = {"decision": decision.id, "verdict": decision.verdict, "reason": decision.reason}
    page = {"decision_report": data_docs.url(ctx.settings, report_key(decision.id))}
    ctx.registry.tag(decision.model_version, tags | page | _figure_tags(figures))
    values = {"decision_id": decision.id, "verdict": decision.verdict, "reason": decision.reason}
    ended = func.now() if decision.verdict == "reject" else None
    with transaction(ctx.engine) as connection:
        # If the decision was recorded before, a release may have followed, whose outcome must stay.
        new = cycles_table.c.decision_id.is_distinct_from(decision.id)
        connection.execute(
            update(cycles_table).where(cycles_table.c.id == cycle_id, new).values(finished_at=ended, **values)
        )


def _figure_tags(figures: dict[str, Any]) -> dict[str, object]:
    """The key figures as tags; the report has all of them."""
    names = ("challenger_accuracy", "champion_accuracy", "p_value", "holdout", "calibration_rise")
    tags = {name: figures[name] for name in names if figures.get(name) is not None}
    tags |= {f"served_{name}": value for name, value in figures["served"].items()}
    if spent := figures.get("budget"):
        tags |= {
            "gate_level": spent["level"],
            "gate_stated_margin": spent["stated_margin"],
            "gate_decision_number": spent["number"],
        }
        tags |= {"gate_detectable_improvement": spent["detectable"]}
    return tags
