"""Where the servers are, and how to log in to them."""

from pathlib import Path

from pydantic import BaseModel, Field, SecretStr


class ConnectionSettings(BaseModel):
    """Where the servers are, and how to log in to them."""

    home: Path = Field(Path(".evergreen"), description="Data folder of this host.")

    database_url: SecretStr = Field(SecretStr("postgresql+psycopg2://evergreen@127.0.0.1:5432/evergreen"))
    s3_endpoint: str = Field(
        "http://127.0.0.1:9000", pattern=r"^https?://[^/?#\s]+$", description="S3 API: scheme, host, port."
    )
    s3_access_key: str = Field(
        "evergreen", description="Empty, as the secret key: boto3 finds both (environment, profile, role)."
    )
    s3_secret_key: SecretStr = SecretStr("")
    s3_region: str = "us-east-1"
    labels_bucket: str = Field("labels", description="Where people upload drops.")
    store_bucket: str = Field("evergreen", description="Segments, manifests, reports, quarantine.")
    artifacts_bucket: str = Field("mlflow", description="MLflow's artifacts.")
    artifacts_prefix: str = Field("artifacts", description="MLflow's --artifacts-destination in it.")
    mlflow_url: str = "http://127.0.0.1:5000"
    mlflow_page: str | None = Field(None, description="Where browsers find MLflow; None: at mlflow_url.")
    airflow_url: str = "http://127.0.0.1:8080"
    service_url: str = "http://127.0.0.1:8000"
