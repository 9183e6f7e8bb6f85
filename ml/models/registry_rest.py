"""MLflow's registry over REST: what a release needs, without importing the MLflow library, which takes seconds.

https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from ml.errors import NotFoundError, UnavailableError
from ml.settings import Settings

DIGEST_TAG: Final = "bundle_digest"
BUNDLE_FOLDER: Final = "bundle"
_MISSING: Final = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_SECONDS: Final = 5.0
"""A rollback works without the registry and must not wait long for it."""


@dataclass(frozen=True)
class BundleLocation:
    """Location of a version's bundle in the artifacts bucket, and its digest."""

    prefix: str
    digest: str


class RestRegistry:
    """Every method raises `UnavailableError` when MLflow does not answer, `NotFoundError` for missing objects."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.name = settings.model_name

    def alias(self, name: str) -> int | None:
        """The version with the alias, or None."""
        return self.aliases().get(name)

    def aliases(self) -> dict[str, int]:
        """Alias → version."""
        try:
            response = self._call("GET", "registered-models/get", f"model `{self.name}`")
        except NotFoundError:
            return {}
        return {row["alias"]: int(row["version"]) for row in response["registered_model"].get("aliases", ())}

    def set_alias(self, name: str, version: int | None) -> None:
        """Point the alias at `version`; None removes it."""
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
        """Raises NotFoundError for a version without a bundle."""
        digest = self.tags(version).get(DIGEST_TAG)
        uri = self._get_version("get-download-uri", version)["artifact_uri"]
        scheme, _, path = uri.partition(":/")
        if scheme != "mlflow-artifacts" or digest is None:
            raise NotFoundError(f"version {version} of `{self.name}` has no bundle (stored at {uri}, digest {digest})")
        return BundleLocation(f"{self._settings.artifacts_prefix}/{path.strip('/')}/data/{BUNDLE_FOLDER}", digest)

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
