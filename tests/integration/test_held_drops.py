"""Drops that wait for a person: what is decided counts once, whatever is killed, changed or deleted meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest
from sqlalchemy import select

from ml.catalog import cycles, drops
from ml.catalog.drops import DropRecord
from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets.accept import accept
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from ml.ingest import ingest
from ml.intake import held
from ml.intake.claim import claim
from ml.intake.find import find_ready
from ml.intake.findings import Finding
from ml.intake.inspect import inspect_chunk
from ml.intake.pending import claim_all
from ml.intake.validate import validate
from tests.drops import validated as validated_drop
from tests.integration.test_cli import as_json, invoke
from tests.mortal import killed
from tests.pictures import digit_files, upload

NOISE = Finding("label_noise", "about 40 % of the labels are wrong", holds=True, figures={"noise": 0.4})
WARNING = Finding("format_tells_class", "the format tells the class", holds=False)


def validated(ctx: Context, name: str = "one", start: int = 0) -> str:
    return validated_drop(ctx, name, digit_files(start, start + 20))


def waiting(ctx: Context, name: str = "one", start: int = 0, *findings: Finding) -> str:
    drop_id = validated(ctx, name, start)
    assert held.hold(ctx, drop_id, findings or [NOISE])
    return drop_id


def markers(ctx: Context, name: str = "one") -> set[str]:
    keys = (o.key.removeprefix(f"drops/{name}/") for o in ctx.labels.list(f"drops/{name}/"))
    return {key for key in keys if key.startswith("_")}


def stored(ctx: Context) -> int:
    with transaction(ctx.engine) as connection:
        return len(connection.execute(select(samples.c.sha256)).all())


def test_a_held_drop_waits_and_says_what_to_do(context: Context) -> None:
    keys = tuple(sorted(digit_files(0, 20))[:3])
    shown = Finding("label_noise", NOISE.message, holds=True, images=keys)
    drop_id = waiting(context, "one", 0, WARNING, shown)
    assert markers(context) == {"_HELD"}
    marker = orjson.loads(context.labels.get("drops/one/_HELD"))
    assert marker["findings"] == [{"kind": "label_noise", "message": NOISE.message}]
    assert "evergreen drops approve one" in marker["reason"]
    assert find_ready(context) == []
    assert claim_all(context) == [], "it is not announced again"
    assert accept(context, drop_id) is None
    assert markers(context) == {"_HELD"}
    cycle = cycles.get(context.engine, drop_id)
    assert (cycle.verdict, cycle.finished_at, cycle.reason) == ("held", None, marker["reason"])
    with pytest.raises(InvalidInputError, match="is held: about 40 %"):
        ingest(context, "drops/one/")
    findings = drops.get(context.engine, drop_id).findings
    assert [f["kind"] for f in findings] == ["format_tells_class", "label_noise"]
    for key, place in zip(keys, findings[1]["pictures"], strict=True):
        assert context.store.get(place["object"], place["offset"], place["size"]) == digit_files(0, 20)[key]
    assert ingest(context, upload(context, "two", digit_files(20, 40))).version, "others go on"


def test_an_approved_drop_goes_on_and_only_new_kinds_hold_it_again(context: Context) -> None:
    prefix = upload(context, "one", digit_files(0, 20), marker=b'{"format": "class_folders"}')
    drop_id = claim(context, prefix)
    assert drop_id
    inspect_chunk(context, drop_id, 0)
    validate(context, drop_id)
    assert held.hold(context, drop_id, [NOISE])
    held.approve(context, drop_id, actor="ann", reason="looked at them")
    assert markers(context) == {"_READY"}
    assert claim(context, prefix) == drop_id, "the marker names the format as before"
    assert not held.hold(context, drop_id, [NOISE])
    other = Finding("backdoor", "a patch", holds=True)
    assert held.hold(context, drop_id, [other])
    approved = held.approve(context, drop_id, actor="bob", reason="a watermark")
    assert (approved.approved_kinds, approved.approved_by) == (["backdoor", "label_noise"], "bob")
    result = ingest(context, prefix)
    assert (result.drop_id, bool(result.version), stored(context)) == (drop_id, True, 20)
    assert markers(context) == {"_INGESTED"}
    cycle = cycles.get(context.engine, drop_id)
    assert (cycle.verdict, cycle.reason, cycle.dataset_version) == (None, None, result.version)
    again = held.approve(context, drop_id, actor="eve", reason="me too")
    assert (again.status, again.approved_by) == ("accepted", "bob")
    assert markers(context) == {"_INGESTED"}
    assert not held.hold(context, drop_id, [NOISE]), "it is finished"
    with pytest.raises(ConflictError, match="is accepted, not held"):
        held.reject(context, drop_id, actor="eve", reason="no")


def test_a_rejected_drop_is_not_taken(context: Context) -> None:
    drop_id = waiting(context)
    for actor in ("ann", "bob"):
        held.reject(context, drop_id, actor=actor, reason="labels of another export")
    drop = drops.get(context.engine, drop_id)
    assert (drop.status, drop.reason) == ("rejected", "rejected by ann: labels of another export")
    assert markers(context) == {"_REJECTED"}
    assert list(context.store.list(f"drops/{drop_id}/packs/")) == []
    assert cycles.get(context.engine, drop_id).verdict == "stopped"
    with pytest.raises(ConflictError, match="is rejected, not held"):
        held.approve(context, drop_id, actor="eve", reason="yes")
    assert (accept(context, drop_id), stored(context)) == (None, 0)


def test_what_was_never_held_cannot_be_approved(context: Context) -> None:
    drop_id = validated(context)
    assert not held.hold(context, drop_id, [WARNING])
    for decide in (held.approve, held.reject):
        with pytest.raises(ConflictError, match="is claimed, not held"):
            decide(context, drop_id, actor="ann", reason="why not")
    assert accept(context, drop_id)
    with pytest.raises(ConflictError, match="is accepted, not held"):
        held.approve(context, drop_id, actor="ann", reason="why not")
    with pytest.raises(InvalidInputError, match="`reason` must say why"):
        held.approve(context, drop_id, actor="ann", reason=" ")


def test_a_drop_that_is_changed_and_marked_again_replaces_the_one_that_waits(context: Context) -> None:
    drop_id = waiting(context)
    context.labels.put("drops/one/9/new.png", digit_files(30, 31).popitem()[1])
    context.labels.put("drops/one/_READY", b"")
    changed = claim(context, "drops/one/")
    assert changed not in (None, drop_id)
    old = drops.get(context.engine, drop_id)
    assert (old.status, "replaced while it waited" in str(old.reason)) == ("rejected", True)
    assert ingest(context, "drops/one/").version


def test_files_that_come_while_a_drop_waits_are_another_drop(context: Context) -> None:
    drop_id = waiting(context)
    context.labels.put("drops/one/9/new.png", digit_files(30, 31).popitem()[1])
    held.approve(context, drop_id, actor="ann", reason="looked")
    both = {drop["drop_id"] for drop in claim_all(context)}
    assert drop_id in both
    assert len(both) == 2
    assert accept(context, drop_id)
    assert stored(context) == 20, "what was approved is what was seen"


def test_a_drop_that_is_deleted_while_it_waits_can_only_be_rejected(context: Context) -> None:
    drop_id = waiting(context)
    context.labels.delete([o.key for o in context.labels.list("drops/one/")])
    with pytest.raises(ConflictError, match="it was deleted while it waited"):
        held.approve(context, drop_id, actor="ann", reason="looked")
    assert drops.get(context.engine, drop_id).status == "held"
    held.reject(context, drop_id, actor="ann", reason="gone")
    assert list(context.labels.list("drops/one/")) == []


def test_of_two_people_at_once_the_first_counts(context: Context) -> None:
    for start in range(0, 100, 20):
        drop_id = waiting(context, f"d{start}", start)

        def decide(decision: Callable[..., DropRecord], drop_id: str = drop_id) -> str | None:
            try:
                return decision(context, drop_id, actor="x", reason="y").status
            except ConflictError:
                return None

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(decide, [held.approve, held.reject] * 2))
        statuses = {r for r in results if r}
        assert len(statuses) == 1
        assert statuses == {drops.get(context.engine, drop_id).status}


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_killed_between_any_two_steps_it_is_completed_by_the_next(context: Context, decision: str) -> None:
    def work(ctx: Context) -> None:
        drop = drops.named(ctx.engine, "one", "drops/")
        if drop.status == "claimed" and not drop.approved_kinds:
            held.hold(ctx, drop.id, [NOISE])
        if ctx.labels.exists("drops/one/_READY"):  # as the next ingest does
            claim(ctx, "drops/one/")
        decide = held.approve if decision == "approve" else held.reject
        decide(ctx, drop.id, actor="ann", reason="looked")

    drop_id = validated(context)
    deaths = 0
    while killed(context, work, effects=1 + deaths):
        deaths += 1
        assert deaths < 50
    assert deaths >= 3
    work(context)
    expected = ("claimed", {"_READY"}) if decision == "approve" else ("rejected", {"_REJECTED"})
    assert (drops.get(context.engine, drop_id).status, markers(context)) == expected
    if decision == "approve":
        assert ingest(context, "drops/one/").version


def test_the_commands(context: Context) -> None:
    drop_id = waiting(context)
    waiting(context, "two", 20)
    by_prefix = {d["prefix"]: d for d in as_json(context, "drops", "list")}
    assert by_prefix["drops/one/"]["status"] == "held"
    assert as_json(context, "drops") == as_json(context, "drops", "list")
    assert as_json(context, "drops", "show", "one")["findings"][0]["kind"] == "label_noise"
    code, output = invoke(context, "drops", "show", drop_id, COLUMNS="80")
    assert (code, "label_noise (holds): about 40 %" in output, "good_share: 1" in output) == (0, True, True)
    done = as_json(context, "drops", "approve", "drops/one/", "--reason", "seen", "--as", "ann")
    assert (done["status"], done["approved_by"]) == ("claimed", "ann")
    assert as_json(context, "drops", "reject", "two", "--reason", "bad", "--as", "ann")["status"] == "rejected"
    with pytest.raises(NotFoundError, match="no drop has the id or folder `three`"):
        drops.named(context.engine, "three", "drops/")
