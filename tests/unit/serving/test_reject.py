from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fastapi import FastAPI

from ml.imaging.images import Pixels
from ml.models.model import Model
from serving.inference.predictor import RejectPolicy
from serving.rollout.serving_model import ServingModel
from tests.unit.serving.conftest import near
from tests.unit.serving.test_api import PNG, picture


def test_nothing_is_rejected_unless_limits_are_set() -> None:
    assert RejectPolicy().reason(0.01, 99.0) is None
    both = RejectPolicy(min_confidence=0.5, max_distance=1.2)
    assert [both.reason(c, d) for c, d in ((0.4, 1.0), (0.5, 1.2), (0.4, 1.3), (0.9, 1.3), (0.4, None))] == [
        "unsure", None, "unfamiliar", "unfamiliar", "unsure",
    ]  # fmt: skip


class Strange(Model):
    """Finds every image as far away as it may be and a bit."""

    def predict_with_distances(self, images: Pixels) -> tuple[np.ndarray, np.ndarray | None]:
        return self.predict(images), np.full(len(images), 1.25, np.float32)


@pytest.mark.parametrize("limits", [{"reject_beyond": 1.2}, {"reject_below": 1.0}, {}])
def test_a_rejected_answer_says_so_and_is_logged_so(
    make_app: Callable[..., FastAPI], live: ServingModel, limits: dict[str, float]
) -> None:
    app = make_app(**limits)
    strange = Strange(live.model.info, live.model.runtime)
    app.state.dependencies.slot.set(replace(live, model=strange))
    with near(app) as client:
        answer = client.post("/v1/predict", content=picture(), headers=PNG).json()
        row = client.get(f"/v1/predictions/{answer['id']}").json()
        metrics = client.get("/metrics").text
    expected = {"reject_beyond": "unfamiliar", "reject_below": "unsure"}.get(next(iter(limits), ""))
    assert (answer["rejected"], answer["reason"]) == (expected is not None, expected)
    assert answer["label"] in live.model.info.labels
    assert (row["rejected"], row["distance"], row["stored"], row["image_kept"]) == (expected, 1.25, False, True)
    assert (f'evergreen_rejected_total{{reason="{expected}"}} 1.0' in metrics) == (expected is not None)
