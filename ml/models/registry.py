"""The model registry: versions, aliases, tags and bundle locations.

Callers depend on the protocol `Registry`; `MLflowRegistry` is MLflow's, and `ml.models.recorded_registry` protects
callers from what people do there. What a release needs goes over REST
(https://mlflow.org/docs/latest/api_reference/rest-api.html) without importing the MLflow library, which takes seconds.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import httpx

from ml.errors import NotFoundError, UnavailableError
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.settings import Settings

# MLflow reads these on import: disable telemetry, and keep stdout for the callers.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST_TAG: Final = "bundle_digest"
BUNDLE_FOLDER: Final = "bundle"
_DATA: Final = f"/data/{BUNDLE_FOLDER}"
_MISSING: Final = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_PAGE_SIZE: Final = 1000
_SECONDS: Final = 5.0
"""A rollback works without the registry and must not wait long for it."""


@dataclass(frozen=True)
class BundleLocation:
    """Location of a version's bundle in the artifacts bucket, and its digest."""

    prefix: str
    digest: str


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of the model, and the MLflow run that trained it."""

    version: int
    run_id: str
    tags: dict[str, str]


class Registry(Protocol):
    """The versions of one registered model.

    Every method raises `UnavailableError` when the registry does not answer, and `NotFoundError` for a version that
    does not exist.
    """

    def alias(self, name: str) -> int | None:
        """The version with the alias, or None."""

    def aliases(self) -> dict[str, int]:
        """Alias → version; empty for a model without versions."""

    def set_alias(self, name: str, version: int | None) -> None:
        """Point the alias at `version`, and at no other; None removes it."""

    def tags(self, version: int) -> dict[str, str]:
        """The tags of a version."""

    def tag(self, version: int, tags: Mapping[str, object]) -> None:
        """Set tags of a version, as strings; its others stay."""

    def bundle(self, version: int) -> BundleLocation:
        """Raises NotFoundError also for a version without a bundle."""

    def register(
        self, run_id: str, folder: Path, info: BundleInfo, tags: Mapping[str, str], description: str = ""
    ) -> int:
        """Store the bundle in `folder` as a new version and return its number; the same run gives the same version.

        Args:
            tags: beside those that every version has, `bundle_digest` and `dataset_version`.
            description: Markdown, at most 5,000 characters.
        """

    def find(self, **tags: str) -> list[RegisteredVersion]:
        """The versions that have all these tags, newest first."""

    def version_url(self, version: int) -> str:
        """The page of a version, for people."""


class RestorableRegistry(Registry, Protocol):
    """A registry that people can delete from."""

    def restore(self, location: BundleLocation, run_id: str, tags: Mapping[str, str]) -> int:
        """Register a stored bundle again, with all its tags, and return the new number."""


class MLflowRegistry:
    """The MLflow model registry; implements `RestorableRegistry`.

    The MLflow library is imported where it is first needed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.name = settings.model_name

    def alias(self, name: str) -> int | None:
        return self.aliases().get(name)

    def aliases(self) -> dict[str, int]:
        try:
            response = self._call("GET", "registered-models/get", f"model `{self.name}`")
        except NotFoundError:
            return {}
        return {row["alias"]: int(row["version"]) for row in response["registered_model"].get("aliases", ())}

    def set_alias(self, name: str, version: int | None) -> None:
        what = f"alias `{name}` of `{self.name}`"
        if version is None:
            self._call("DELETE", "registered-models/alias", what, alias=name)
        else:
            self._call("POST", "registered-models/alias", what, alias=name, version=str(version))

    def tags(self, version: int) -> dict[str, str]:
        model_version = self._get_version("get", version)["model_version"]
        return {tag["key"]: tag["value"] for tag in model_version.get("tags", ())}

    def tag(self, version: int, tags: Mapping[str, object]) -> None:
        what = f"version {version} of `{self.name}`"
        for key, value in tags.items():
            self._call("POST", "model-versions/set-tag", what, version=str(version), key=key, value=str(value))

    def bundle(self, version: int) -> BundleLocation:
        digest = self.tags(version).get(DIGEST_TAG)
        uri = self._get_version("get-download-uri", version)["artifact_uri"]
        scheme, _, path = uri.partition(":/")
        if scheme != "mlflow-artifacts" or digest is None:
            raise NotFoundError(f"version {version} of `{self.name}` has no bundle (stored at {uri}, digest {digest})")
        return BundleLocation(f"{self._settings.artifacts_prefix}/{path.strip('/')}{_DATA}", digest)

    def register(
        self, run_id: str, folder: Path, info: BundleInfo, tags: Mapping[str, str], description: str = ""
    ) -> int:
        """Upload the bundle as a pyfunc model of the run, and register that."""
        existing = self._search(f"run_id = '{run_id}'")
        if existing:
            return existing[0].version
        with translate_errors(f"registering `{self.name}` from run {run_id}"):
            self._ensure_model()
            uri = self._upload(run_id, folder)
            digest = bundle.digest((folder / bundle.INFO).read_bytes())
            all_tags = {DIGEST_TAG: digest, "dataset_version": info.dataset_version, **tags}
            created = self._client.create_model_version(
                self.name, uri, run_id, tags=all_tags, description=description, await_creation_for=0
            )
        return int(created.version)

    def restore(self, location: BundleLocation, run_id: str, tags: Mapping[str, str]) -> int:
        path = location.prefix.removeprefix(f"{self._settings.artifacts_prefix}/").removesuffix(_DATA)
        with translate_errors(f"registering the bundle {location.prefix} again"):
            self._ensure_model()
            created = self._client.create_model_version(
                self.name,
                f"mlflow-artifacts:/{path}",
                run_id,  # also one that was deleted: MLflow keeps it, and wants the source to be its own
                tags=dict(tags) | {DIGEST_TAG: location.digest},
                await_creation_for=0,
            )
        return int(created.version)

    def find(self, **tags: str) -> list[RegisteredVersion]:
        return self._search(*(f"tag.{name} = '{value}'" for name, value in tags.items()))

    def version_url(self, version: int) -> str:
        return f"{self._settings.mlflow_url}/#/models/{self.name}/versions/{version}"

    @cached_property
    def _client(self) -> "MlflowClient":
        return connect_client(self._settings)

    def _search(self, *conditions: str) -> list[RegisteredVersion]:
        """Versions, newest first; conditions in MLflow's search syntax."""
        query = " and ".join((f"name = '{self.name}'", *conditions))
        order, token, versions = ["version_number DESC"], None, list[RegisteredVersion]()
        with translate_errors(f"versions of `{self.name}`"):
            while token != "":
                page = self._client.search_model_versions(query, _PAGE_SIZE, order, token)
                versions += [RegisteredVersion(int(row.version), row.run_id or "", dict(row.tags)) for row in page]
                token = page.token or ""
        return versions

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
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
            self._client.log_artifacts(run_id, str(target), "model")
        root: Any = self._client.get_run(run_id).info.artifact_uri
        return f"{root}/model"

    def _get_version(self, call: str, version: int) -> dict[str, Any]:
        what = f"version {version} of `{self.name}`"
        return self._call("GET", f"model-versions/{call}", what, version=str(version))

    def _call(self, method: str, path: str, what: str, **fields: str) -> dict[str, Any]:
        """Call MLflow and return the response body; `what` names the requested object in errors."""
        url = f"{self._settings.mlflow_url.rstrip('/')}/api/2.0/mlflow/{path}"
        body: dict[str, Any] = {"params" if method == "GET" else "json": {"name": self.name, **fields}}
        try:
            response = httpx.request(method, url, timeout=_SECONDS, **body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnavailableError(
                f"{what}: MLflow does not answer at {self._settings.mlflow_url}: {error!r}"
            ) from error
        try:
            payload = response.json()
        except ValueError:
            payload = {}
        if response.status_code == 200 and isinstance(payload, dict):
            return payload
        code, message = (
            (payload.get("error_code"), payload.get("message")) if isinstance(payload, dict) else (None, None)
        )
        if code in _MISSING:
            raise NotFoundError(f"MLflow knows no {what}: {message}")
        raise UnavailableError(f"{what}: MLflow answered {response.status_code} {code or ''}: {message or ''}")


def connect_client(settings: Settings) -> "MlflowClient":
    """The client of the MLflow library, for runs.

    It retries for minutes, which suits an outage during a long training but not a wrong address; so the connection is
    checked first.

    Raises:
        UnavailableError: nothing answers at the address.
    """
    from mlflow import MlflowClient

    url = urlsplit(settings.mlflow_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout=5).close()
    except OSError as error:
        raise UnavailableError(f"MLflow does not answer at {settings.mlflow_url}: {error}") from error
    return MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)


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
