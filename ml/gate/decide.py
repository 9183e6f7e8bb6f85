"""The gate stage: a challenger becomes a recorded decision."""

import hashlib
import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
from sqlalchemy import func, update

from ml.catalog import cycles, decisions
from ml.catalog.decisions import Decision
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles as cycles_table
from ml.context import Context
from ml.datasets import holdout
from ml.errors import ConflictError, IntegrityError, NotFoundError
from ml.gate import policy, report, scores, statistics
from ml.gate.policy import Policy, Ruling
from ml.model import Model

log = logging.getLogger(__name__)


def decide(ctx: Context, model_version: int, *, cycle_id: str) -> Decision:
    """Judge a challenger against the champion on the holdout of the dataset it was trained on.

    The same challenger, champion and dataset give the same decision, so running again returns what
    was recorded; so it does for a challenger that has become the champion since.

    Raises:
        NotFoundError: no such version, or it does not tell its dataset.
        ConflictError: the version is the champion, without a decision.
        IntegrityError: the challenger's bundle is broken.
        UnavailableError: a server does not answer.
    """
    champion = ctx.registry.alias("champion")
    if champion == model_version:
        return _decided(ctx, model_version, cycle_id)
    dataset = ctx.registry.tags(model_version).get("dataset_version")
    if dataset is None:
        raise NotFoundError(
            f"version {model_version} has no tag `dataset_version`, so there is no holdout to judge it on"
        )
    key = f"{ctx.settings.model_name}:{model_version}:{champion}:{dataset}:gate"
    decision_id = hashlib.sha256(key.encode()).hexdigest()[:16]
    if (decision := decisions.find(ctx.engine, decision_id)) is None:
        with cycles.stage(ctx.engine, cycle_id, "gate"):
            ruling, figures = _judge(ctx, model_version, champion, dataset)
            decision = Decision(
                id=decision_id,
                model_version=model_version,
                champion_version=champion,
                dataset_version=dataset,
                verdict=ruling.verdict,
                reason=ruling.reason,
                actor="gate",
                statistics=figures,
                report_key=f"decisions/{decision_id}/report.html",
            )
            ctx.store.put(f"decisions/{decision_id}/report.json", orjson.dumps(asdict(decision)), "application/json")
            ctx.store.put(str(decision.report_key), report.render(decision).encode(), "text/html; charset=utf-8")
            with transaction(ctx.engine) as connection:
                decisions.record(connection, decision)
                holdout.record_use(connection, decision_id, figures["holdout"])
    _note(ctx, decision, cycle_id)
    log.info("decision %s: %s version %d: %s", decision.id, decision.verdict, model_version, decision.reason)
    return decision


def _decided(ctx: Context, champion: int, cycle_id: str) -> Decision:
    """What the cycle decided on the champion, else what made it the champion."""
    mine = cycles.get(ctx.engine, cycle_id)
    if mine["decision_id"] is not None and mine["model_version"] in (None, champion):
        return decisions.get(ctx.engine, mine["decision_id"])
    if (newest := decisions.of_models(ctx.engine).get(champion)) is not None:
        return newest
    raise ConflictError(f"version {champion} is the champion already: there is nothing to compare it with")


def _judge(ctx: Context, challenger: int, champion: int | None, dataset: str) -> tuple[Ruling, dict[str, Any]]:
    rules = Policy(ctx.settings.gate_alpha, ctx.settings.gate_min_holdout)
    judge, _ = scores.load_model(ctx, challenger)
    judged_on, answers = scores.score(ctx, challenger, judge, dataset)
    right = scores.right(judged_on, answers)
    figures: dict[str, Any] = {
        "holdout": len(right),
        "challenger_accuracy": float(right.mean()) if len(right) else None,
        "challenger_interval": statistics.wilson(int(right.sum()), len(right)),
    }
    other, broken = _champion(ctx, champion)
    if champion is None or other is None:
        ruling = policy.first_model(right, judged_on.labels, rules)
        if broken:
            ruling = Ruling(ruling.verdict, f"{broken}; {ruling.reason}")
        return ruling, figures | {
            "classes": policy.by_class({"challenger": right}, judged_on.labels, judged_on.classes)
        }
    old_holdout, old_answers = scores.score(ctx, champion, other, dataset)
    old_right = scores.right(old_holdout, old_answers)
    if not len(right):
        return policy.first_model(right, judged_on.labels, rules), figures
    comparison = statistics.compare(old_right, right, ctx.settings.seed)
    harmed = policy.harmed_classes(old_right, right, judged_on.labels, judged_on.classes, rules.alpha)
    rows = policy.by_class({"champion": old_right, "challenger": right}, judged_on.labels, judged_on.classes)
    figures |= asdict(comparison) | {
        "champion_interval": statistics.wilson(int(np.count_nonzero(old_right)), len(old_right)),
        "harmed_classes": harmed,
        "classes": rows,
    }
    return policy.against_champion(comparison, harmed, rules), figures


def _champion(ctx: Context, version: int | None) -> tuple[Model | None, str | None]:
    if version is None:
        return None, None
    try:
        return scores.load_model(ctx, version)[0], None
    except (IntegrityError, NotFoundError) as error:
        log.warning("champion %s cannot be compared with: %s", version, error)
        return None, f"champion {version} is broken ({error})"


def _note(ctx: Context, decision: Decision, cycle_id: str) -> None:
    """Say it where people look: on the MLflow version, and in the cycle."""
    figures = decision.statistics
    tags = {"decision": decision.id, "verdict": decision.verdict, "reason": decision.reason}
    shown = ("challenger_accuracy", "champion_accuracy", "p_value", "holdout")
    ctx.registry.tag(decision.model_version, tags | {k: figures[k] for k in shown if figures.get(k) is not None})
    told = {"decision_id": decision.id, "verdict": decision.verdict, "reason": decision.reason}
    ended = func.now() if decision.verdict == "reject" else None
    with transaction(ctx.engine) as connection:
        # A decision noted before may have been followed by a release, whose outcome stays.
        new = cycles_table.c.decision_id.is_distinct_from(decision.id)
        connection.execute(
            update(cycles_table).where(cycles_table.c.id == cycle_id, new).values(finished_at=ended, **told)
        )
