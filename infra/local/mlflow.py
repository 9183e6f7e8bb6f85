"""The MLflow server on Postgres, with its artifacts in the bucket and proxied, so clients need no S3 keys."""

import sysconfig
from pathlib import Path

from ml.settings import Settings


def command(settings: Settings, database_url: str, port: int) -> tuple[list[str], dict[str, str]]:
    """What to run in the foreground, and the environment it needs; secrets stay off the command line."""
    environment = {
        "MLFLOW_BACKEND_STORE_URI": database_url,
        "MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value(),
        "AWS_DEFAULT_REGION": settings.s3_region,
        # The job runner is eight processes and a gigabyte for features that nothing here uses.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    destination = f"s3://{settings.artifacts_bucket}/{settings.artifacts_prefix}"
    return [
        str(Path(sysconfig.get_path("scripts")) / "mlflow"),
        *("server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--artifacts-destination", destination),
    ], environment
