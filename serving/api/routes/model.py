"""GET /v1/model."""

from dataclasses import asdict

from fastapi import APIRouter

from serving.api.route_classes import requires_role
from serving.api.schemas import ModelInfo, VariantStanding, problems
from serving.dependencies import Injected
from serving.rollout.serving_model import ServingModel

router = APIRouter(tags=["model"], route_class=requires_role("predict"))


@router.get("/v1/model", summary="The live model", responses=problems(_503="No model yet."))
async def live_model(dependencies: Injected) -> ModelInfo:
    return describe(dependencies.predictor.live(), dependencies.identity.id)


def describe(live: ServingModel, replica: str) -> ModelInfo:
    info = live.model.info
    return ModelInfo(
        version=live.version,
        labels=list(info.labels),
        image_size=info.image_size,
        channels=info.channels,
        architecture=info.architecture,
        variant=live.model.variant,
        runtime=live.model.runtime.name,
        variants=[VariantStanding.model_validate(asdict(variant)) for variant in live.model.variants],
        dataset_version=info.dataset_version,
        run_id=info.run_id,
        digest=live.digest,
        deployment_id=live.deployment_id,
        since=live.since,
        replica=replica,
    )
