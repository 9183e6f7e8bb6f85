"""POST /v1/decisions/{id}/approval: a person's answer to a decision that needs one."""

import ipaddress
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Path, Request

from ml.catalog import approvals
from ml.catalog.approvals import Approval
from serving.parts import Served
from serving.problems import ProblemError
from serving.schemas import DecisionAnswer, DecisionAnswered, problems

router = APIRouter(tags=["decisions"])

_SECONDS: Final = 5.0
_PASSED_ON: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")

Id = Annotated[str, Path(pattern=r"^[0-9a-f]{1,64}$")]


def from_this_machine(request: Request) -> None:
    """Let only programs on this machine through: there are no keys yet that would say who somebody is.

    What a proxy passed on, or a page of another site sent from a browser here, is not from this machine.
    """
    peer = request.client.host if request.client else ""
    origin = request.headers.get("origin")
    near = _loopback(peer) and _loopback(urlsplit(f"//{request.headers.get('host', '')}").hostname)
    own_page = origin is None or _loopback(urlsplit(origin).hostname)
    if not (near and own_page) or any(name in request.headers for name in _PASSED_ON):
        raise ProblemError(403, "forbidden", "decisions are answered from the service's own machine only")


@router.post(
    "/v1/decisions/{decision_id}/approval",
    summary="Say yes or no to a decision that needs a person",
    response_model=DecisionAnswered,
    dependencies=[Depends(from_this_machine)],
    responses=problems(
        _403="Only the service's own machine may answer.",
        _404="There is no such decision.",
        _409="It needs nobody, or was answered already: the first answer counts.",
        _422="The answer does not fit; a no needs a reason.",
        _503="The catalog does not answer.",
    ),
)
async def answer(decision_id: Id, body: DecisionAnswer, parts: Served) -> DecisionAnswered:
    """Recorded at once; Airflow releases what was approved, or ends the cycle, within a minute."""
    given = Approval(decision_id, body.approved, f"{body.actor} by REST", body.reason)
    hours = parts.settings.gate_review_hours
    kept = await parts.database.run_within(_SECONDS, approvals.answer, parts.engine, given, hours)
    return DecisionAnswered(**vars(kept))


def _loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
