"""Many users of the prediction service, for Locust: `locust -f tests/load/locustfile.py --host http://127.0.0.1:18000`.

EVERGREEN_API_KEY is the key they show, EVERGREEN_LOAD_IMAGES a folder of images they ask about (without it, two
photographs that scikit-learn brings along), EVERGREEN_LOAD_WAIT the seconds between two requests of one user (0).
"""

import io
import os
import random
from pathlib import Path

from locust import FastHttpUser, task
from PIL import Image

WAIT = float(os.environ.get("EVERGREEN_LOAD_WAIT", "0"))
KEY = os.environ.get("EVERGREEN_API_KEY")
FEEDBACK_SHARE = 0.02


def _photographs() -> list[bytes]:
    """Two photographs as cameras of the web send them: JPEG, 500 pixels wide."""
    from sklearn.datasets import load_sample_images

    made = []
    for pixels in load_sample_images().images:
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((500, 333)).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def _load() -> list[bytes]:
    folder = os.environ.get("EVERGREEN_LOAD_IMAGES")
    found = [p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()] if folder else _photographs()
    if not found:
        raise SystemExit(f"no file is below {folder}")
    return found


# Here and not in a listener: Locust's clock of a run does not stand still while one works.
images = _load()


class Caller(FastHttpUser):
    """Asks about an image, now and then says what it was; asks what answers."""

    connection_timeout = network_timeout = 30.0

    def wait_time(self) -> float:
        return WAIT

    def on_start(self) -> None:
        self.shown = {"x-api-key": KEY} if KEY else {}

    @task(50)
    def predict(self) -> None:
        headers = {"content-type": "application/octet-stream", **self.shown}
        image = random.choice(images)
        # Locust sends bytes too, whatever its annotation says.
        with self.client.post("/v1/predict", data=image, headers=headers, catch_response=True) as answer:  # type: ignore[arg-type]
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {answer.text[:200] if answer.text else ''}")
                return
            said = answer.json()
        if random.random() < FEEDBACK_SHARE:
            body = {"prediction_id": said["id"], "label": said["label"], "source": "locust"}
            self.client.post("/v1/feedback", json=body, headers=self.shown)

    @task(1)
    def model(self) -> None:
        self.client.get("/v1/model", headers=self.shown)
