"""
### Ingest: a ready drop becomes samples and a dataset version

Starts by itself within seconds of a drop's `_READY` marker, or by hand with a drop's folder. Every run
looks for all ready drops, so it does not matter how often or for which drop it was started.

`find` claims the drops, `inspect` decodes their images in chunks, `validate` checks them with the
suites in `expectations/`, `check_labels` learns their labels, `accept` adds their samples to the data. A
drop that breaks an expectation is rejected: its `accept` is skipped, and the reason stands in the drop's row
and its `_REJECTED` marker. A drop in which a check finds something that a person must see is held: an alert
says what to do, its marker is `_HELD`, and once it is approved the next run takes it up. The button Data
Docs of each `validate` opens what was found.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task, task_group

from plugins.assets import DATASET, DROPS
from plugins.links import DataDocsLink
from plugins.runtime import INSTANCE_NAME
from plugins.task_defaults import DEFAULTS

_MOST_MAPPED = 1000  # Airflow's own limit is 1024


@dag(
    schedule=[DROPS],
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    doc_md=__doc__,
    tags=["evergreen", "data"],
    params={
        "prefix": Param(
            None,
            type=["null", "string"],
            title="Drop",
            description="A folder such as drops/monday/; empty: all ready ones",
        )
    },
    default_args=DEFAULTS,
)
def ingest() -> None:
    @task
    def find() -> list[dict[str, Any]]:
        """Claim every ready drop; one entry a drop with its chunks."""
        from ml.intake import pending
        from plugins.runtime import context, params

        return pending.claim_all(context(), params()["prefix"], limit=_MOST_MAPPED)

    @task
    def chunks_of(drops: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Chunks of all drops, bundled into no more tasks than Airflow maps at once."""
        from ml.intake import pending

        return pending.chunk_batches(drops, _MOST_MAPPED)

    @task(map_index_template=INSTANCE_NAME)
    def inspect(chunk_batch: dict[str, Any]) -> int:
        """Decode, hash and measure the images of some chunks of one drop."""
        from ml.intake.inspect import inspect_chunk
        from plugins.runtime import context, name_instance

        name_instance(f"{chunk_batch['drop_id']} #{chunk_batch['chunks'][0]}")
        return sum(inspect_chunk(context(), chunk_batch["drop_id"], chunk) for chunk in chunk_batch["chunks"])

    # A chunk that fails for good stops its own drop (validate finds it missing), not the others.
    @task(trigger_rule="all_done", map_index_template=INSTANCE_NAME)
    def validate(drop: dict[str, Any]) -> str:
        """Validate one drop; returns its id whether it was accepted or not."""
        from ml.datasets import relabels
        from ml.intake.validate import validate as validate_drop
        from plugins.alerts import alert
        from plugins.runtime import context, name_instance

        name_instance(drop["drop_id"])
        verdict = validate_drop(context(), drop["drop_id"], relabels.preview)
        if not verdict.accepted:
            fate = "waits for a person" if verdict.held else "was rejected"
            alert(f"drop {drop['drop_id']} {fate}", verdict.reason or "")
        return verdict.drop_id

    @task(map_index_template=INSTANCE_NAME)
    def check_labels(drop_id: str) -> str:
        """Learn the labels of one drop; hold it for a person if they look wrong."""
        from ml.catalog import drops as drops_catalog
        from ml.label_checks.stage import check
        from plugins.alerts import alert
        from plugins.runtime import context, name_instance

        name_instance(drop_id)
        ctx = context()
        before = drops_catalog.get(ctx.engine, drop_id).status
        if check(ctx, drop_id).held and before != "held":
            alert(f"drop {drop_id} waits for a person", drops_catalog.get(ctx.engine, drop_id).reason or "")
        return drop_id

    @task(outlets=[DATASET], map_index_template=INSTANCE_NAME)
    def accept(drop_id: str) -> str:
        """Add one drop's samples to the data; skipped when there is nothing to add."""
        from airflow.sdk.exceptions import AirflowSkipException

        from ml.catalog import drops as drops_catalog
        from ml.datasets.accept import accept as accept_drop
        from ml.label_checks.stage import open_questions
        from plugins.alerts import alert
        from plugins.runtime import context, name_instance

        name_instance(drop_id)
        ctx = context()
        before = drops_catalog.get(ctx.engine, drop_id)
        if before.status in ("rejected", "held"):
            raise AirflowSkipException(f"drop {drop_id} was {before.status}: {before.reason}")
        version = accept_drop(ctx, drop_id)
        after = drops_catalog.get(ctx.engine, drop_id)
        if after.status == "held":
            alert(f"drop {drop_id} waits for a person", after.reason or "")
            raise AirflowSkipException(f"drop {drop_id} is {after.reason}")
        open_questions(ctx, drop_id)
        if version is None:
            raise AirflowSkipException(f"drop {drop_id} brought nothing new")
        return version

    # Mapped as a group, so that a drop that fails does not affect the others.
    @task_group(prefix_group_id=False)
    def each_drop(drop: dict[str, Any]) -> None:
        validated = validate(drop)
        validated.operator.operator_extra_links = (DataDocsLink(),)  # the decorator takes no such argument
        accept(check_labels(validated))

    claimed = find()
    inspect.expand(chunk_batch=chunks_of(claimed)) >> each_drop.expand(drop=claimed)


ingest()
