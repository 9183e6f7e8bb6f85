"""Routes requests between the live model and a canary. The live model answers whatever a canary fails on."""

import hashlib
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from ml.errors import EvergreenError
from serving.errors import ProblemError
from serving.rollout.serving_model import ServingModel

log = logging.getLogger(__name__)

T = TypeVar("T")

MODEL_FAILED: Final = "model_failed"
_HASH_RANGE: Final = 2**64


def route(live: ServingModel, key: str | None, predict: Callable[[ServingModel], T]) -> T:
    """Call `predict` with the live model, or with the canary if the key is in its share.

    A canary that fails is counted, and the live model answers instead.

    Args:
        live: the live model, read once from the slot.
        key: decides the share, so that equal keys get the same model; None for probes, which are not part of the trial.
        predict: returns the answer of the model it is given.
    """
    trial = live.trial
    if trial is None or trial.strategy != "canary" or key is None:
        return predict(live)
    if not in_share(key, trial.candidate.deployment_id, trial.share):
        return _counted(live, live, predict, "live")
    try:
        return _counted(live, trial.candidate, predict, "candidate")
    except Exception as error:
        if not _is_model_error(error):
            raise
        log.warning("candidate version %d failed, version %d answers: %s", trial.candidate.version, live.version, error)
        return predict(live)


def in_share(key: str, deployment_id: int, share: float) -> bool:
    """Whether a key is in a deployment's share; the same for every call, drawn independently for each deployment."""
    digest = hashlib.blake2b(f"{deployment_id}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _HASH_RANGE


def _counted(live: ServingModel, chosen: ServingModel, predict: Callable[[ServingModel], T], arm: str) -> T:
    if live.trial is None:
        return predict(chosen)
    try:
        answer = predict(chosen)
    except Exception as error:
        if _is_model_error(error):
            live.trial.counters.add(**{f"{arm}_asked": 1, f"{arm}_errors": 1})
        raise
    live.trial.counters.add(**{f"{arm}_asked": 1})
    return answer


def _is_model_error(error: Exception) -> bool:
    """Whether the model failed, and not the request: an unreadable image says nothing about the model."""
    if isinstance(error, ProblemError):
        return error.code == MODEL_FAILED
    return not isinstance(error, EvergreenError)
