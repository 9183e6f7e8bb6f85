"""MLflow's registry behind the few words the loop needs: versions, aliases, tags, and where a bundle lies."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ml import bundle
from ml.bundle import BundleInfo
from ml.errors import NotFoundError, UnavailableError
from ml.settings import Settings

# MLflow reads these when imported: no usage reports to its makers, and stdout belongs to our callers.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

DIGEST_TAG: Final = "bundle_digest"
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_BUNDLE_FOLDER = "bundle"


@dataclass(frozen=True)
class BundleLocation:
    """Where a version's bundle lies in the artifacts bucket, and the digest that proves it."""

    prefix: str
    digest: str


class Registry:
    """Every method raises `UnavailableError` when MLflow does not answer, `NotFoundError` for what is not there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.name = settings.model_name

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's own, for runs.

        It tries again for minutes before it gives up, which suits a long training that an outage
        meets, but not a first call to an address where nobody is; so the first call asks by itself.
        """
        url = urlsplit(self._settings.mlflow_url)
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            socket.create_connection((url.hostname or "", port), timeout=5).close()
        except OSError as error:
            raise UnavailableError(f"MLflow does not answer at {self._settings.mlflow_url}: {error}") from error
        return MlflowClient(tracking_uri=self._settings.mlflow_url, registry_uri=self._settings.mlflow_url)

    def alias(self, name: str) -> int | None:
        """The version that bears the alias, or None."""
        return self.aliases().get(name)

    def set_alias(self, name: str, version: int | None) -> None:
        """Point the alias at `version`; None removes it."""
        with translated(f"alias `{name}` of `{self.name}`"):
            if version is None:
                self.client.delete_registered_model_alias(self.name, name)
            else:
                self.client.set_registered_model_alias(self.name, name, str(version))

    def tag(self, version: int, tags: Mapping[str, object]) -> None:
        with translated(f"version {version} of `{self.name}`"):
            for key, value in tags.items():
                self.client.set_model_version_tag(self.name, str(version), key, str(value))

    def tags(self, version: int) -> dict[str, str]:
        return dict(self._version(version).tags)

    def register(
        self, run_id: str, folder: Path, info: BundleInfo, tags: Mapping[str, str], description: str = ""
    ) -> int:
        """Upload the bundle as a pyfunc model of the run and register it; the same run gives the same version.

        Args:
            description: Markdown, at most 5,000 characters.
        """
        found = self.find(f"run_id = '{run_id}'")
        if found:
            return int(found[0].version)
        with translated(f"registering `{self.name}` from run {run_id}"):
            self._ensure_model()
            uri = self._upload(run_id, folder)
            digest = bundle.digest((folder / bundle.INFO).read_bytes())
            told = {DIGEST_TAG: digest, "dataset_version": info.dataset_version, **tags}
            made = self.client.create_model_version(
                self.name, uri, run_id, tags=told, description=description, await_creation_for=0
            )
        return int(made.version)

    def find(self, condition: str = "") -> "list[ModelVersion]":
        """Versions of our model, the newest first; `condition` as in MLflow's search syntax."""
        query = f"name = '{self.name}'" + (f" and {condition}" if condition else "")
        with translated(f"versions of `{self.name}`"):
            return list(self.client.search_model_versions(query, max_results=100, order_by=["version_number DESC"]))

    def aliases(self) -> dict[str, int]:
        """Alias → version."""
        try:
            with translated(f"model `{self.name}`"):
                return {k: int(v) for k, v in self.client.get_registered_model(self.name).aliases.items()}
        except NotFoundError:
            return {}

    def bundle(self, version: int) -> BundleLocation:
        """Raises NotFoundError for a version without a bundle."""
        found = self._version(version)
        digest = found.tags.get(DIGEST_TAG)
        with translated(f"version {version} of `{self.name}`"):
            uri = self.client.get_model_version_download_uri(self.name, str(version))
        scheme, _, path = uri.partition(":/")
        if scheme != "mlflow-artifacts" or digest is None:
            raise NotFoundError(f"version {version} of `{self.name}` has no bundle (stored at {uri}, digest {digest})")
        return BundleLocation(f"{self._settings.artifacts_prefix}/{path.strip('/')}/data/{_BUNDLE_FOLDER}", digest)

    def run_url(self, run_id: str) -> str:
        return f"{self._settings.mlflow_url}/#/runs/{run_id}"

    def version_url(self, version: int) -> str:
        return f"{self._settings.mlflow_url}/#/models/{self.name}/versions/{version}"

    def _version(self, version: int) -> "ModelVersion":
        with translated(f"version {version} of `{self.name}`"):
            return self.client.get_model_version(self.name, str(version))

    def _ensure_model(self) -> None:
        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _upload(self, run_id: str, folder: Path) -> str:
        from mlflow import pyfunc

        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary) / "model"
            # MLflow keeps the folder's own name below `data/`, and `bundle` above counts on it.
            named = shutil.copytree(folder, Path(temporary) / _BUNDLE_FOLDER)
            pyfunc.save_model(
                path=str(target),
                loader_module="ml.pyfunc",
                data_path=str(named),
                pip_requirements=["numpy", "onnxruntime", "pandas", "pillow", "pydantic"],
            )
            self.client.log_artifacts(run_id, str(target), "model")
        root: Any = self.client.get_run(run_id).info.artifact_uri
        return f"{root}/model"


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns MLflow's errors into ours, with `what` was wanted in the message."""
    try:
        yield
    except MlflowException as error:
        if error.error_code in _MISSING:
            raise NotFoundError(f"MLflow knows no {what}: {error.message}") from error
        raise UnavailableError(f"{what}: MLflow answered {error.error_code}: {error.message}") from error
    except OSError as error:
        raise UnavailableError(f"{what}: MLflow does not answer: {error}") from error
