"""How a run ends in MLflow, whatever ends it, and what its pictures look like."""

from typing import Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from ml.errors import UnavailableError
from ml.training.tracking import figures
from ml.training.tracking.track import Run


class FakeClient:
    """Notes calls; `away` is a server that is not there."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.ends: list[tuple[str, str]] = []
        self.metrics: list[tuple[str, int]] = []

    def set_terminated(self, run_id: str, status: str) -> None:
        self._answer()
        self.ends.append((run_id, status))

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self._answer()
        self.metrics += [(m.key, m.step) for m in metrics]

    def _answer(self) -> None:
        if self.away:
            raise MlflowException("connection refused")


def run(client: FakeClient) -> Run:
    return Run(client, "r")  # type: ignore[arg-type]


def test_a_finished_run_has_sent_all_its_metrics() -> None:
    client = FakeClient()
    tracked = run(client)
    with tracked.terminating():
        tracked.log_metrics(1, {"loss": 2.0, "accuracy": 0.5})
        assert client.metrics == []  # few calls: they wait for more
    assert client.metrics == [("loss", 1), ("accuracy", 1)]
    assert client.ends == [("r", "FINISHED")]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_an_error_ends_the_run_and_goes_on(error: type[BaseException], status: str) -> None:
    client = FakeClient()
    with pytest.raises(error), run(client).terminating():
        raise error
    assert client.ends == [("r", status)]


def test_an_error_is_not_hidden_by_a_server_that_is_away() -> None:
    with pytest.raises(ValueError, match="the real trouble"), run(FakeClient(away=True)).terminating():
        raise ValueError("the real trouble")


def test_a_server_that_is_away_is_unavailable() -> None:
    tracked = run(FakeClient(away=True))
    tracked.log_metrics(1, {"loss": 1.0})
    with pytest.raises(UnavailableError, match="run r"):
        tracked.flush()


def test_without_psutil_there_are_no_system_metrics_and_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.training.tracking.track.find_spec", lambda name: None)
    client = FakeClient()
    with run(client).system_metrics():
        pass
    assert client.metrics == []


def test_the_confusion_matrix_counts_and_names() -> None:
    figure = figures.confusion(np.asarray([[1, 1], [0, 1]]), ["cat", "a dog with a very long name"])
    axes = figure.axes[0]
    assert sorted(t.get_text() for t in axes.texts) == ["1", "1", "1"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "a dog with a …"]


def test_curves_have_a_point_an_epoch() -> None:
    row = {"train_loss": 1.0, "validation_loss": 2.0, "validation_accuracy": 0.5}
    points = [{"epoch": 0.5, "loss": 1.0, "learning_rate": 1e-3}] * 2
    figure = figures.curves([row, row, row], points)
    assert [np.size(line.get_xdata()) for axes in figure.axes for line in axes.lines] == [2, 3, 3, 3, 2]
