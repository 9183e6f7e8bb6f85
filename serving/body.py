"""The image of a request: the raw body, or the part `file` of a form."""

from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, create_form_parser

from serving.problems import ProblemError

FORM: Final = "multipart/form-data"
_RAW: Final = ("application/octet-stream", "")
_MAX_PARTS: Final = 64


def image_bytes(body: bytes, content_type: str) -> bytes:
    """The encoded image.

    Args:
        body: the whole body, its size checked already.
        content_type: the header as sent; empty counts as a raw image.

    Raises:
        ProblemError: 415 for another content type, 400 for a broken form, 422 for one without a `file`.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media == FORM:
        return _file_part(body, content_type)
    if media.startswith("image/") or media in _RAW:
        return body
    raise ProblemError(
        415,
        "unsupported_media_type",
        f"`Content-Type: {media[:100]}` is not read here; send the image as the body with `image/jpeg`, `image/png` … "
        "or `application/octet-stream`, or as the part `file` of `multipart/form-data`",
    )


def _file_part(body: bytes, content_type: str) -> bytes:
    found: list[bytes] = []
    parts = 0

    def count() -> None:
        nonlocal parts
        parts += 1
        if parts > _MAX_PARTS:
            raise FormParserError(f"more than {_MAX_PARTS} parts")

    def on_file(file: File) -> None:
        count()
        if file.field_name == b"file" and not found:
            file.file_object.seek(0)
            found.append(file.file_object.read())

    def on_field(field: Field) -> None:
        # A part without a filename is a field to the parser; some clients send images so.
        count()
        if field.field_name == b"file" and not found:
            found.append(field.value or b"")

    limits = {"MAX_MEMORY_FILE_SIZE": len(body) + 1, "MAX_FIELD_SIZE": len(body) + 1}
    try:
        parser = create_form_parser({"Content-Type": content_type.encode("latin-1")}, on_field, on_file, limits)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError, AssertionError) as error:
        raise ProblemError(400, "broken_form", f"the multipart form cannot be read: {error}") from error
    if not found:
        raise ProblemError(422, "no_file", "the form has no part named `file`, or is cut off before its end")
    return found[0]
