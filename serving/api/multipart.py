"""The image of a request: the raw body, or the part `file` of a form."""

import re
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, create_form_parser

from serving.errors import ProblemError

FORM: Final = "multipart/form-data"
_RAW: Final = ("application/octet-stream", "")
_MAX_OTHER_PARTS: Final = 63
_BOUNDARY: Final = re.compile(r"multipart/form-data; ?boundary=([\w'()+,./:=?-]{1,70})", re.ASCII)
_FILE_HEAD: Final = re.compile(
    rb'Content-Disposition: form-data; name="file"(?:; filename="[^"\\\r\n]*")?\r\n(?:Content-Type: [^\r\n]*\r\n)?\r\n',
    re.I,
)
_ENDS: Final = (b"--\r\n", b"--")


def image_bytes(body: bytes, content_type: str) -> bytes:
    """The encoded image.

    Args:
        body: the whole body; its size was checked before.
        content_type: the header as sent; empty means a raw image.

    Raises:
        ProblemError: 415 for another content type, 400 for a broken form, 422 for one without a `file`.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media == FORM:
        single = _single_part(body, content_type)
        return files(body, content_type, 1)[0][1] if single is None else single
    if media.startswith("image/") or media in _RAW:
        return body
    raise ProblemError(
        415,
        "unsupported_media_type",
        f"`Content-Type: {media[:100]}` is not read here; send the image as the body with `image/jpeg`, `image/png` … "
        "or `application/octet-stream`, or as the part `file` of `multipart/form-data`",
    )


def _single_part(body: bytes, content_type: str) -> bytes | None:
    """The image of a form with a single part, the usual case; None where the full parser is needed."""
    if not (boundary := _BOUNDARY.fullmatch(content_type)):
        return None
    delimiter = b"\r\n--" + boundary[1].encode()
    head = _FILE_HEAD.match(body, len(delimiter))
    end = body.find(delimiter, head.end()) if head else -1
    if not head or not body.startswith(delimiter[2:] + b"\r\n") or end < 0 or body[end + len(delimiter) :] not in _ENDS:
        return None
    return body[head.end() : end]


def files(body: bytes, content_type: str, max_files: int) -> list[tuple[str, bytes]]:
    """Name and bytes of the parts `file` of a form, in order; at most `max_files` of them.

    Raises:
        ProblemError: 400 for a broken form or one of more parts, 422 for one without a `file`.
    """
    parts_found: list[tuple[str, bytes]] = []
    parts = 0

    def count() -> None:
        nonlocal parts
        parts += 1
        if parts > max_files + _MAX_OTHER_PARTS:
            raise FormParserError(f"more than {max_files + _MAX_OTHER_PARTS} parts")

    def on_file(file: File) -> None:
        count()
        if file.field_name == b"file":
            file.file_object.seek(0)
            parts_found.append(((file.file_name or b"").decode("utf-8", "replace"), file.file_object.read()))

    def on_field(field: Field) -> None:
        # The parser treats a part without a filename as a field; some clients send images that way.
        count()
        if field.field_name == b"file":
            parts_found.append(("", field.value or b""))

    limits = {"MAX_MEMORY_FILE_SIZE": len(body) + 1, "MAX_FIELD_SIZE": len(body) + 1}
    try:
        parser = create_form_parser({"Content-Type": content_type.encode("latin-1")}, on_field, on_file, limits)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError, AssertionError) as error:
        raise ProblemError(400, "broken_form", f"the multipart form cannot be read: {error}") from error
    if not parts_found:
        raise ProblemError(422, "no_file", "the form has no part named `file`, or is cut off before its end")
    return parts_found[:max_files]
