"""Which model answers while one is tried beside the live one. What a candidate cannot answer, the live one does."""

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
_WHOLE: Final = 2**64


def answer(live: ServingModel, key: str | None, ask: Callable[[ServingModel], T]) -> T:
    """What `ask` makes of the live model, or of a canary if the key is in its share.

    A canary that fails is counted, and the live model answers instead.

    Args:
        live: as taken from the slot, once.
        key: what the share is sticky by; None for checks, which are no traffic.
        ask: gives a whole answer from the one model it gets.
    """
    trial = live.trial
    if trial is None or trial.strategy != "canary" or key is None:
        return ask(live)
    if not in_share(key, trial.candidate.deployment_id, trial.share):
        return _counted(live, live, ask, "live")
    try:
        return _counted(live, trial.candidate, ask, "candidate")
    except Exception as error:
        if not _is_models_fault(error):
            raise
        log.warning("candidate version %d failed, version %d answers: %s", trial.candidate.version, live.version, error)
        return ask(live)


def in_share(key: str, deployment_id: int, share: float) -> bool:
    """Whether a key belongs to a deployment's share: always the same answer, another one for other deployments."""
    digest = hashlib.blake2b(f"{deployment_id}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _WHOLE


def _counted(live: ServingModel, chosen: ServingModel, ask: Callable[[ServingModel], T], arm: str) -> T:
    if live.trial is None:
        return ask(chosen)
    try:
        given = ask(chosen)
    except Exception as error:
        if _is_models_fault(error):
            live.trial.tally.add(**{f"{arm}_asked": 1, f"{arm}_errors": 1})
        raise
    live.trial.tally.add(**{f"{arm}_asked": 1})
    return given


def _is_models_fault(error: Exception) -> bool:
    """Not the request's: an image that cannot be read says nothing about a model."""
    if isinstance(error, ProblemError):
        return error.code == MODEL_FAILED
    return not isinstance(error, EvergreenError)
