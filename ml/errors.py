"""Errors that a caller may want to tell apart; the edges (REST, CLI, DAGs) translate them."""


class EvergreenError(Exception):
    """Base of every error this project raises on purpose."""


class NotFoundError(EvergreenError):
    """Something was asked for by an id or name that nothing bears."""


class InvalidInputError(EvergreenError):
    """What a person or a client supplied cannot be used; the message says what to change."""


class ImageRejectedError(InvalidInputError):
    """Bytes that cannot be accepted as an image.

    Attributes:
        code: a short machine-readable reason, such as ``truncated`` or ``too_many_pixels``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnavailableError(EvergreenError):
    """A service this one needs did not answer; trying again later may help."""


class IntegrityError(EvergreenError):
    """Stored bytes are not what their checksum, schema or manifest says they are."""


class ConflictError(EvergreenError):
    """Another actor changed the same thing first; read it again and decide anew."""
