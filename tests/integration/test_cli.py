"""The command line as a person and as a program use it: real database, bucket and registry."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from infra.cli import app
from ml.catalog.engine import transaction
from ml.catalog.tables import drops
from ml.context import Context
from ml.models import bundle
from serving.prediction_log.log import uuid7
from tests.bundles import make_bundle
from tests.environment import environment
from tests.pictures import digit_files, digits
from tests.table_replica import answering


def invoke(ctx: Context, *arguments: str, **more: str) -> tuple[int, str]:
    """Exit code and output of a command in this process; what it raises goes through."""
    result = CliRunner().invoke(app, arguments, env=environment(ctx.settings) | {"COLUMNS": "200"} | more)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def as_json(ctx: Context, *arguments: str) -> Any:
    code, output = invoke(ctx, *arguments, "--json")
    assert code == 0, output
    return orjson.loads(output)


def evergreen(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The installed command, with nothing but these variables."""
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty digits in class folders, and what an operating system leaves beside them."""
    root = tmp_path / "pictures"
    for key, data in digit_files(0, 40).items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / ".DS_Store").write_bytes(b"x")
    return root


def keys(ctx: Context) -> set[str]:
    return {o.key for o in ctx.labels.list()}


def test_a_folder_becomes_a_ready_drop(context: Context, folder: Path) -> None:
    summary = as_json(context, "drop", str(folder))
    assert (summary["prefix"], summary["files"]) == ("drops/pictures/", 40)
    assert keys(context) == {f"drops/pictures/{key}" for key in digit_files(0, 40)} | {"drops/pictures/_READY"}
    code, output = invoke(context, "drop", str(folder), "--name", "second", "--no-ready")
    assert code == 0
    assert "not marked yet" in output
    assert "drops/second/_READY" not in keys(context)


def test_begun_again_a_drop_sends_only_what_is_missing_or_other(context: Context, folder: Path) -> None:
    as_json(context, "drop", str(folder), "--no-ready")
    names = sorted(keys(context))
    kept, lost, changed = names[0], names[1], names[2]
    before = context.labels.info(kept).modified
    context.labels.delete([lost])
    right = context.labels.get(changed)
    context.labels.put(changed, bytes(len(right)))
    as_json(context, "drop", str(folder))
    assert keys(context) == {*names, "drops/pictures/_READY"}
    assert context.labels.get(changed) == right
    assert context.labels.info(kept).modified == before


def test_a_tar_is_as_good_as_its_folder_and_cannot_leave_it(context: Context, folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "good.tar.gz", "w:gz") as archive:
        archive.add(folder, "pictures")
    assert as_json(context, "drop", str(tmp_path / "good.tar.gz"))["prefix"] == "drops/good/"
    assert {f"drops/good/{key}" for key in digit_files(0, 40)} < keys(context)
    shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)
    as_json(context, "drop", str(tmp_path / "zipped.zip"))
    assert {f"drops/zipped/{key}" for key in digit_files(0, 40)} < keys(context)
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        escaping = tarfile.TarInfo("../../outside.png")
        escaping.size = 1
        archive.addfile(escaping, io.BytesIO(b"x"))
    done = evergreen("drop", str(tmp_path / "evil.tar"), **environment(context.settings))
    assert done.returncode == 2
    assert not (tmp_path.parent / "outside.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["drop", "/nowhere/at/all"], "does not exist"),
        (["drop", "{folder}", "--name", "../up"], "--name"),
        (["drop", "{empty}"], "holds no files"),
        (["cycle"], "no drop is ready"),
        (["cycle", "--retrain"], "no dataset version yet"),
        (["cycle", "drops/none/"], "no marker"),
        (["promote", "one", "--reason", "x"], "a valid integer"),
        (["promote", "1"], "--reason"),
    ],
)
def test_unusable_input_is_exit_code_2_and_says_what_to_do(
    context: Context, folder: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    named = [a.format(folder=folder, empty=tmp_path / "empty") for a in arguments]
    done = evergreen(*named, **environment(context.settings))
    assert (done.returncode, words in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_settings_that_do_not_fit_are_all_named_without_their_secrets(context: Context) -> None:
    variables = environment(context.settings) | {"EVERGREEN_SEED": "many", "EVERGREEN_COLOUR": "red"}
    done = evergreen("drops", **variables)
    assert done.returncode == 2
    assert "EVERGREEN_SEED" in done.stderr
    assert "EVERGREEN_COLOUR" in done.stderr
    assert context.settings.s3_secret_key.get_secret_value() not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "arguments"),
    [
        ("EVERGREEN_DATABASE_URL", "postgresql+psycopg2://evergreen@127.0.0.1:9/evergreen", ["drops"]),
        ("EVERGREEN_S3_ENDPOINT", "http://127.0.0.1:9", ["cycle"]),
        ("EVERGREEN_MLFLOW_URL", "http://127.0.0.1:9", ["models"]),
        ("EVERGREEN_SERVICE_URL", "http://127.0.0.1:9", ["predict", __file__]),
    ],
)
def test_a_server_that_is_away_is_exit_code_3(
    context: Context, variable: str, value: str, arguments: list[str]
) -> None:
    done = evergreen(*arguments, **(environment(context.settings) | {variable: value}))
    assert (done.returncode, "127.0.0.1" in done.stderr) == (3, True), done.stderr
    assert "Traceback" not in done.stderr


def test_models_are_promoted_listed_and_rolled_back(context_with_mlflow: Context, tmp_path: Path) -> None:
    ctx = context_with_mlflow
    for seed in (1, 2):
        registered(ctx, tmp_path / f"b{seed}", seed)
    for version in ("1", "2"):
        assert as_json(ctx, "promote", version, "--reason", "try", "--as", "ann")["status"] == "live"
    code, output = invoke(ctx, "models")
    assert code == 0
    assert [line.split()[:2] for line in output.splitlines()[1:3]] == [["v2", "champion"], ["v1", "previous"]]
    code, output = invoke(ctx, "rollback", "--reason", "worse [on] [/photos]", "--as", "ann")
    assert code == 0
    assert "version 1 is live on 0 replicas" in " ".join(output.split())
    rows = as_json(ctx, "models")
    assert [(row["version"], row["aliases"], row["verdict"]) for row in rows] == [
        (2, ["previous"], "promote"),
        (1, ["champion"], "rollback"),
    ]
    assert rows[1]["reason"] == "worse [on] [/photos]"
    assert "worse [on] [/photos]" in " ".join(invoke(ctx, "models")[1].split())
    assert [row["status"] for row in as_json(ctx, "deployments")] == ["live", "superseded", "superseded"]
    assert invoke(ctx, "deployments")[1].splitlines()[1].split()[:3] == ["3", "v1", "v2"]


def test_a_version_that_is_not_there_is_exit_code_1(context_with_mlflow: Context) -> None:
    done = evergreen("promote", "9", "--reason", "x", **environment(context_with_mlflow.settings))
    assert done.returncode == 1
    assert "version 9" in " ".join(done.stderr.split())
    done = evergreen("rollback", "--reason", "x", **environment(context_with_mlflow.settings))
    assert (done.returncode, "no previous model" in " ".join(done.stderr.split())) == (1, True)


def test_a_reason_is_not_blank(context_with_mlflow: Context, tmp_path: Path) -> None:
    registered(context_with_mlflow, tmp_path / "b", 1)
    done = evergreen("promote", "1", "--reason", " ", **environment(context_with_mlflow.settings))
    assert done.returncode == 2


HOSTILE = "[red]cat [/nothing] \x1b[2J[link=x]"


def test_what_others_wrote_is_shown_and_not_obeyed(context: Context, folder: Path) -> None:
    with transaction(context.engine) as connection:
        row = {"id": "d-1", "prefix": f"drops/{HOSTILE}/", "listing_digest": "x", "status": "claimed"}
        connection.execute(insert(drops).values(row | {"reason": HOSTILE}))
    code, output = invoke(context, "drops")
    assert code == 0
    assert "[red]cat [/nothing]" in " ".join(output.split())
    assert "\x1b[2J" not in output
    assert as_json(context, "drops")[0]["reason"] == HOSTILE


def test_predictions_are_shown_whatever_the_label(context: Context, tmp_path: Path) -> None:
    path = tmp_path / "[bold]one.png"
    path.write_bytes(digits()[0][1])
    body = {
        "id": str(uuid7()),
        "label": HOSTILE,
        "probability": 0.5,
        "model_version": 3,
        "milliseconds": 1.25,
        "top": [],
    }
    with answering(lambda _: (200, orjson.dumps(body))) as url:
        code, output = invoke(context, "predict", str(path), EVERGREEN_SERVICE_URL=url)
        assert code == 0
        assert "[red]cat [/nothing]" in " ".join(output.split())
        predictions = orjson.loads(invoke(context, "predict", str(path), "--json", EVERGREEN_SERVICE_URL=url)[1])
        assert predictions == [{"file": str(path), **body}]


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (503, b'{"detail": "no model is live yet"}', 3, "no model is live yet"),
        (503, b"<html>gateway</html>", 3, "503"),
        (422, b'{"detail": "not an image"}', 2, "not an image"),
        (502, b"<html>bad gateway</html>", 3, "502"),
        (500, b"oops", 1, "500"),
        (200, b"<html>hello</html>", 1, "hello"),
    ],
)
def test_what_the_service_says_becomes_an_exit_code(
    context: Context, tmp_path: Path, status: int, body: bytes, code: int, words: str
) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(digits()[0][1])
    with answering(lambda _: (status, body)) as url:
        done = evergreen("predict", str(path), **(environment(context.settings) | {"EVERGREEN_SERVICE_URL": url}))
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_no_heavy_module() -> None:
    heavy = (
        "torch",
        "mlflow",
        "great_expectations",
        "pandas",
        "airflow",
        "matplotlib",
        "scipy",
        "onnxruntime",
        "sqlalchemy",
    )
    code = f"import sys, infra.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def registered(ctx: Context, folder: Path, seed: int) -> int:
    """A version in the registry, with a bundle that works, trained on data that are not here."""
    make_bundle(folder, ("a", "b"), seed=seed)
    info = bundle.parse((folder / bundle.INFO).read_bytes()).model_copy(update={"dataset_version": "none"})
    bundle.write(folder, info)
    client = ctx.tracking
    existing = client.get_experiment_by_name(ctx.settings.experiment)
    experiment = existing.experiment_id if existing else client.create_experiment(ctx.settings.experiment)
    run = client.create_run(experiment).info.run_id
    return ctx.registry.register(run, folder, info, {})
