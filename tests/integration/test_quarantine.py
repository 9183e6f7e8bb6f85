"""Quarantined images leave quarantine by a person's word, and only once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import labels, samples
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from ml.ingest import ingest
from ml.intake import quarantine_store
from tests.integration.test_cli import as_json, invoke
from tests.pictures import digits, upload

WHO = {"actor": "ann", "reason": "looked at it"}


def sample_labels(ctx: Context) -> list[str]:
    with transaction(ctx.engine) as connection:
        return sorted(connection.execute(select(samples.c.label)).scalars())


@pytest.fixture
def conflicting(context: Context) -> Context:
    """One good image, two with the same bytes and different labels, one that is no image."""
    files = {"a/1.png": digits()[0][1], "a/2.png": digits()[1][1], "b/2.png": digits()[1][1], "b/3.png": b"no image"}
    ingest(context, upload(context, "one", files | {f"c/{i}.png": digits()[i][1] for i in range(5, 9)}))
    return context


def test_what_lies_there_is_shown_with_its_reasons(conflicting: Context, tmp_path: Path) -> None:
    ctx = conflicting
    rows = as_json(ctx, "quarantine", "list")
    assert [r["key"] for r in rows] == ["b/3.png", "b/2.png", "a/2.png"]
    assert as_json(ctx, "quarantine", "list", "--drop", "drops/none") == []
    code, output = invoke(ctx, "quarantine", "list", COLUMNS="80")
    assert code == 0
    assert "not an image" in " ".join(output.split())
    as_json(ctx, "quarantine", "show", str(rows[1]["id"]), "--output", str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").read_bytes() == digits()[1][1]


def test_a_released_image_comes_in_with_its_new_label_once(conflicting: Context) -> None:
    ctx = conflicting
    numbers = [r.id for r in quarantine_store.list_held(ctx) if r.key == "a/2.png"]
    prefix = quarantine_store.release(ctx, numbers, label="z", **WHO)
    assert quarantine_store.release(ctx, numbers, label="z", **WHO) == prefix, "running twice is harmless"
    with pytest.raises(ConflictError, match="was released into"):
        quarantine_store.release(ctx, numbers, label="y", **WHO)
    assert ingest(ctx, prefix).version is not None
    assert sample_labels(ctx) == ["a", *"cccc", "z"]
    with transaction(ctx.engine) as connection:
        annotator = connection.execute(select(labels.c.annotator).where(labels.c.label == "z")).scalar_one()
    assert annotator == "ann"
    row = quarantine_store.get(ctx, numbers[0])
    assert (row.status, row.released_to, row.actor, row.note) == ("released", prefix, "ann", "looked at it")
    assert numbers[0] not in [r.id for r in quarantine_store.list_held(ctx)]
    with pytest.raises(ConflictError, match="was released"):
        quarantine_store.discard(ctx, numbers, **WHO)


def test_a_release_that_was_killed_is_finished_by_running_it_again(
    conflicting: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = conflicting
    numbers = [r.id for r in quarantine_store.list_held(ctx) if r.key == "b/2.png"]
    for step in ("put", "list"):
        with monkeypatch.context() as patched:
            patched.setattr(type(ctx.labels), step, _killed)
            with pytest.raises(KeyboardInterrupt):
                quarantine_store.release(ctx, numbers, label=None, **WHO)
    prefix = quarantine_store.release(ctx, numbers, label=None, **WHO)
    assert ingest(ctx, prefix).version is not None
    assert sample_labels(ctx) == ["a", "b", *"cccc"]


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_used_is_said(conflicting: Context) -> None:
    ctx = conflicting
    with pytest.raises(NotFoundError, match="no image 99"):
        quarantine_store.release(ctx, [99], label=None, **WHO)
    numbers = [r.id for r in quarantine_store.list_held(ctx) if r.key == "b/3.png"]
    quarantine_store.discard(ctx, numbers, **WHO)
    quarantine_store.discard(ctx, numbers, **WHO)
    assert quarantine_store.get(ctx, numbers[0]).object_key is None
    assert not [o for o in ctx.store.list("quarantine/") if o.size == len(b"no image")]
    with pytest.raises(ConflictError, match="was discarded"):
        quarantine_store.release(ctx, numbers, label="a", **WHO)
    ingest(
        ctx,
        upload(
            ctx,
            "two",
            {"labels.csv": b"file,label\nx.png,\ny.png,a\n", "x.png": digits()[40][1], "y.png": digits()[41][1]},
        ),
    )
    unlabelled = [r.id for r in quarantine_store.list_held(ctx, "drops/two")]
    with pytest.raises(InvalidInputError, match="give one with --label"):
        quarantine_store.release(ctx, unlabelled, label=None, **WHO)


def test_releasing_approves_a_class_that_was_held(make_context: Callable[..., Context]) -> None:
    ctx = make_context(new_classes="hold")
    ingest(ctx, upload(ctx, "one", {f"a/{i}.png": digits()[i][1] for i in range(4)}))
    ingest(ctx, upload(ctx, "two", {"a/9.png": digits()[9][1], "new/8.png": digits()[8][1]}))
    (row,) = quarantine_store.list_held(ctx)
    assert "waits for approval" in row.reasons[0]
    ingest(ctx, quarantine_store.release(ctx, [row.id], label=None, **WHO))
    assert sample_labels(ctx) == ["a"] * 5 + ["new"]
