"""Keys, roles and limits at the edge of a service whose model and keys were put in by hand."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ml.catalog import api_keys
from ml.catalog.api_keys import Grant, StoredKey
from ml.errors import InvalidInputError
from serving.api import timeouts
from serving.api.route_classes import GuardedRoute
from serving.api.routes import operate
from serving.auth.keys import FILE, KeyRing, KeySync
from serving.rollout.serving_model import ServingModel
from tests.unit.serving.conftest import near
from tests.unit.serving.test_api import PNG, expect_problem, picture

OPEN = {
    *("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/docs/oauth2-redirect", "/static-offline-docs"),
    *("/v2", "/v2/health/live", "/v2/health/ready"),
    *("/v2/models/{name}/ready", "/v2/models/{name}/versions/{number}/ready"),
}


def known(key: str, *roles: str, expires_at: float | None = None, **limits: Any) -> StoredKey:
    return StoredKey(str(api_keys.id_of(key)), api_keys.digest(key), Grant("tester", roles, **limits), expires_at)


@pytest.fixture
def app(make_app: Callable[..., FastAPI], live: ServingModel) -> FastAPI:
    """A service that wants keys and knows none yet."""
    service = make_app(api_keys="required")
    service.state.dependencies.slot.set(live)
    return service


@pytest.fixture
def far(app: FastAPI) -> TestClient:
    """A client on another machine."""
    return TestClient(app, base_url="http://service", client=("10.0.0.7", 50000))


@pytest.fixture
def give(app: FastAPI) -> Callable[..., str]:
    """Makes a key known, and only that."""

    def make(*roles: str, **how: Any) -> str:
        key = api_keys.generate()
        app.state.dependencies.access._key_ring.replace([known(key, *roles, **how)])
        return key

    return make


def test_a_route_wants_a_role_or_is_named_here(app: FastAPI) -> None:
    """Whoever adds a route decides who may use it."""
    unguarded = {getattr(r, "path", "") for r in app.routes if not isinstance(r, GuardedRoute)}
    assert unguarded - {"/console/static"} == OPEN


def test_a_move_is_not_cut_off_while_replicas_are_waited_for(app: FastAPI) -> None:
    moves = [r for r in app.routes if isinstance(r, GuardedRoute) and r.path.startswith("/v1/admin/")]
    assert {r.path for r in moves} >= {"/v1/admin/promote", "/v1/admin/rollback"}
    assert all(r.seconds is not None and r.seconds > operate.DEPLOY_SECONDS for r in moves)


def test_without_a_key_nothing_is_said_or_read(far: TestClient, give: Callable[..., str]) -> None:
    give("predict")
    refused = far.post("/v1/predict", content=unread(), headers=PNG)
    expect_problem(refused, 401, "no_key")
    assert refused.headers["www-authenticate"].startswith("Bearer ")
    page = far.get("/console/quarantine")
    expect_problem(page, 401, "no_key")
    assert page.headers["www-authenticate"].startswith("Basic ")
    for path in ("/healthz", "/readyz", "/metrics", "/docs"):
        assert far.get(path).status_code == 200


def unread() -> Iterator[bytes]:
    yield pytest.fail("the body was asked for")


def test_a_key_opens_what_it_is_for_in_every_way_of_showing_it(far: TestClient, give: Callable[..., str]) -> None:
    key = give("predict")
    for shown in ({"authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"}, {"x-api-key": key}):
        assert far.post("/v1/predict", content=picture(), headers=PNG | shown).status_code == 200
    assert far.post("/v1/predict", content=picture(), headers=PNG, auth=("ann", key)).status_code == 200
    refused = far.post("/v1/feedback", content=unread(), headers={"x-api-key": key})
    expect_problem(refused, 403, "forbidden")
    assert 'scope="feedback"' in refused.headers["www-authenticate"]
    assert key not in refused.text
    everything = give("admin")
    assert far.post("/v1/feedback", json={}, headers={"x-api-key": everything}).status_code == 422
    assert far.get("/console", headers={"x-api-key": everything}).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1],
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key.upper(),
        lambda key: "evg_000000000000_" + key[17:],
        lambda key: "",
        lambda key: "x" * 8000,
        lambda key: "é" + key,
    ],
)
def test_what_is_nearly_a_key_is_none(far: TestClient, give: Callable[..., str], change: Any) -> None:
    wrong = change(give("admin"))
    for shown in ({"x-api-key": wrong.encode("latin-1")}, {"authorization": b"Bearer " + wrong.encode("latin-1")}):
        refused = far.get("/v1/model", headers=shown)
        expect_problem(refused, 401, "bad_key")
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]


def test_an_expired_key_is_none(far: TestClient, give: Callable[..., str]) -> None:
    assert far.get("/v1/model", headers={"x-api-key": give("predict", expires_at=time.time() + 60)}).status_code == 200
    expect_problem(far.get("/v1/model", headers={"x-api-key": give("predict", expires_at=time.time())}), 401, "bad_key")


def test_before_any_key_is_known_nobody_is_told_that_theirs_is_wrong(far: TestClient) -> None:
    expect_problem(far.get("/v1/model", headers={"x-api-key": api_keys.generate()}), 503, "keys_unknown")
    expect_problem(far.get("/readyz"), 503, "keys_unknown")


def test_a_browsers_password_is_good_on_our_own_pages_only(far: TestClient, give: Callable[..., str]) -> None:
    auth = ("any", give("predict", "operate"))
    ours, other = {"origin": "http://service"}, {"origin": "http://evil.example"}
    assert far.get("/console", auth=auth, headers=other).status_code == 200
    assert far.post("/v1/predict", content=picture(), auth=auth, headers=PNG | ours).status_code == 200
    for page in (other, {"origin": "null"}, {"origin": "http://service:81"}):
        expect_problem(far.post("/v1/predict", content=picture(), auth=auth, headers=PNG | page), 403, "cross_site")


def test_programs_of_this_machine_need_no_key_where_that_is_set(
    make_app: Callable[..., FastAPI], live: ServingModel
) -> None:
    app = make_app(api_keys="loopback")
    app.state.dependencies.slot.set(live)
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        assert TestClient(app, base_url=f"http://{host}", client=("127.0.0.1", 1)).get("/v1/model").status_code == 200
    for peer, host, headers in (
        ("10.0.0.7", "127.0.0.1", {}),
        ("127.0.0.1", "evil.example", {}),
        ("127.0.0.1", "127.0.0.1", {"origin": "http://evil.example"}),
        ("127.0.0.1", "127.0.0.1", {"origin": "null"}),
        ("127.0.0.1", "127.0.0.1", {"x-forwarded-for": "127.0.0.1"}),
    ):
        asked = TestClient(app, base_url=f"http://{host}", client=(peer, 1)).get("/v1/model", headers=headers)
        expect_problem(asked, 401, "no_key")
    app.state.dependencies.access._key_ring.replace([])
    expect_problem(near(app).get("/v1/model", headers={"x-api-key": api_keys.generate()}), 401, "bad_key")


def test_a_key_has_a_rate(far: TestClient, give: Callable[..., str]) -> None:
    shown = {"x-api-key": give("predict", per_second=0.01, burst=3)}
    left = [far.get("/v1/model", headers=shown).headers["ratelimit"] for _ in range(3)]
    assert [header.split(";")[1] for header in left] == ["r=2", "r=1", "r=0"]
    refused = far.post("/v1/predict", content=unread(), headers=PNG | shown)
    expect_problem(refused, 429, "too_often")
    assert 90 <= int(refused.headers["retry-after"]) <= 100
    assert refused.headers["ratelimit-policy"] == '"key";q=3;w=300'
    assert "ratelimit" not in far.get("/v1/model", headers={"x-api-key": give("predict")}).headers


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""}, {"name": "a\nb"}, {"name": " a"}, {"name": "a" * 101}, {"roles": ()}, {"roles": ("root",)},
        {"per_second": 0.0, "burst": 1}, {"per_second": float("nan"), "burst": 1}, {"per_second": 1.0},
        {"burst": 3}, {"per_second": 1.0, "burst": 0},
    ],
)  # fmt: skip
def test_a_grant_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Grant(**{"name": "a", "roles": ("predict",), **wrong})


def test_keys_are_known_from_disk_and_a_damaged_file_is_none(
    make_app: Callable[..., FastAPI], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_app().state.dependencies.engine
    key = api_keys.generate()
    rows = [
        {
            "id": key[4:16],
            "sha256": api_keys.digest(key),
            "expires_at": None,
            "grant": {"name": "a", "roles": ["predict"]},
        }
    ]
    for content, good in ((orjson.dumps(rows), True), (b"[{", False), (b'[{"id": 1}]', False), (b"{}", False)):
        (tmp_path / FILE).write_bytes(content)
        ring = KeyRing()
        keeper = KeySync(ring, engine, tmp_path)
        keeper.start()
        keeper.stop(5)
        assert bool(ring.find(key)) is good
        assert ring.loaded or not good
    assert "cannot be read" in caplog.text


def test_a_body_that_comes_too_slowly_and_an_answer_that_does_not_come(
    make_app: Callable[..., FastAPI], live: ServingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(body_seconds=1.0, answer_seconds=1.0)
    app.state.dependencies.slot.set(live)

    async def dripping() -> AsyncIterator[dict[str, Any]]:
        while True:
            yield {"type": "http.request", "body": b"x", "more_body": True}
            await asyncio.sleep(0.01)

    status, headers, body = asyncio.run(_call(app, dripping().__anext__))
    assert (status, orjson.loads(body)["code"], headers[b"connection"]) == (408, "too_slow", b"close")

    async def never(*_: object) -> bytes:
        await asyncio.sleep(60)
        return b""

    async def whole() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x"}

    async def late(*_: object) -> bytes:
        await asyncio.sleep(1.5)
        return b"{}"

    monkeypatch.setattr(app.state.dependencies.inference, "run", never)
    status, headers, body = asyncio.run(_call(app, whole))
    assert (status, orjson.loads(body)["code"]) == (503, "no_answer")
    assert headers[b"retry-after"]
    monkeypatch.setattr(app.state.dependencies.inference, "run", late)
    monkeypatch.setattr(
        app.state.dependencies.access, "authorize", lambda scope, *_: timeouts.extend_answer_timeout(scope, 60.0)
    )
    assert asyncio.run(_call(app, whole))[0] == 200


async def _call(app: FastAPI, receive: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"image/png")], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)  # type: ignore[arg-type]
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_other_sites_pages_may_ask_only_where_that_is_set(make_app: Callable[..., FastAPI], live: ServingModel) -> None:
    app = make_app(api_keys="required", cors_origins="https://shop.example,https://lab.example")
    app.state.dependencies.slot.set(live)
    key = api_keys.generate()
    app.state.dependencies.access._key_ring.replace([known(key, "predict")])
    http = TestClient(app, base_url="https://service")
    asks = {"origin": "https://shop.example", "access-control-request-method": "POST",
            "access-control-request-headers": "x-api-key,content-type"}  # fmt: skip
    assert http.options("/v1/predict", headers=asks).headers["access-control-allow-origin"] == "https://shop.example"
    assert (
        "access-control-allow-origin" not in http.options("/v1/predict", headers=asks | {"origin": "https://x"}).headers
    )
    answer = http.post(
        "/v1/predict", content=picture(), headers=PNG | {"x-api-key": key, "origin": "https://shop.example"}
    )
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in answer.headers
    assert "max-age" in answer.headers["strict-transport-security"]
    with pytest.raises(ValueError, match="cors_origins"):
        make_app(cors_origins="*")
