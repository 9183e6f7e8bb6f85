"""Authentication, authorization and rate limits of a request, decided in memory before its body is read."""

import base64
import binascii
import ipaddress
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import urlsplit

from starlette.types import Scope

from serving.auth import rate_limit
from serving.auth.keys import KeyRing
from serving.auth.rate_limit import Rate, RateLimiter
from serving.errors import RETRY, ProblemError
from serving.telemetry.metrics import Metrics

Role = Literal["predict", "feedback", "operate", "admin"]

BEARER: Final = 'Bearer realm="evergreen"'
BASIC: Final = 'Basic realm="evergreen: any name, a key as the password", charset="UTF-8"'
RATE_HEADERS: Final = "evergreen.rate_limit"
"""Where in the scope a key's `RateLimit` headers wait for the answer."""

_LONGEST_HOST: Final = 300
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PASSED_ON: Final = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"})


class AccessControl:
    """Admits requests.

    Args:
        ring: the known keys.
        rates: how often each was used lately.
        keyless_loopback: let programs on this machine in without a key.
    """

    def __init__(self, ring: KeyRing, metrics: Metrics, rates: RateLimiter, *, keyless_loopback: bool) -> None:
        self._ring, self._metrics, self._rates, self._keyless = ring, metrics, rates, keyless_loopback

    def check_ready(self) -> None:
        """Raises ProblemError (503, `keys_unknown`) while keys cannot be told from what is none."""
        if not self._keyless:
            self._check_filled()

    def _check_filled(self) -> None:
        if not self._ring.filled:
            raise ProblemError(503, "keys_unknown", "keys cannot be checked yet; try again", RETRY)

    def authorize(self, scope: Scope, role: Role, challenge: str = BEARER) -> str | None:
        """The caller's name, once it is clear that they may do what needs the role; None without a key.

        Raises:
            ProblemError: 401 no key or no good one, 403 not theirs to do, 429 too often, 503 keys not known yet.
        """
        shown = _Shown.of(scope["headers"])
        if shown.key is None and self._keyless and _is_local(scope, shown):
            return None
        if shown.key is None:
            raise self._refused(401, "no_key", "show a key: `Authorization: Bearer KEY` or `X-API-Key: KEY`", challenge)
        self._check_filled()
        if (known := self._ring.find(shown.key)) is None:
            detail = "the key is not one of ours, has expired or was revoked"
            told = f'{challenge}, error="invalid_token"' if challenge == BEARER else challenge
            raise self._refused(401, "bad_key", detail, told)
        grant = known.grant
        if role not in grant.roles and "admin" not in grant.roles:
            detail = f"this needs a key with the role `{role}`; the key of {grant.name} has {', '.join(grant.roles)}"
            raise self._refused(403, "forbidden", detail, f'{BEARER}, error="insufficient_scope", scope="{role}"')
        if shown.basic and scope["method"] not in _SAFE and not _own_page(shown):
            raise self._refused(403, "cross_site", "a page of another site sent this with a browser's password", BEARER)
        if grant.per_second is not None and grant.burst is not None:
            self._ration(scope, known.id, Rate(grant.per_second, grant.burst))
        return grant.name

    def _ration(self, scope: Scope, key: str, rate: Rate) -> None:
        taken = self._rates.take(key, rate, time.monotonic())
        scope[RATE_HEADERS] = rate_limit.headers(rate, taken)
        if taken.wait:
            self._metrics.refused.labels("too_often").inc()
            detail = f"at most {rate.per_second:g} requests a second, {rate.burst} at once, are taken with this key"
            raise ProblemError(429, "too_often", detail, {"retry-after": str(math.ceil(taken.wait))})

    def _refused(self, status: int, code: str, detail: str, challenge: str) -> ProblemError:
        self._metrics.refused.labels(code).inc()
        return ProblemError(status, code, detail, {"www-authenticate": challenge})


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a request's headers say of who sent it and how."""

    key: str | None
    basic: bool
    host: str
    origin: str | None
    passed_on: bool

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> "_Shown":
        own: str | None = None
        authorization: str | None = None
        host, origin, basic, passed_on = "", None, False, False
        for name, value in headers:
            if name == b"authorization":
                authorization, basic = _credentials(value.decode("latin-1"))
            elif name == b"x-api-key":
                own = value.decode("latin-1").strip()
            elif name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name in _PASSED_ON:
                passed_on = True
        if own is None:
            return cls(authorization, basic, host, origin, passed_on)
        # Two keys that differ are none: the caller is unsure who it is.
        key = "" if authorization is not None and not basic and authorization != own else own
        return cls(key, basic=False, host=host, origin=origin, passed_on=passed_on)


def _credentials(value: str) -> tuple[str | None, bool]:
    """The key in `Authorization`, and whether a browser may have put it there by itself."""
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip(), False
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode("latin-1").partition(":")[2], True
        except (binascii.Error, ValueError):
            return "", True
    return None, False


def _is_local(scope: Scope, shown: _Shown) -> bool:
    """Whether a program on this machine asks by itself.

    What a proxy passed on, what a page of another site had a browser send, and what came for another host's
    name (DNS rebinding) does not.
    """
    client = scope.get("client")
    own_page = shown.origin is None or _loopback(_host_of(shown.origin))
    return (
        client is not None
        and _loopback(client[0])
        and _loopback(_host_of(f"//{shown.host}"))
        and own_page
        and not shown.passed_on
    )


def _own_page(shown: _Shown) -> bool:
    return shown.origin is None or shown.origin.partition("://")[2] == shown.host


def _host_of(url: str) -> str | None:
    return _host_in(url) if len(url) <= _LONGEST_HOST else None


@lru_cache(1000)  # each request names one, and nearly always the same
def _host_in(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


@lru_cache(1000)
def _loopback(host: str | None) -> bool:
    if host in ("127.0.0.1", "localhost", "::1"):
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
