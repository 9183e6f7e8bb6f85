"""The registry whose versions mean the same bundle for ever, whatever people do in MLflow.

Table `model_versions` says what a version is; MLflow holds a copy for people. There they delete versions and move
aliases, and after a registered model was renamed the numbers of the new one begin at 1 again. So numbers are given out
here, MLflow's own are looked up by the bundle, and what is asked of a version is answered without MLflow.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine

from ml.catalog import cycles, deployments, model_versions
from ml.catalog.deployments import DeploymentRecord
from ml.catalog.model_versions import ModelVersionRecord
from ml.errors import NotFoundError, UnavailableError
from ml.models.bundle import BundleInfo
from ml.models.registry import DIGEST_TAG, BundleLocation, RegisteredVersion, RestorableRegistry

log = logging.getLogger(__name__)


class RecordedRegistry:
    """Implements `Registry` with its own version numbers.

    Args:
        inner: the registry that people see.
    """

    def __init__(self, engine: Engine, inner: RestorableRegistry) -> None:
        self._engine = engine
        self._inner = inner

    def alias(self, name: str) -> int | None:
        """The version with the alias; None also if that is no model of ours."""
        return self.aliases().get(name)

    def aliases(self) -> dict[str, int]:
        found = {name: self._of_registered(number) for name, number in self._inner.aliases().items()}
        return {name: record.version for name, record in found.items() if record is not None}

    def set_alias(self, name: str, version: int | None) -> None:
        self._inner.set_alias(name, None if version is None else self._registered(self._get(version)))

    def tags(self, version: int) -> dict[str, str]:
        return dict(self._get(version).tags)

    def tag(self, version: int, tags: Mapping[str, object]) -> None:
        record = self._get(version)
        strings = {name: str(value) for name, value in tags.items()}
        model_versions.add_tags(self._engine, record.version, strings)
        if DIGEST_TAG in strings:
            model_versions.change(self._engine, record.version, bundle_digest=strings[DIGEST_TAG])
        try:
            self._inner.tag(self._registered(record), strings)
        except NotFoundError as error:
            log.warning("the tags of version %d are recorded, but not shown in MLflow: %s", version, error)

    def bundle(self, version: int) -> BundleLocation:
        record = self._get(version)
        return BundleLocation(record.bundle_prefix, record.bundle_digest)

    def register(
        self, run_id: str, folder: Path, info: BundleInfo, tags: Mapping[str, str], description: str = ""
    ) -> int:
        number = self._inner.register(run_id, folder, info, tags, description)
        return self._add(number, run_id, self._inner.bundle(number), self._inner.tags(number), is_new=True).version

    def repair(self, version: int) -> bool:
        """Register the version again if MLflow lost it; whether it had. The version keeps its number here.

        Raises:
            NotFoundError: no version has this number here either.
        """
        record = self._get(version)
        try:
            self._registered(record)
        except NotFoundError:
            location = BundleLocation(record.bundle_prefix, record.bundle_digest)
            number = self._inner.restore(location, record.run_id, record.tags)
            model_versions.change(self._engine, record.version, registered_version=number)
            return True
        return False

    def check_registered(self, version: int) -> None:
        """Raise NotFoundError if there is no such version, or if somebody deleted it in MLflow."""
        self._registered(self._get(version))

    def find(self, **tags: str) -> list[RegisteredVersion]:
        """As the table has them; versions that are only in MLflow are recorded first."""
        known = {(record.registered_version, record.bundle_digest) for record in model_versions.find(self._engine, {})}
        for shown in self._inner.find(**tags):
            digest = shown.tags.get(DIGEST_TAG)
            if digest is not None and (shown.version, digest) not in known:
                self._of_registered(shown.version, shown.run_id)
        records = model_versions.find(self._engine, tags)
        return [RegisteredVersion(record.version, record.run_id, dict(record.tags)) for record in records]

    def version_url(self, version: int) -> str:
        record = model_versions.get(self._engine, version)
        return self._inner.version_url((record and record.registered_version) or version)

    def _get(self, version: int) -> ModelVersionRecord:
        """The version; one that was made before there was the table is recorded now.

        Raises:
            NotFoundError: there is no such version, or it has no bundle.
            UnavailableError: MLflow does not answer, and neither the table nor a deployment knows the version.
        """
        if (record := model_versions.get(self._engine, version)) is not None:
            return record
        deployed = deployments.of_version(self._engine, version)
        try:
            location, tags = self._inner.bundle(version), self._inner.tags(version)
        except NotFoundError:
            if deployed is None:
                raise
            return self._add_deployed(deployed)
        except UnavailableError:
            if deployed is None:
                raise
            return self._as_record(deployed)
        if deployed is not None and deployed.bundle_prefix != location.prefix:
            return self._add_deployed(deployed)
        record = self._add(version, self._run_of(version, location), location, tags, is_new=False)
        if record.version != version and deployed is None:
            raise NotFoundError(f"version {version} of MLflow is version {record.version} here: name that one")
        return record

    def _of_registered(self, number: int, run_id: str | None = None) -> ModelVersionRecord | None:
        """The version with this number in MLflow; None if that one has no bundle."""
        try:
            location = self._inner.bundle(number)
        except NotFoundError:
            return None
        record = model_versions.of_registered(self._engine, number)
        if record is not None and record.bundle_prefix == location.prefix:
            return record
        run_id = self._run_of(number, location) if run_id is None else run_id
        record = self._add(number, run_id, location, self._inner.tags(number), is_new=False)
        if record.registered_version != number:
            model_versions.change(self._engine, record.version, registered_version=number)
        return record

    def _registered(self, record: ModelVersionRecord) -> int:
        """Its number in MLflow.

        Raises:
            NotFoundError: MLflow has no version with this bundle any more.
        """
        known = record.registered_version
        if known is not None and self._has_bundle(known, record):
            return known
        for found in self._inner.find(**{DIGEST_TAG: record.bundle_digest}):
            if self._has_bundle(found.version, record):
                model_versions.change(self._engine, record.version, registered_version=found.version)
                return found.version
        raise NotFoundError(
            f"MLflow knows no version {record.version} any more: `evergreen repair registry` registers it again"
        )

    def _run_of(self, number: int, location: BundleLocation) -> str:
        same_bundle = self._inner.find(**{DIGEST_TAG: location.digest})
        return next((found.run_id for found in same_bundle if found.version == number), "")

    def _has_bundle(self, number: int, record: ModelVersionRecord) -> bool:
        try:
            return self._inner.bundle(number).prefix == record.bundle_prefix
        except NotFoundError:
            return False

    def _add(
        self, number: int, run_id: str, location: BundleLocation, tags: dict[str, str], *, is_new: bool
    ) -> ModelVersionRecord:
        record = ModelVersionRecord(number, run_id, location.prefix, location.digest, number, tags)
        return model_versions.add(self._engine, record, is_new=is_new)

    def _add_deployed(self, deployed: DeploymentRecord) -> ModelVersionRecord:
        """Record a version of which only a deployment is left."""
        return model_versions.add(self._engine, self._as_record(deployed), is_new=False)

    def _as_record(self, deployed: DeploymentRecord) -> ModelVersionRecord:
        trained = cycles.of_model(self._engine, deployed.model_version)
        tags = {DIGEST_TAG: deployed.bundle_digest}
        if trained is not None:
            tags["cycle"] = trained.id
            if trained.dataset_version is not None:
                tags["dataset_version"] = trained.dataset_version
        run_id = (trained and trained.run_id) or ""
        prefix, digest = deployed.bundle_prefix, deployed.bundle_digest
        return ModelVersionRecord(deployed.model_version, run_id, prefix, digest, None, tags)
