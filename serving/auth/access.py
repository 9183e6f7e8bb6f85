"""Authentication, authorization and rate limits, checked in memory before a request's body is read."""

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

from ml.catalog.api_keys import Level
from ml.catalog.feedback import LOCAL
from serving.auth import rate_limit
from serving.auth.keys import KeyRing
from serving.auth.rate_limit import Rate, RateLimiter
from serving.errors import RETRY, ProblemError
from serving.telemetry.metrics import Metrics

Role = Literal["predict", "feedback", "annotate", "review", "operate", "admin"]

BEARER: Final = 'Bearer realm="evergreen"'
BASIC: Final = 'Basic realm="evergreen: any name, a key as the password", charset="UTF-8"'
RATE_HEADERS: Final = "evergreen.rate_limit"
"""Key of the `RateLimit` response headers in the ASGI scope."""

IDENTITY: Final = "evergreen.identity"
"""Key of the caller's `Identity` in the ASGI scope."""

_MAX_URL_LENGTH: Final = 300
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDED_HEADERS: Final = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as feedback is attributed.

    Attributes:
        id: the same for all keys of a caller, across rotations.
        level: what feedback of the caller counts as.
    """

    id: str = LOCAL
    level: Level = "propose"


class AccessControl:
    """Authorizes requests.

    Args:
        key_ring: the valid keys.
        rate_limiter: the recent use of each key.
        keyless_loopback: whether programs on this machine need no key.
    """

    def __init__(
        self, key_ring: KeyRing, metrics: Metrics, rate_limiter: RateLimiter, *, keyless_loopback: bool
    ) -> None:
        self._key_ring, self._metrics, self._rate_limiter, self._keyless = (
            key_ring,
            metrics,
            rate_limiter,
            keyless_loopback,
        )

    def check_ready(self) -> None:
        """Raises ProblemError (503, `keys_unknown`) while keys cannot be checked because none were loaded yet."""
        if not self._keyless:
            self._check_loaded()

    def _check_loaded(self) -> None:
        if not self._key_ring.loaded:
            raise ProblemError(503, "keys_unknown", "keys cannot be checked yet; try again", RETRY)

    def authorize(self, scope: Scope, role: Role, challenge: str = BEARER) -> str | None:
        """The name of a caller that has the role; None for a caller that needs no key.

        Raises:
            ProblemError: 401 no valid key, 403 the role is missing, 429 rate limit, 503 keys not loaded yet.
        """
        credentials = _Credentials.from_headers(scope["headers"])
        if credentials.key is None and self._keyless and _is_local(scope, credentials):
            scope[IDENTITY] = Identity()
            return None
        if credentials.key is None:
            raise self._denied(401, "no_key", "send a key: `Authorization: Bearer KEY` or `X-API-Key: KEY`", challenge)
        self._check_loaded()
        if (stored_key := self._key_ring.find(credentials.key)) is None:
            detail = "the key is unknown, has expired or was revoked"
            invalid = f'{challenge}, error="invalid_token"' if challenge == BEARER else challenge
            raise self._denied(401, "bad_key", detail, invalid)
        grant = stored_key.grant
        if not grant.allows(role):
            detail = f"this needs a key with the role `{role}`; the key of {grant.name} has {', '.join(grant.roles)}"
            raise self._denied(403, "forbidden", detail, f'{BEARER}, error="insufficient_scope", scope="{role}"')
        if credentials.basic and scope["method"] not in _SAFE_METHODS and not _is_same_origin(credentials):
            raise self._denied(
                403, "cross_site", "this came from a page of another site, with the password saved in a browser", BEARER
            )
        if grant.per_second is not None and grant.burst is not None:
            self._apply_rate_limit(scope, stored_key.id, Rate(grant.per_second, grant.burst))
        scope[IDENTITY] = Identity(stored_key.identity or stored_key.id, grant.level)
        return grant.name

    def _apply_rate_limit(self, scope: Scope, key: str, rate: Rate) -> None:
        result = self._rate_limiter.acquire(key, rate, time.monotonic())
        scope[RATE_HEADERS] = rate_limit.headers(rate, result)
        if result.wait:
            self._metrics.refused.labels("too_often").inc()
            detail = f"at most {rate.per_second:g} requests a second, {rate.burst} at once, are allowed with this key"
            raise ProblemError(429, "too_often", detail, {"retry-after": str(math.ceil(result.wait))})

    def _denied(self, status: int, code: str, detail: str, challenge: str) -> ProblemError:
        self._metrics.refused.labels(code).inc()
        return ProblemError(status, code, detail, {"www-authenticate": challenge})


@dataclass(frozen=True, slots=True)
class _Credentials:
    """What a request's headers say about its sender."""

    key: str | None
    basic: bool
    host: str
    origin: str | None
    forwarded: bool

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[bytes, bytes]]) -> "_Credentials":
        header_key: str | None = None
        authorization: str | None = None
        host, origin, basic, forwarded = "", None, False, False
        for name, value in headers:
            if name == b"authorization":
                authorization, basic = _parse_authorization(value.decode("latin-1"))
            elif name == b"x-api-key":
                header_key = value.decode("latin-1").strip()
            elif name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name in _FORWARDED_HEADERS:
                forwarded = True
        if header_key is None:
            return cls(authorization, basic, host, origin, forwarded)
        # Two different keys count as an invalid one.
        key = "" if authorization is not None and not basic and authorization != header_key else header_key
        return cls(key, basic=False, host=host, origin=origin, forwarded=forwarded)


def _parse_authorization(value: str) -> tuple[str | None, bool]:
    """The key in `Authorization`, and whether a browser may have added it by itself."""
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip(), False
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode("latin-1").partition(":")[2], True
        except (binascii.Error, ValueError):
            return "", True
    return None, False


def _is_local(scope: Scope, credentials: _Credentials) -> bool:
    """Whether the request comes from a program on this machine.

    Not one that a proxy forwarded, that a page of another site made a browser send, or that names another host
    (DNS rebinding).
    """
    client = scope.get("client")
    same_origin = credentials.origin is None or _is_loopback(_host_of(credentials.origin))
    return (
        client is not None
        and _is_loopback(client[0])
        and _is_loopback(_host_of(f"//{credentials.host}"))
        and same_origin
        and not credentials.forwarded
    )


def _is_same_origin(credentials: _Credentials) -> bool:
    return credentials.origin is None or credentials.origin.partition("://")[2] == credentials.host


def _host_of(url: str) -> str | None:
    return _parse_host(url) if len(url) <= _MAX_URL_LENGTH else None


@lru_cache(1000)  # each request has one, nearly always the same
def _parse_host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


@lru_cache(1000)
def _is_loopback(host: str | None) -> bool:
    if host in ("127.0.0.1", "localhost", "::1"):
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
