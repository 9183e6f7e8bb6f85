"""`evergreen drops revert | restore`, `labels fix | fixes | unfix`, `decisions show`: what people type and read."""

from typing import Any

import orjson
from typer.testing import CliRunner

from ml.catalog import decisions
from ml.catalog.decisions import Decision
from ml.catalog.engine import transaction
from ml.cli.main import app
from ml.context import Context
from ml.ingest import ingest
from tests.environment import environment
from tests.pictures import digits, upload


def told(ctx: Context, *arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env=environment(ctx.settings) | {"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_harm_is_undone_from_the_command_line(context: Context) -> None:
    files = {f"zebra/{i}.png": data for i, (_, data) in enumerate(digits()[:10])}
    ingest(context, upload(context, "one", {f"horse/{i}.png": data for i, (_, data) in enumerate(digits()[10:30])}))
    ingest(context, upload(context, "bad", files))
    assert "correction 1: 10 labels changed" in told(
        context, "labels", "fix", "--drop", "bad", "--from", "zebra", "--to", "horse", "--reason", "none is striped"
    )
    assert "zebra → horse" in told(context, "labels", "fixes")
    assert "10 labels changed" in told(context, "labels", "unfix", "1", "--as", "ann")
    out = told(context, "drops", "revert", "bad", "--reason", "poison")
    assert "bad: 10 samples taken out, 0 labels of others changed" in out
    assert "the next training learns it" in out
    assert "bad was taken out already" in told(context, "drops", "revert", "bad", "--reason", "again")
    assert orjson.loads(told(context, "drops", "restore", "bad", "--reason", "no", "--json"))["samples"] == 10


def test_a_decision_names_the_drops_and_images(context: Context) -> None:
    row = {"name": "monday", "score": 9.31, "images": [{"sha256": "ab" * 32, "label": "boot\x1b[31m"}]}
    changed = {"by": "drop monday", "changed": 3, "classes": [{"before": "boot", "after": "sandal", "changed": 3}]}
    figures: dict[str, Any] = {"blame": {"drops": [row]}, "relabelled": {"by": [changed], "applied_by": []}}
    with transaction(context.engine) as connection:
        decisions.record(connection, Decision("d1", 2, 1, None, "reject", "worse", "gate", figures))
        decisions.record(connection, Decision("d0", 1, None, None, "promote", "first", "gate", {}))
    out = told(context, "decisions", "show", "d1")
    for words in ("reject: worse", "changed by drop monday: 3 (3 boot → sandal)", "ab" * 32, "score 9.3"):
        assert words in out, words
    assert "evergreen drops revert monday --reason" in out
    assert "\x1b" not in out
    assert "promote: first" in told(context, "decisions", "show", "d0")
    assert "d0" in told(context, "decisions")
