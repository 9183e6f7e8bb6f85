"""`evergreen models | deployments | promote | rollback`: model versions and deployments."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ml.cli.output import (
    Actor,
    Json,
    Reason,
    actor_name,
    add_row,
    connected,
    console,
    new_table,
    report_deployment,
    say,
    show,
)

if TYPE_CHECKING:
    from ml.catalog.deployments import DeploymentHistoryRecord

_PAUSE = 1.0
_MOST_MODELS = 100


def models(as_json: Json = False) -> None:
    """The registry's newest 100 versions: aliases, dataset, accuracy on the holdout and, by feedback, live; verdict."""
    from ml.catalog import accuracy, decisions

    ctx = connected()
    verdicts, live = decisions.newest_by_model(ctx.engine), accuracy.recent_by_version(ctx.engine)
    aliases: dict[int, list[str]] = {}
    for alias, version in ctx.registry.aliases().items():
        aliases.setdefault(version, []).append(alias)
    rows: list[dict[str, Any]] = []
    for model_version in ctx.registry.find()[:_MOST_MODELS]:
        number = model_version.version
        decision = verdicts.get(number)
        rows.append(
            {
                "version": number,
                "aliases": sorted(aliases.get(number, [])),
                "dataset_version": model_version.tags.get("dataset_version"),
                "accuracy": decision.statistics.get("challenger_accuracy") if decision else None,
                "live_accuracy": live[number].accuracy if number in live else None,
                "judged": live[number].judged if number in live else 0,
                "verdict": decision.verdict if decision else None,
                "reason": decision.reason if decision else None,
                "url": ctx.registry.version_url(number),
            }
        )
    table = new_table("version", "aliases", "dataset", "accuracy", "live", "verdict")
    for row in rows:
        held_out = f"{row['accuracy']:.1%}" if row["accuracy"] is not None else "–"
        live_accuracy = f"{row['live_accuracy']:.1%} of {row['judged']}" if row["judged"] else "–"
        dataset = (row["dataset_version"] or "–")[:8]
        aliased = ", ".join(row["aliases"])
        add_row(table, f"v{row['version']}", aliased, dataset, held_out, live_accuracy, row["verdict"] or "–")
    show(table, rows, as_json, {f"v{row['version']}": row["reason"] for row in rows})


def deployments(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many, the newest.")] = 20, as_json: Json = False
) -> None:
    """What served when, on whose word and why, and what became of each try."""
    from ml.catalog import deployments as deployments_catalog

    records = deployments_catalog.history(connected().engine, limit)
    table = new_table("id", "version", "before", "how", "status", "served from", "until", "by")
    for record in records:
        how = record.strategy if record.strategy == "direct" else f"{record.strategy} {record.share:.0%}"
        before = f"v{record.previous_version}" if record.previous_version else "–"
        span = [_time(record.served_from), "now" if record.status == "live" else _time(record.served_until)]
        add_row(table, str(record.id), f"v{record.model_version}", before, how, record.status, *span, record.actor)
    show(table, records, as_json, {f"{record.id} (v{record.model_version})": _why(record) for record in records})


def promote(
    version: int,
    reason: Reason,
    strategy: Annotated[
        Literal["direct", "canary", "shadow"], typer.Option(help="canary, shadow: try it on a share of traffic first.")
    ] = "direct",
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """Make a version the champion, whatever the gate says; your name is kept. Exit code 4 if it was undone."""
    from ml.release import operator

    deployment = operator.promote(connected(), version, actor_name(actor), reason, strategy)
    if deployment.status == "trial" and not as_json:
        trial_state = f"version {deployment.model_version} is tried as a {deployment.strategy}"
        say(f"{trial_state}; `evergreen deployments` tells how it goes,")
        say("`evergreen rollback` ends it. Waiting for its end; Ctrl-C stops the waiting only.")
    if deployment.status == "trial":
        deployment = _wait(deployment.id, quiet=as_json)
    report_deployment(deployment, as_json)


def rollback(
    reason: Reason,
    to: Annotated[int | None, typer.Option(help="A version; the one before the live one by default.")] = None,
    actor: Actor = None,
    as_json: Json = False,
) -> None:
    """The model before, again, on every worker. While one is only tried, that is what ends."""
    from ml.release import operator

    report_deployment(operator.rollback(connected(), actor_name(actor), reason, to), as_json)


def _wait(deployment_id: int, *, quiet: bool) -> Any:
    from ml.release import trial

    if quiet:
        return trial.wait(connected(), deployment_id, _PAUSE)
    with console.status("on trial", spinner="dots") as status:
        return trial.wait(connected(), deployment_id, _PAUSE, on_look=lambda text: status.update(f"on trial: {text}"))


def _why(record: "DeploymentHistoryRecord") -> str:
    """The reason of the deployment, and its outcome."""
    outcome = record.reason
    if record.status == "trial":
        findings = record.findings
        outcome = findings.get("words") or f"{findings.get('answers', 0)} answers so far"
    return record.decision_reason + (f" → {outcome}" if outcome else "")


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "–"
