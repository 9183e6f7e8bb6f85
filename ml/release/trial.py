"""A trial: a challenger beside the live model, as a canary or as a shadow, until it shows harm or has answered enough.

The row of a deployment on trial is the whole state, so that whoever looks may be killed at any time and
anybody may look next: each worker of the service does, Airflow's sensor and `monitor` do. What ends
well becomes a rolling deployment like any other.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import func, select

from ml import alerts
from ml.catalog import deployments, trials
from ml.catalog.engine import advisory_lock, transaction
from ml.context import Context
from ml.errors import ConflictError, NotFoundError
from ml.release import deploy, evidence
from ml.release.deploy import Deployment
from ml.release.evidence import Finding

log = logging.getLogger(__name__)

_DEATHS: Final = 2
"""Workers that died holding the candidate, from which it is blamed; one may have died of something else."""
_LOGGED: Final = 0.9
"""Share of the counted answers that the prediction log must have before it is looked at."""


def step(ctx: Context, *, wait: bool = True) -> Deployment | None:
    """Look at the trial that is going on, and end it if it is time; None where there is none.

    Args:
        wait: for a mover that is at work; otherwise this look is left out.

    Raises:
        UnavailableError: a server does not answer; the trial goes on.
    """
    try:
        with advisory_lock(ctx.engine, deploy.LOCK, wait=wait):
            deploy.reconcile_locked(ctx)
            row = _on_trial(ctx)
            return _look(ctx, row) if row else None
    except ConflictError:
        return None


def wait(ctx: Context, deployment_id: int, pause: float, on_look: Callable[[str], None] = lambda _: None) -> Deployment:
    """Look until the trial of a deployment has ended; its fate.

    Raises:
        NotFoundError: no such deployment.
        UnavailableError: a server does not answer.
    """
    while True:
        step(ctx)
        row = deployments.get(ctx.engine, deployment_id)
        if row is None:
            raise NotFoundError(f"no deployment has the id {deployment_id}")
        if row["status"] not in ("trial", "rolling"):
            return deploy.as_deployment(row, deploy.running(ctx, deployment_id), 0.0)
        on_look(row["findings"].get("words", "replicas load the candidate"))
        time.sleep(pause)


def _look(ctx: Context, row: dict[str, Any]) -> Deployment:
    if problem := _trouble(ctx, row):
        return _turn_down(ctx, row, problem, row["findings"])
    if row["trial_at"] is None:
        return _start(ctx, row)
    counted = trials.tally(ctx.engine, row["id"])
    answered, planned = int(counted["candidate_asked"]), evidence.planned(ctx.settings.trial_answers)
    due = sum(answered >= at for at in planned)
    over = row["age"] > 60 * ctx.settings.trial_minutes
    findings = row["findings"] | {"answers": answered, "of": planned[-1], "skipped": int(counted["skipped"])}
    if due > findings.get("look", 0) or over:
        found = _find(ctx, row, counted, evidence.quantile(ctx.settings.trial_alpha, len(planned)))
        if found is not None:
            words = f"{row['strategy']} of {answered} answers: " + "; ".join(f.words for f in found)
            findings |= {"look": due, "words": words, "measures": [vars(f) for f in found]}
            if harm := [f.name for f in found if f.harm]:
                return _turn_down(ctx, row, f"worse by {' and '.join(harm)} ({words})", findings)
            if due == len(planned) or (over and answered >= evidence.FIRST_LOOK):
                return _roll_out(ctx, row, f"no harm shown by the {words}", findings)
        if over:
            least = evidence.FIRST_LOOK
            problem = (
                f"{answered} answers within {ctx.settings.trial_minutes:g} minutes are too few, {least} are needed"
            )
            problem = problem if found is not None else "the prediction log does not have the trial's answers"
            return _turn_down(ctx, row, problem, findings)
    if findings != row["findings"]:
        _keep(ctx, row, findings=findings)
    return deploy.as_deployment(row, 0, row["age"])


def _start(ctx: Context, row: dict[str, Any]) -> Deployment:
    """The trial counts from when every live replica holds the candidate."""
    live = deployments.live_replicas(ctx.engine, ctx.settings.heartbeat_seconds)
    waiting = [r["id"] for r in live if r["candidate_deployment_id"] != row["id"]]
    if live and not waiting:
        _keep(ctx, row, trial_at=func.now())
    elif waiting and row["age"] > ctx.settings.release_timeout:
        problem = f"{len(waiting)} of {len(live)} replicas did not load it within {ctx.settings.release_timeout} s"
        return _turn_down(ctx, row, problem, {})
    elif row["age"] > 60 * ctx.settings.trial_minutes:
        return _turn_down(ctx, row, "no replica was running to try it", {})
    return deploy.as_deployment(row, len(live) - len(waiting), row["age"])


def _trouble(ctx: Context, row: dict[str, Any]) -> str | None:
    """What ends a trial without any statistics."""
    live = deployments.live_replicas(ctx.engine, ctx.settings.heartbeat_seconds)
    if refused := [r for r in live if r["failed_deployment_id"] == row["id"]]:
        return f"replica {refused[0]['id']} refused it: {refused[0]['error']}"
    died = trials.died_with(ctx.engine, row["id"], ctx.settings.heartbeat_seconds)
    return f"{died} workers died while they held it" if died >= _DEATHS else None


def _find(ctx: Context, row: dict[str, Any], counted: dict[str, float], z: float) -> list[Finding] | None:
    """None: the prediction log does not have the answers yet."""
    errors = evidence.excess(
        "errors",
        (counted["candidate_errors"], counted["candidate_asked"]),
        (counted["live_errors"], counted["live_asked"]),
        z,
    )
    measures = _of_shadow if row["strategy"] == "shadow" else _of_canary
    others = measures(ctx, row, counted, z)
    return None if others is None else [errors, *others]


def _of_canary(ctx: Context, row: dict[str, Any], counted: dict[str, float], z: float) -> list[Finding] | None:
    settings, engine, since = ctx.settings, ctx.engine, row["trial_at"]
    candidate, live = (row["model_version"], row["previous_version"])
    told = [trials.answers(engine, version, since) for version in (candidate, live)]
    if told[0].count < _LOGGED * (counted["candidate_asked"] - counted["candidate_errors"]):
        return None
    mine, theirs = ((a.count, a.confidence, a.variance) for a in told)
    found = [evidence.drop(mine, theirs, settings.trial_confidence, z)]
    bounds = [evidence.median_shares(a.count, z) for a in told]
    if bounds[0] and bounds[1]:
        low = trials.latency(engine, candidate, since, (bounds[0][0], 0.5))
        high = trials.latency(engine, live, since, (bounds[1][1], 0.5))
        found.append(evidence.slower(low, high, settings.trial_slowdown))
    judged = [trials.judged(engine, version, since) for version in (candidate, live)]
    if judged[0][0] and judged[1][0]:
        wrong = [(count - right, count) for count, right in judged]
        found.append(evidence.excess("wrong by feedback", wrong[0], wrong[1], z))
    return found


def _of_shadow(ctx: Context, row: dict[str, Any], counted: dict[str, float], z: float) -> list[Finding] | None:
    settings, count = ctx.settings, counted["live_asked"]
    ratio = f"{math.exp(counted['slower'] / count if count else 0):.2f} times the time of the live model"
    lost = f"confidence lower by {counted['drop'] / count if count else 0:.3f}"
    found = [
        evidence.at_most("other labels", counted["disagreed"], count, settings.trial_disagreement, z),
        evidence.mean_above(
            "confidence", lost, (count, counted["drop"], counted["drop_squares"]), settings.trial_confidence, z
        ),
        evidence.mean_above(
            "latency",
            ratio,
            (count, counted["slower"], counted["slower_squares"]),
            math.log(settings.trial_slowdown),
            z,
        ),
    ]
    live_right, candidate_right = trials.disputed(ctx.engine, row["id"])
    if live_right + candidate_right:
        found.append(evidence.sign_test(live_right, candidate_right, z))
    return found


def _roll_out(ctx: Context, row: dict[str, Any], words: str, findings: dict[str, Any]) -> Deployment:
    _keep(ctx, row, status="rolling", reason=words, findings=findings)
    return deploy.conclude(ctx, row["id"], time.monotonic())


def _turn_down(ctx: Context, row: dict[str, Any], problem: str, findings: dict[str, Any]) -> Deployment:
    with transaction(ctx.engine) as connection:
        deployments.change(connection, row["id"], findings=findings)
        deployments.end(connection, row["id"], "failed", problem)
    alerts.alert(ctx.settings, f"the {row['strategy']} of version {row['model_version']} was turned down", problem)
    return deploy.as_deployment(row | {"status": "failed", "reason": problem}, 0, row["age"])


def _keep(ctx: Context, row: dict[str, Any], **columns: Any) -> None:
    with transaction(ctx.engine) as connection:
        deployments.change(connection, row["id"], **columns)


def _on_trial(ctx: Context) -> dict[str, Any] | None:
    """The row, and its `age`: seconds since the trial counts, or since it was made."""
    with transaction(ctx.engine) as connection:
        row = deployments.on_trial(connection)
        now = connection.execute(select(func.now())).scalar_one()
    return row and row | {"age": (now - (row["trial_at"] or row["created_at"])).total_seconds()}
