"""Airflow's four components, run apart from each other: their commands and the environment they share."""

import sysconfig
from pathlib import Path

import httpx
import orjson

from infra.local.layout import REPO, Layout
from ml.errors import UnavailableError

USER = "admin"
POOL = "train"


def executable() -> str:
    return str(Path(sysconfig.get_path("scripts")) / "airflow")


def commands(layout: Layout) -> dict[str, list[str]]:
    """By part."""
    airflow = executable()
    api = ["api-server", "--host", "127.0.0.1", "--port", str(layout.ports["airflow"]), "--workers", "1"]
    return {
        "airflow-api": [airflow, *api],
        "airflow-scheduler": [airflow, "scheduler", "--skip-serve-logs"],
        "airflow-dags": [airflow, "dag-processor"],
        "airflow-triggerer": [airflow, "triggerer", "--skip-serve-logs"],
    }


def environment(layout: Layout) -> dict[str, str]:
    """Configuration by environment; the same for all four, so that they share keys."""
    url = f"http://{layout.address('airflow')}"
    options = {
        ("core", "executor"): "LocalExecutor",
        ("core", "parallelism"): "4",
        ("core", "load_examples"): "False",
        ("core", "dags_folder"): str(REPO / "dags"),
        ("core", "plugins_folder"): str(REPO / "plugins"),
        ("core", "dags_are_paused_at_creation"): "False",
        ("core", "fernet_key"): layout.secrets["airflow_fernet"],
        ("core", "execution_api_server_url"): f"{url}/execution/",
        ("core", "simple_auth_manager_users"): f"{USER}:admin",
        ("core", "simple_auth_manager_passwords_file"): str(_passwords(layout)),
        ("database", "sql_alchemy_conn"): layout.database("airflow"),
        ("api", "base_url"): url,
        ("api", "secret_key"): layout.secrets["airflow_api"],
        ("api_auth", "jwt_secret"): layout.secrets["airflow_jwt"],
        # The wait between tasks of a run is this long; 0.1 would cost a fifth of a core when idle.
        ("scheduler", "scheduler_idle_sleep_time"): "0.25",
        # A task whose process was killed is retried after a minute, not after five.
        ("scheduler", "task_instance_heartbeat_timeout"): "60",
        ("scheduler", "task_instance_heartbeat_timeout_detection_interval"): "5",
        ("scheduler", "orphaned_tasks_check_interval"): "15",
        ("scheduler", "scheduler_health_check_threshold"): "15",
        ("dag_processor", "refresh_interval"): "10",
        ("dag_processor", "min_file_process_interval"): "30",
        ("usage_data_collection", "enabled"): "False",
        ("logging", "base_log_folder"): str(layout.home / "logs" / "tasks"),
    }
    named = {f"AIRFLOW__{section.upper()}__{key.upper()}": value for (section, key), value in options.items()}
    return named | {
        "AIRFLOW_HOME": str(home(layout)),
        "PYTHONPATH": f"{REPO}:{REPO / 'infra' / 'airflow'}",
        # Training shares the cores with the service: threads that wait must not spin.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }


def home(layout: Layout) -> Path:
    return layout.home / "airflow"


def write_password(layout: Layout) -> None:
    """The UI's login, before the first start; readable by the owner only."""
    home(layout).mkdir(parents=True, exist_ok=True)
    path = _passwords(layout)
    path.touch(mode=0o600)
    path.write_bytes(orjson.dumps({USER: layout.secrets["airflow_admin"]}))


def ensure_pool(layout: Layout) -> None:
    """The pool that lets one training run at a time; one that exists keeps its slots.

    By the API: the command of the same effect takes seconds to import what it needs.

    Raises:
        UnavailableError: Airflow does not let us.
    """
    with httpx.Client(base_url=f"http://{layout.address('airflow')}", timeout=120) as http:
        try:
            login = {"username": USER, "password": layout.secrets["airflow_admin"]}
            token = http.post("/auth/token", json=login).raise_for_status().json()["access_token"]
            pool = {"name": POOL, "slots": 1, "description": "one training at a time"}
            answer = http.post("/api/v2/pools", json=pool, headers={"Authorization": f"Bearer {token}"})
            if answer.status_code != httpx.codes.CONFLICT:
                answer.raise_for_status()
        except (httpx.HTTPError, KeyError) as error:
            raise UnavailableError(f"the pool `{POOL}` cannot be made in Airflow: {error}") from error


def _passwords(layout: Layout) -> Path:
    return home(layout) / "passwords.json"
