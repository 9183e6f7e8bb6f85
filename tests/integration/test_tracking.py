"""What a training leaves in a real MLflow: every promise of docs/training.md, read back."""

import base64
import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ml.context import Context
from ml.datasets import versions
from ml.errors import InvalidInputError
from ml.ingest import ingest
from ml.training.train import train
from tests.pictures import digit_files, digits, upload


class Trained(NamedTuple):
    """One training and what MLflow says of it."""

    ctx: Context
    run: Any
    version: versions.DatasetVersion
    model_version: int
    files: Path


@pytest.fixture
def trained(context_with_mlflow: Context, tmp_path: Path) -> Trained:
    ctx = context_with_mlflow
    ingest(ctx, upload(ctx, "one", digit_files(0, 300)))
    done = ingest(ctx, upload(ctx, "two", digit_files(300, 400)))
    assert done.version
    model = train(ctx, done.version, cycle_id=str(done.drop_id), epochs=4)
    client = ctx.tracking
    files = Path(client.download_artifacts(model.run_id, "", str(tmp_path)))
    return Trained(ctx, client.get_run(model.run_id), versions.get(ctx, done.version), model.model_version, files)


def test_a_run_tells_where_its_model_comes_from(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    ctx, run, version = trained.ctx, trained.run, trained.version
    (used,) = run.inputs.dataset_inputs
    assert version.id.startswith(used.dataset.digest)
    tags = {tag.key: tag.value for tag in used.tags}
    assert tags == {
        "mlflow.data.context": "training",
        "dataset_version": version.id,
        "parent": version.parent_id,
        "cause": version.cause,
        "segments": "2",
    }
    assert json.loads(used.dataset.profile)["train"] == version.train

    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", ctx.settings.s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ctx.settings.s3_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ctx.settings.s3_secret_key.get_secret_value())
    manifest = Path(mlflow.data.get_source(used).load()).read_bytes()
    assert versions.Manifest.parse(manifest).id == version.id

    assert run.data.params["plan_mode"] == "full"
    plan = json.loads((trained.files / "plan.json").read_text())
    assert plan["plan_reason"] == run.data.params["plan_reason"]
    assert plan["batch_size"] == int(run.data.params["recipe_batch_size"])
    packages = (trained.files / "environment.txt").read_text().splitlines()
    assert any(line.startswith("torch==") for line in packages)
    assert run.data.tags["code_version"].startswith(run.data.tags["mlflow.source.git.commit"])


def test_metrics_by_step_by_epoch_and_of_the_system(trained: Trained) -> None:
    history = trained.ctx.tracking.get_metric_history
    run_id = trained.run.info.run_id
    by_step, by_epoch = history(run_id, "step_loss"), history(run_id, "train_loss")
    assert len(by_epoch) == 4
    assert 4 < len(by_step) <= 200
    steps = [point.step for point in by_step]
    assert steps == sorted(set(steps))
    assert len(history(run_id, "step_learning_rate")) == len(by_step)
    assert 0 <= trained.run.data.metrics["final_calibration_error"] <= 1
    assert trained.run.data.metrics["system/system_memory_usage_megabytes"] > 0


def test_the_papers_agree_with_each_other(trained: Trained) -> None:
    rows = list(csv.DictReader((trained.files / "classes.csv").open()))
    assert [row["label"] for row in rows] == list(trained.version.classes)
    total = sum(int(row["judged"]) for row in rows)
    right = sum(round(float(row["recall"] or 0) * int(row["judged"])) for row in rows)
    assert right / total == pytest.approx(trained.run.data.metrics["final_validation_accuracy"], abs=1e-3)
    assert sum(int(row["trained"]) for row in rows) == trained.version.train
    mistakes = list(csv.DictReader((trained.files / "mistakes.csv").open()))
    assert len(mistakes) == min(24, total - right)
    for name in ("curves", "confusion", "mistakes"):
        picture = np.asarray(Image.open(trained.files / "plots" / f"{name}.png").convert("L"))
        assert picture.std() > 10, name
    card = (trained.files / "model-card.md").read_text()
    assert trained.version.id in card
    assert f"accuracy {right / total:.1%}" in card
    name = trained.ctx.settings.model_name
    registered = trained.ctx.tracking.get_model_version(name, str(trained.model_version))
    assert registered.description == card == trained.run.data.tags["mlflow.note.content"]


def test_mlflow_loads_the_champion_as_a_normal_model(trained: Trained) -> None:
    import mlflow

    ctx = trained.ctx
    ctx.registry.set_alias("champion", trained.model_version)
    mlflow.set_tracking_uri(ctx.settings.mlflow_url)
    loaded = mlflow.pyfunc.load_model(f"models:/{ctx.settings.model_name}@champion")
    answers = loaded.predict(np.zeros((3, 24, 24, 1), np.uint8))
    assert answers.shape == (3, 10)
    assert answers.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    with pytest.raises(InvalidInputError, match=r"uint8\[N, 24, 24, 1\]"):
        loaded.predict(np.zeros((3, 24, 24, 1), np.float32))

    some = digits()[400:440]
    files = [data for _, data in some]
    table = loaded.predict(pd.DataFrame({"image": files, "name": range(40)}, index=range(5, 45)))
    assert list(table.columns) == ["label", "probability"]
    assert list(table.index) == list(range(5, 45))
    assert np.mean([label == given for label, (given, _) in zip(table["label"], some, strict=True)]) > 0.4
    encoded = [base64.b64encode(data).decode() for data in files]
    assert loaded.predict(pd.DataFrame({"image": encoded})).equals(table.reset_index(drop=True))
    with pytest.raises(InvalidInputError, match="column"):
        loaded.predict(pd.DataFrame({"picture": files}))
    with pytest.raises(InvalidInputError, match="row 1"):
        loaded.predict(pd.DataFrame({"image": [files[0], b"no image"]}))


def test_the_rest_server_of_mlflow_takes_the_same_table(trained: Trained) -> None:
    import mlflow
    from mlflow.pyfunc import scoring_server

    mlflow.set_tracking_uri(trained.ctx.settings.mlflow_url)
    loaded = mlflow.pyfunc.load_model(f"models:/{trained.ctx.settings.model_name}/{trained.model_version}")
    (_, data), *_ = digits()
    body = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(data).decode()]]}}
    answer = TestClient(scoring_server.init(loaded)).post("/invocations", json=body)
    (prediction,) = answer.json()["predictions"]
    expected = loaded.predict(pd.DataFrame({"image": [data]}))
    assert prediction["label"] == expected["label"][0]
    assert prediction["probability"] == pytest.approx(float(expected["probability"][0]))
