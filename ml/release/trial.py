"""Trials: run a challenger as a canary or shadow until it shows harm or has answered enough requests.

The row of the deployment on trial is the whole state, so any process can advance the trial and be killed at
any time: each worker of the service does, as do Airflow's sensor and `monitor`. A passed trial becomes an
ordinary rolling deployment.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import func, select

from ml import alerts
from ml.catalog import deployments, trials
from ml.catalog.deployments import DeploymentRecord
from ml.catalog.engine import advisory_lock, transaction
from ml.context import Context
from ml.errors import ConflictError, EvergreenError, NotFoundError
from ml.release import deploy, evidence
from ml.release.deploy import Deployment
from ml.release.evidence import Finding

log = logging.getLogger(__name__)

_LOST_WORKERS: Final = 2
"""Lost workers from which the candidate is blamed; a single one may have died for another reason."""
_LOGGED_SHARE: Final = 0.9
"""Share of the counted answers that must be in the prediction log before it is evaluated."""


@dataclass(frozen=True)
class _Trial:
    """The deployment on trial, and the seconds since the trial started counting, or since it was created."""

    deployment: DeploymentRecord
    age: float


def advance(ctx: Context, *, wait: bool = True) -> Deployment | None:
    """Evaluate the running trial and end it if it is due; None if there is none.

    Args:
        wait: whether to wait for a deployment in progress; if not, this evaluation is skipped.

    Raises:
        UnavailableError: a server does not answer; the trial continues.
    """
    try:
        with advisory_lock(ctx.engine, deploy.LOCK, wait=wait):
            deploy.conclude_interrupted(ctx)
            trial = _running_trial(ctx)
            return _evaluate(ctx, trial) if trial else None
    except ConflictError:
        return None


def wait(ctx: Context, deployment_id: int, pause: float, on_look: Callable[[str], None] = lambda _: None) -> Deployment:
    """Advance the trial of a deployment until it has ended; return the outcome.

    Raises:
        NotFoundError: there is no such deployment.
        UnavailableError: a server does not answer.
    """
    while True:
        advance(ctx)
        deployment = deployments.get(ctx.engine, deployment_id)
        if deployment is None:
            raise NotFoundError(f"no deployment has the id {deployment_id}")
        if deployment.status not in ("trial", "rolling"):
            return deploy.as_deployment(deployment, deploy.count_running(ctx, deployment_id), 0.0)
        on_look(deployment.findings.get("words", "replicas load the candidate"))
        time.sleep(pause)


def _evaluate(ctx: Context, trial: _Trial) -> Deployment:
    deployment = trial.deployment
    if problem := _immediate_failure(ctx, deployment.id):
        return _reject(ctx, trial, problem, deployment.findings)
    if deployment.trial_at is None:
        return _start(ctx, trial)
    counted = trials.totals(ctx.engine, deployment.id)
    answer_count, planned = int(counted["candidate_asked"]), evidence.planned_looks(ctx.settings.trial_answers)
    due = sum(answer_count >= at for at in planned)
    timed_out = trial.age > 60 * ctx.settings.trial_minutes
    findings = deployment.findings | {"answers": answer_count, "of": planned[-1], "skipped": int(counted["skipped"])}
    if due > findings.get("look", 0) or timed_out:
        results = _measure(ctx, deployment, counted, evidence.quantile(ctx.settings.trial_alpha, len(planned)))
        if results is not None:
            summary = f"{deployment.strategy} of {answer_count} answers: " + "; ".join(f.words for f in results)
            findings |= {"look": due, "words": summary, "measures": [vars(f) for f in results]}
            if harm := [f.name for f in results if f.harm]:
                return _reject(ctx, trial, f"worse by {' and '.join(harm)} ({summary})", findings)
            if due == len(planned) or (timed_out and answer_count >= evidence.FIRST_LOOK):
                return _roll_out(ctx, deployment.id, f"no harm shown by the {summary}", findings)
        if timed_out:
            minimum = evidence.FIRST_LOOK
            minutes = ctx.settings.trial_minutes
            problem = f"{answer_count} answers within {minutes:g} minutes are too few, {minimum} are needed"
            if results is None:
                problem = "the prediction log does not have the trial's answers"
            return _reject(ctx, trial, problem, findings)
    if findings != deployment.findings:
        _update(ctx, deployment.id, findings=findings)
    return deploy.as_deployment(deployment, 0, trial.age)


def _start(ctx: Context, trial: _Trial) -> Deployment:
    """Start counting once every live replica has loaded the candidate."""
    deployment = trial.deployment
    live = deployments.live_replicas(ctx.engine, ctx.settings.heartbeat_seconds)
    waiting = [r.id for r in live if r.candidate_deployment_id != deployment.id]
    if live and not waiting:
        _update(ctx, deployment.id, trial_at=func.now())
    elif waiting and trial.age > ctx.settings.release_timeout:
        problem = f"{len(waiting)} of {len(live)} replicas did not load it within {ctx.settings.release_timeout} s"
        return _reject(ctx, trial, problem, {})
    elif trial.age > 60 * ctx.settings.trial_minutes:
        return _reject(ctx, trial, "no replica was running to try it", {})
    return deploy.as_deployment(deployment, len(live) - len(waiting), trial.age)


def _immediate_failure(ctx: Context, deployment_id: int) -> str | None:
    """Return a problem that ends the trial without statistics: a failed load, or lost workers."""
    live = deployments.live_replicas(ctx.engine, ctx.settings.heartbeat_seconds)
    if failed := [r for r in live if r.failed_deployment_id == deployment_id]:
        return f"replica {failed[0].id} refused it: {failed[0].error}"
    lost = trials.count_lost_replicas(ctx.engine, deployment_id, ctx.settings.heartbeat_seconds)
    return f"{lost} workers died while they held it" if lost >= _LOST_WORKERS else None


def _measure(ctx: Context, deployment: DeploymentRecord, counted: dict[str, float], z: float) -> list[Finding] | None:
    """Evaluate all measures; None if the prediction log does not have the answers yet."""
    errors = evidence.rate_increase(
        "errors",
        (counted["candidate_errors"], counted["candidate_asked"]),
        (counted["live_errors"], counted["live_asked"]),
        z,
    )
    measures = _measure_shadow if deployment.strategy == "shadow" else _measure_canary
    measured = measures(ctx, deployment, counted, z)
    return None if measured is None else [errors, *measured]


def _measure_canary(
    ctx: Context, deployment: DeploymentRecord, counted: dict[str, float], z: float
) -> list[Finding] | None:
    settings, engine, since = ctx.settings, ctx.engine, deployment.trial_at
    candidate, live = deployment.model_version, deployment.previous_version
    if since is None or live is None:
        raise EvergreenError(f"the trial of deployment {deployment.id} does not count yet, or has no live model beside")
    summaries = [trials.confidence_summary(engine, version, since) for version in (candidate, live)]
    if summaries[0].count < _LOGGED_SHARE * (counted["candidate_asked"] - counted["candidate_errors"]):
        return None
    candidate_summary, live_summary = ((a.count, a.confidence, a.variance) for a in summaries)
    results = [evidence.confidence_drop(candidate_summary, live_summary, settings.trial_confidence, z)]
    bounds = [evidence.median_quantiles(a.count, z) for a in summaries]
    if bounds[0] and bounds[1]:
        low = trials.latency_quantiles(engine, candidate, since, (bounds[0][0], 0.5))
        high = trials.latency_quantiles(engine, live, since, (bounds[1][1], 0.5))
        results.append(evidence.latency_increase(low, high, settings.trial_slowdown))
    feedback = [trials.feedback_counts(engine, version, since) for version in (candidate, live)]
    if feedback[0][0] and feedback[1][0]:
        wrong = [(count - right, count) for count, right in feedback]
        results.append(evidence.rate_increase("wrong by feedback", wrong[0], wrong[1], z))
    return results


def _measure_shadow(
    ctx: Context, deployment: DeploymentRecord, counted: dict[str, float], z: float
) -> list[Finding] | None:
    settings, count = ctx.settings, counted["live_asked"]
    latency_text = f"{math.exp(counted['slower'] / count if count else 0):.2f} times the time of the live model"
    confidence_text = f"confidence lower by {counted['drop'] / count if count else 0:.3f}"
    results = [
        evidence.rate_above("other labels", counted["disagreed"], count, settings.trial_disagreement, z),
        evidence.mean_above(
            "confidence",
            confidence_text,
            (count, counted["drop"], counted["drop_squares"]),
            settings.trial_confidence,
            z,
        ),
        evidence.mean_above(
            "latency",
            latency_text,
            (count, counted["slower"], counted["slower_squares"]),
            math.log(settings.trial_slowdown),
            z,
        ),
    ]
    live_right, candidate_right = trials.settled_disagreements(ctx.engine, deployment.id)
    if live_right + candidate_right:
        results.append(evidence.sign_test(live_right, candidate_right, z))
    return results


def _roll_out(ctx: Context, deployment_id: int, reason: str, findings: dict[str, Any]) -> Deployment:
    _update(ctx, deployment_id, status="rolling", reason=reason, findings=findings)
    return deploy.conclude(ctx, deployment_id, time.monotonic())


def _reject(ctx: Context, trial: _Trial, problem: str, findings: dict[str, Any]) -> Deployment:
    deployment = trial.deployment
    with transaction(ctx.engine) as connection:
        deployments.change(connection, deployment.id, findings=findings)
        deployments.end(connection, deployment.id, "failed", problem)
    subject = f"the {deployment.strategy} of version {deployment.model_version} was turned down"
    alerts.alert(ctx.settings, subject, problem)
    return deploy.as_deployment(replace(deployment, status="failed", reason=problem), 0, trial.age)


def _update(ctx: Context, deployment_id: int, **columns: Any) -> None:
    with transaction(ctx.engine) as connection:
        deployments.change(connection, deployment_id, **columns)


def _running_trial(ctx: Context) -> _Trial | None:
    with transaction(ctx.engine) as connection:
        deployment = deployments.on_trial(connection)
        now = connection.execute(select(func.now())).scalar_one()
    if deployment is None:
        return None
    return _Trial(deployment, (now - (deployment.trial_at or deployment.created_at)).total_seconds())
