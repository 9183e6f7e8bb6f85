"""Client of the MLflow model registry: versions, aliases, tags and bundle locations."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ml.errors import NotFoundError, UnavailableError
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.models.registry_rest import BUNDLE_FOLDER, DIGEST_TAG, RestRegistry

# MLflow reads these on import: disable telemetry, and keep stdout for the callers.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}


class Registry(RestRegistry):
    """The full client; the MLflow library is imported on first use."""

    @cached_property
    def client(self) -> "MlflowClient":
        """The MLflow client, for runs.

        It retries for minutes, which suits an outage during a long training but not a wrong address; so the first
        call checks the connection itself.
        """
        from mlflow import MlflowClient

        url = urlsplit(self._settings.mlflow_url)
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            socket.create_connection((url.hostname or "", port), timeout=5).close()
        except OSError as error:
            raise UnavailableError(f"MLflow does not answer at {self._settings.mlflow_url}: {error}") from error
        return MlflowClient(tracking_uri=self._settings.mlflow_url, registry_uri=self._settings.mlflow_url)

    def register(
        self, run_id: str, folder: Path, info: BundleInfo, tags: Mapping[str, str], description: str = ""
    ) -> int:
        """Upload the bundle as a pyfunc model of the run and register it; the same run gives the same version.

        Args:
            description: Markdown, at most 5,000 characters.
        """
        existing = self.find(f"run_id = '{run_id}'")
        if existing:
            return int(existing[0].version)
        with translate_errors(f"registering `{self.name}` from run {run_id}"):
            self._ensure_model()
            uri = self._upload(run_id, folder)
            digest = bundle.digest((folder / bundle.INFO).read_bytes())
            all_tags = {DIGEST_TAG: digest, "dataset_version": info.dataset_version, **tags}
            created = self.client.create_model_version(
                self.name, uri, run_id, tags=all_tags, description=description, await_creation_for=0
            )
        return int(created.version)

    def find(self, condition: str = "") -> "list[ModelVersion]":
        """Versions of the model, newest first; `condition` in MLflow's search syntax."""
        query = f"name = '{self.name}'" + (f" and {condition}" if condition else "")
        with translate_errors(f"versions of `{self.name}`"):
            return list(self.client.search_model_versions(query, max_results=100, order_by=["version_number DESC"]))

    def version_url(self, version: int) -> str:
        return f"{self._settings.mlflow_url}/#/models/{self.name}/versions/{version}"

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _upload(self, run_id: str, folder: Path) -> str:
        from mlflow import pyfunc

        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary) / "model"
            # MLflow keeps the folder's name below `data/`, and `bundle` relies on it.
            bundle_folder = shutil.copytree(folder, Path(temporary) / BUNDLE_FOLDER)
            pyfunc.save_model(
                path=str(target),
                loader_module="ml.pyfunc",
                data_path=str(bundle_folder),
                pip_requirements=["numpy", "onnxruntime", "pandas", "pillow", "pydantic"],
            )
            self.client.log_artifacts(run_id, str(target), "model")
        root: Any = self.client.get_run(run_id).info.artifact_uri
        return f"{root}/model"


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Translate MLflow's exceptions; `what` names the requested object in the message."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in _MISSING:
            raise NotFoundError(f"MLflow knows no {what}: {error.message}") from error
        raise UnavailableError(f"{what}: MLflow answered {error.error_code}: {error.message}") from error
    except OSError as error:
        raise UnavailableError(f"{what}: MLflow does not answer: {error}") from error
