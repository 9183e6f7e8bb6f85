"""GET /v1/model."""

from dataclasses import asdict

from fastapi import APIRouter

from serving.access import needs
from serving.model_slot import Live
from serving.parts import Served
from serving.schemas import ModelInfo, VariantStanding, problems

router = APIRouter(tags=["model"], route_class=needs("predict"))


@router.get("/v1/model", summary="The live model", responses=problems(_503="No model yet."))
async def live_model(parts: Served) -> ModelInfo:
    return describe(parts.predictor.live(), parts.identity.id)


def describe(live: Live, replica: str) -> ModelInfo:
    info = live.model.info
    return ModelInfo(
        version=live.version,
        labels=list(info.labels),
        image_size=info.image_size,
        channels=info.channels,
        architecture=info.architecture,
        variant=live.model.variant,
        runtime=live.model.runtime.name,
        variants=[VariantStanding.model_validate(asdict(one)) for one in live.model.variants],
        dataset_version=info.dataset_version,
        run_id=info.run_id,
        digest=live.digest,
        deployment_id=live.deployment_id,
        since=live.since,
        replica=replica,
    )
