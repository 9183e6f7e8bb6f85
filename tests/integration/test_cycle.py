"""The whole loop without Airflow, and what operators and crashes do to it."""

import threading

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from ml.catalog import cycles, deployments
from ml.catalog.engine import transaction
from ml.catalog.tables import decisions, replicas
from ml.cli.main import app
from ml.context import Context
from ml.errors import ConflictError, NotFoundError
from ml.gate.decide import decide
from ml.pipeline import run_cycle
from ml.release import operator
from ml.release.deploy import conclude_interrupted, deploy_decision, repair_registry
from tests.environment import environment
from tests.pictures import digit_files, upload


def quiet(stage: str, detail: str) -> None:
    """Nobody listens."""


@pytest.fixture
def ctx(context_with_mlflow: Context) -> Context:
    """A system whose first model, trained on 500 digits, is live (no replica is running)."""
    row = run_cycle(
        context_with_mlflow, upload(context_with_mlflow, "one", digit_files(0, 500)), on_stage=quiet, progress=None
    )
    assert row.verdict == "promote", row.reason
    return context_with_mlflow


def test_an_equal_model_is_not_promoted_but_by_an_operators_name(ctx: Context) -> None:
    first = ctx.registry.alias("champion")
    again = run_cycle(ctx, retrain=True, on_stage=quiet)
    assert again.verdict == "reject"
    assert "not better: " in str(again.reason)
    assert ctx.registry.alias("champion") == first
    second = ctx.registry.alias("challenger")
    assert second is not None
    assert operator.promote(ctx, second, "ann", "I know better").status == "live"
    assert (ctx.registry.alias("champion"), ctx.registry.alias("previous")) == (second, first)
    assert operator.rollback(ctx, "ann", "I did not").model_version == first
    assert (ctx.registry.alias("champion"), ctx.registry.alias("previous")) == (first, second)
    with transaction(ctx.engine) as connection:
        actors = list(connection.execute(select(decisions.c.actor).order_by(decisions.c.created_at)).scalars())
    assert actors == ["gate", "gate", "operator:ann", "operator:ann"]
    with pytest.raises(NotFoundError):
        operator.promote(ctx, 99, "ann", "no such thing")


@pytest.mark.parametrize("harm", ["run and version deleted", "model renamed"])
def test_a_model_lost_in_mlflow_is_the_champion_all_the_same_and_comes_back(ctx: Context, harm: str) -> None:
    """Tried by hand before: the next model was promoted unseen, and a rollback failed."""
    client, name = ctx.tracking, ctx.settings.model_name
    if harm == "model renamed":
        client.rename_registered_model(name, f"{name}-old")
    else:
        client.delete_model_version(name, "1")
        client.delete_run(str(cycles.recent(ctx.engine)[0].run_id))
    row = run_cycle(ctx, retrain=True, on_stage=quiet)
    assert (row.verdict, row.model_version) == ("reject", 2)
    assert "not better: " in str(row.reason), "it was compared"
    shown = CliRunner().invoke(app, ["repair", "registry"], env=environment(ctx.settings))
    assert shown.exit_code == 0, shown.output
    assert "version 1 was missing in the registry: registered again from its bundle" in " ".join(shown.output.split())
    again = {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    assert client.get_model_version(name, str(again["champion"])).tags["bundle_digest"] == ctx.registry.bundle(1).digest
    assert ctx.registry.aliases() == {"champion": 1, "challenger": 2}
    shown = CliRunner().invoke(app, ["repair", "registry"], env=environment(ctx.settings))
    assert "the registry has what is in use" in shown.output


def test_a_replica_that_refuses_brings_everything_back(ctx: Context) -> None:
    first = ctx.registry.alias("champion")
    run_cycle(ctx, retrain=True, on_stage=quiet)
    second = ctx.registry.alias("challenger")
    assert second is not None
    live = deployments.live(ctx.engine)
    assert live
    stop = threading.Event()

    def replica() -> None:
        """Follows the table protocol, and refuses what comes after the first deployment."""
        with transaction(ctx.engine) as connection:
            connection.execute(replicas.insert().values(id="r1", host="h", pid=1, deployment_id=live.id))
        while not stop.wait(0.05):
            rolling = deployments.rolling(ctx.engine)
            if rolling:
                with transaction(ctx.engine) as connection:
                    connection.execute(
                        replicas.update().values(failed_deployment_id=rolling.id, error="probe is off by 0.5")
                    )

    thread = threading.Thread(target=replica)
    thread.start()
    try:
        done = operator.promote(ctx, second, "ann", "try it")
    finally:
        stop.set()
        thread.join()
    assert done.status == "failed"
    assert "probe is off by 0.5" in str(done.reason)
    assert ctx.registry.alias("champion") == first
    with transaction(ctx.engine) as connection:
        desired = deployments.desired(connection)
    assert desired is not None
    assert desired.model_version == first


def test_a_mover_that_died_is_concluded_by_the_next(ctx: Context) -> None:
    first = ctx.registry.alias("champion")
    row = run_cycle(ctx, retrain=True, on_stage=quiet)
    assert row.model_version is not None
    place = ctx.registry.bundle(row.model_version)
    with transaction(ctx.engine) as connection:
        deployments.begin(
            connection,
            model_version=row.model_version,
            previous_version=first,
            decision_id=row.decision_id,
            bundle_prefix=place.prefix,
            bundle_digest=place.digest,
        )
    conclude_interrupted(ctx)
    assert deployments.rolling(ctx.engine) is None
    assert ctx.registry.alias("champion") == row.model_version
    assert first is not None
    ctx.registry.set_alias("champion", first)  # somebody by hand, behind the ledger's back
    repair_registry(ctx)
    assert ctx.registry.alias("champion") == row.model_version


def test_a_decision_against_another_champion_does_not_move_anything(ctx: Context) -> None:
    row = run_cycle(ctx, retrain=True, on_stage=quiet)
    assert row.model_version is not None
    decision = decide(ctx, row.model_version, cycle_id=row.id)
    with pytest.raises(ConflictError, match="the champion changed"):
        deploy_decision(ctx, decision, expected_champion=77)
