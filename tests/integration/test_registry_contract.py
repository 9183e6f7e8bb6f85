"""MLflow's registry does what the one in memory does."""

import uuid
from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from ml.errors import NotFoundError
from ml.models import registry as registry_module
from ml.models.registry import MLflowRegistry, connect_client
from ml.settings import Settings
from tests.contracts.registry import RegistryContract, stored_bundle

__all__ = ["stored_bundle"]


@pytest.fixture
def mlflow_settings(mlflow_url: str) -> Settings:
    return Settings(mlflow_url=mlflow_url, model_name=f"model-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def client(mlflow_settings: Settings) -> MlflowClient:
    return connect_client(mlflow_settings)


class TestMLflowRegistry(RegistryContract):
    @pytest.fixture
    def registry(self, mlflow_settings: Settings) -> MLflowRegistry:
        return MLflowRegistry(mlflow_settings)

    @pytest.fixture
    def new_run(self, client: MlflowClient, mlflow_settings: Settings) -> Callable[[], str]:
        experiment = client.create_experiment(mlflow_settings.model_name)
        return lambda: str(client.create_run(experiment).info.run_id)

    @pytest.fixture
    def delete(self, client: MlflowClient, mlflow_settings: Settings) -> Callable[[int], None]:
        return lambda version: client.delete_model_version(mlflow_settings.model_name, str(version))

    def test_versions_are_found_on_every_page(
        self, registry: MLflowRegistry, register: Callable[..., int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registry_module, "_PAGE_SIZE", 2)
        for _ in range(5):
            register()
        assert [version.version for version in registry.find()] == [5, 4, 3, 2, 1]

    def test_a_version_without_a_digest_has_no_bundle(
        self,
        registry: MLflowRegistry,
        client: MlflowClient,
        mlflow_settings: Settings,
        register: Callable[..., int],
    ) -> None:
        version = register()
        client.delete_model_version_tag(mlflow_settings.model_name, str(version), "bundle_digest")
        with pytest.raises(NotFoundError, match=f"version {version} of `{mlflow_settings.model_name}` has no bundle"):
            registry.bundle(version)
