"""API keys from the command line to two workers, and on without Postgres."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select

from ml.catalog import api_keys
from ml.catalog.deployments import live_replicas
from ml.catalog.engine import transaction
from ml.catalog.tables import api_keys as table
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from serving.auth.keys import FILE
from tests.bundles import deployed
from tests.integration.test_cli import as_json, invoke
from tests.pictures import digits
from tests.servers import wait_until
from tests.serving_process import Service, service

IMAGE = digits()[0][1]


def statuses(running: Service, key: str, path: str = "/v1/model") -> set[int]:
    """What both workers say, asked on new connections."""
    return {httpx.get(running.url + path, headers={"x-api-key": key}).status_code for _ in range(12)}


def test_a_key_from_its_making_to_its_end(make_context: Callable[..., Context], tmp_path: Path) -> None:
    context = make_context(api_keys="required")
    deployed(context, tmp_path)
    first = as_json(context, "keys", "create", "phone", "--role", "predict", "--role", "operate", "--as", "ann")["key"]
    with service(context.settings, tmp_path) as running:
        wait_until(lambda: statuses(running, first) == {200}, what="a key and a model in both workers")
        assert httpx.get(f"{running.url}/v1/model").status_code == 401
        assert statuses(running, first, "/console") == {200}
        second = as_json(context, "keys", "rotate", "phone", "--grace-hours", "1")["key"]
        wait_until(lambda: statuses(running, second) == {200}, what="the new key in both workers")
        assert statuses(running, first) == {200}
        assert as_json(context, "keys", "revoke", str(api_keys.id_of(first))) == {"revoked": 1}
        wait_until(lambda: statuses(running, first) == {401}, what="the old key's end in both workers")
        assert statuses(running, second) == {200}
    kept = context.settings.home / FILE
    assert kept.stat().st_mode & 0o077 == 0
    assert second not in kept.read_text()
    nowhere = SecretStr("postgresql+psycopg2://evergreen@127.0.0.1:1/evergreen")
    alone = context.settings.model_copy(update={"database_url": nowhere})
    with service(alone, tmp_path) as running:
        wait_until(lambda: statuses(running, second) == {200}, what="a start without Postgres")
        assert statuses(running, first) == {401}
        assert running.ask(IMAGE, **{"x-api-key": second}).status_code == 200
    _, shown = invoke(context, "keys", "list")
    assert "predict, operate" in shown
    assert "revoked" in shown
    assert second[17:] not in shown
    rows = {row["id"]: row for row in as_json(context, "keys", "list")}
    assert {row["state"] for row in rows.values()} == {"good", "revoked"}
    assert rows[api_keys.id_of(first)]["created_by"] == "ann"
    with transaction(context.engine) as connection:
        stored = str(connection.execute(select(table)).all())
    assert first[17:] not in stored
    assert second[17:] not in stored


def test_names_and_limits_of_keys(context: Context) -> None:
    as_json(context, "keys", "create", "lab", "--role", "predict", "--per-second", "5", "--days", "1")
    (row,) = api_keys.list_keys(context.engine)
    assert (row.per_second, row.burst, row.roles) == (5.0, 10, ["predict"])
    with pytest.raises(ConflictError, match="already"):
        invoke(context, "keys", "create", "lab", "--role", "predict")
    with pytest.raises(InvalidInputError, match="roles"):
        invoke(context, "keys", "create", "other", "--role", "root")
    for command in ("rotate", "revoke"):
        with pytest.raises(NotFoundError, match="nobody"):
            invoke(context, "keys", command, "nobody")
    api_keys.rotate(context.engine, "lab", "ann", grace_hours=0)
    newest, oldest = api_keys.list_keys(context.engine)
    assert (newest.state, oldest.state) == ("good", "expired")
    assert newest.expires_at == row.expires_at
    assert api_keys.revoke(context.engine, "lab") == 1
    with transaction(context.engine) as connection:
        assert api_keys.active_keys(connection) == []


def test_two_workers_count_a_keys_rate_together(make_context: Callable[..., Context], tmp_path: Path) -> None:
    context = make_context(api_keys="required")
    key = api_keys.generate()
    api_keys.ensure(context.engine, key, api_keys.Grant("phone", ("predict",), per_second=0.001, burst=20), "test")
    deployed(context, tmp_path)
    with service(context.settings, tmp_path) as running:
        running.wait_ready()
        wait_until(lambda: len(live_replicas(context.engine, 2.0)) == 2, what="both")
        asked = [httpx.get(f"{running.url}/v1/model", headers={"x-api-key": key}) for _ in range(40)]
        answering = {answer.json()["replica"] for answer in asked if answer.status_code == 200}
        assert [answer.status_code for answer in asked] == [200] * 20 + [429] * 20
        assert len(answering) == 2, "each on a new connection, which either may get"


def test_a_key_made_before_the_database_is_made_known_once(context: Context) -> None:
    key, grant = api_keys.generate(), api_keys.Grant("stack", ("predict",))
    for _ in range(2):
        api_keys.ensure(context.engine, key, grant, "test")
    with transaction(context.engine) as connection:
        (active,) = api_keys.active_keys(connection)
        assert (active.sha256, active.grant) == (api_keys.digest(key), grant)
        before = api_keys.revision(connection)
        api_keys.record_use(connection, {active.id: 1.5e9})
        assert api_keys.revision(connection) == before
    used_at = api_keys.list_keys(context.engine)[0].used_at
    assert used_at is not None
    assert used_at.year == 2017
    api_keys.ensure(context.engine, key, api_keys.Grant("stack", ("predict", "review")), "test")
    (changed,) = api_keys.list_keys(context.engine)
    assert (changed.roles, changed.used_at) == (["predict", "review"], used_at), "what it may do follows the deployment"
    with transaction(context.engine) as connection:
        assert api_keys.revision(connection) != before, "workers hear of it"
    with pytest.raises(ConflictError):
        api_keys.ensure(context.engine, key[:17] + "A" * 43, grant, "test")
    with pytest.raises(InvalidInputError):
        api_keys.ensure(context.engine, "secret", grant, "test")
