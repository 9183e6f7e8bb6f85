"""Many images in one request: answers and problems side by side, bounds, and whose URLs are read."""

import re
from typing import Any

from fastapi.testclient import TestClient

from ml.errors import UnavailableError
from tests.doubles.object_store import MemoryObjectStore
from tests.unit.serving.conftest import near
from tests.unit.serving.test_api import PNG, expect_problem, picture


class PartlyUnavailable(MemoryObjectStore):
    """One object cannot be read."""

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        if key == "away.png":
            raise UnavailableError("10.0.0.1")
        return super().get(key, offset, length)


def form(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{n}.png", data)) for n, data in enumerate(images)]


def codes(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["problem"]["code"] if "problem" in item else "answer" for item in answer.json()["results"]]


def test_each_image_is_answered_as_if_it_came_alone(client: TestClient) -> None:
    images = [picture(side=side) for side in (20, 21, 22, 23, 24)]
    many = client.post("/v1/predict/batch?top=2", files=form(*images), headers={"x-client-key": "k"}).json()["results"]
    assert [item["name"] for item in many] == [f"{n}.png" for n in range(5)]
    for image, item in zip(images, many, strict=True):
        alone = client.post("/v1/predict?top=2", content=image, headers=PNG | {"x-evergreen-probe": "1"}).json()
        assert item["answer"]["top"] == alone["top"]
        assert item["answer"]["model_version"] == 7
    assert len({item["answer"]["id"] for item in many}) == 5
    client.post("/v1/predict/batch", files=form(images[0]), headers={"x-evergreen-probe": "1"})
    client.app.state.dependencies.inference.close(10)  # type: ignore[attr-defined]  # then all is logged
    own = client.app.state.dependencies.predictor._log._spool  # type: ignore[attr-defined]
    rows = b"".join(path.read_bytes() for path in own.folder.iterdir() if path.is_file())
    assert sorted(re.findall(rb'"client_key":"(k/\d)"', rows)) == [b"k/%d" % n for n in range(5)]
    assert all(item["answer"]["id"].encode() in rows for item in many)
    assert rows.count(b'"model_version":7') == 5


def test_a_bad_image_spoils_only_its_own_answer(client: TestClient) -> None:
    answer = client.post("/v1/predict/batch", files=form(picture(), b"nonsense", b"", picture("JPEG")[:200], picture()))
    assert codes(answer) == ["answer", "not_an_image", "empty", "broken", "answer"]
    assert answer.json()["results"][1]["problem"]["status"] == 422


def test_urls_of_our_own_buckets_are_read_and_no_others(client: TestClient) -> None:
    dependencies = client.app.state.dependencies  # type: ignore[attr-defined]
    ours = PartlyUnavailable({"a/b c.png": picture(), "big.png": bytes(1_000_001)})
    object.__setattr__(dependencies, "sources", {"ours": ours})
    urls = {
        "s3://ours/a/b c.png": "answer",
        "s3://ours/none.png": "not_found",
        "s3://ours/big.png": "too_many_bytes",
        "s3://ours/away.png": "unavailable",
        "s3://theirs/a.png": "foreign_url",
        "https://ours/a.png": "foreign_url",
        "file:///etc/passwd": "foreign_url",
        "s3://ours/": "foreign_url",
    }
    answer = client.post("/v1/predict/batch", json={"urls": list(urls)})
    assert codes(answer) == list(urls.values())
    assert [item["name"] for item in answer.json()["results"]] == list(urls)
    assert "10.0.0.1" not in answer.text


def test_what_is_no_batch_is_told_so(client: TestClient, make_app: Any, live: Any) -> None:
    url = "/v1/predict/batch"
    bodies: list[dict[str, Any]] = [
        {},
        {"urls": []},
        {"urls": [1]},
        {"urls": "s3://a/b"},
        {"urls": ["s3://a/b"], "more": 1},
    ]
    for body in bodies:
        expect_problem(client.post(url, json=body), 422, "invalid")
    expect_problem(client.post(url, content=b"{", headers={"content-type": "application/json"}), 422, "invalid")
    expect_problem(client.post(url, content=picture(), headers=PNG), 415, "unsupported_media_type")
    expect_problem(client.post(url, files={"other": b"x"}), 422, "no_file")
    expect_problem(client.post(f"{url}?top=0", files=form(picture())), 422, "invalid")
    app = make_app(max_batch_images=2)
    app.state.dependencies.slot.set(live)
    small = near(app)
    assert codes(small.post(url, files=form(picture(), picture()))) == ["answer", "answer"]
    expect_problem(small.post(url, files=form(*[picture()] * 3)), 413, "too_many_images")
    expect_problem(small.post(url, json={"urls": ["s3://a/b"] * 3}), 413, "too_many_images")
    app.state.dependencies.inference._in_flight = 99
    refused = small.post(url, files=form(picture()))
    expect_problem(refused, 503, "overloaded")
    assert refused.headers["retry-after"]
