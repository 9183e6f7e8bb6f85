"""The one-shot container: databases, buckets, tables, Airflow's own tables and pool. Harmless when run again."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import psycopg2

from infra.local import airflow, postgres
from ml import context
from ml.catalog import api_keys
from ml.catalog.migrate import migrate
from ml.errors import InvalidInputError, UnavailableError
from ml.settings import Settings
from ml.storage import object_store

log = logging.getLogger("init")

_PATIENCE = 600
_REQUIRED = (
    "POSTGRES_PASSWORD",
    "CATALOG_DB_PASSWORD",
    "AIRFLOW_DB_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "AIRFLOW_ADMIN_PASSWORD",
    "EVERGREEN_S3_SECRET_KEY",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__CORE__FERNET_KEY",
    "EVERGREEN_API_KEY",
)


def main() -> None:
    """Everything the other containers count on."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _require_variables(os.environ)
    settings = Settings.load(os.environ)
    database = urlsplit(settings.database_url.get_secret_value())
    host, port = database.hostname or "postgres", database.port or 5432
    for name, variable in (("evergreen", "CATALOG"), ("airflow", "AIRFLOW"), ("mlflow", "MLFLOW")):
        password = os.environ[f"{variable}_DB_PASSWORD"]
        superuser = os.environ["POSTGRES_PASSWORD"]
        _retry(lambda n=name, p=password, s=superuser: postgres.ensure_database(host, port, s, n, p))  # type: ignore[misc]
    for bucket in (settings.labels_bucket, settings.store_bucket, settings.artifacts_bucket):
        _retry(object_store.connect(settings, bucket).ensure_bucket)
    engine = context.connect(settings).engine
    migrate(engine)
    if settings.api_key:
        grant = api_keys.Grant("stack", ("predict", "review", "operate"))
        api_keys.ensure(engine, settings.api_key.get_secret_value(), grant, "infra.docker.init")
    for arguments in (["db", "migrate"], ["pools", "set", airflow.POOL, "1", "one training at a time"]):
        subprocess.run([sys.executable, "-m", "airflow", *arguments], check=True)
    passwords = Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    passwords.write_bytes(orjson.dumps({airflow.USER: os.environ["AIRFLOW_ADMIN_PASSWORD"]}))
    passwords.chmod(0o600)
    log.info("ready: databases, buckets, tables, pool")


def _require_variables(environ: Mapping[str, str]) -> None:
    """Compose fills in nothing for a variable that `.env` lacks; a blank password must not get far."""
    blank = [name for name in _REQUIRED if not environ.get(name)]
    if blank:
        raise InvalidInputError(f"`.env` has no {', '.join(blank)}: `python -m infra.compose env` adds what is missing")


def _retry(action: Callable[[], None]) -> None:
    """Retry while a server is starting; a wrong password is not retried."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return action()
        except (psycopg2.OperationalError, UnavailableError) as error:
            if "password authentication failed" in str(error):
                raise InvalidInputError(
                    "Postgres refuses `POSTGRES_PASSWORD`: its volume was made with another `.env`; bring that file "
                    "back, or remove the volumes and all data with `docker compose down -v`"
                ) from error
            if time.monotonic() > deadline:
                raise
            log.info("waiting: %s", str(error).strip().splitlines()[0])
            time.sleep(1)


if __name__ == "__main__":
    main()
