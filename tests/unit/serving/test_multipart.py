"""The image of a form: found without the parser where the form is plain, and then the same."""

import pytest

from serving.api import multipart
from serving.api.multipart import files, image_bytes
from serving.errors import ProblemError

TYPE = "multipart/form-data; boundary=b-1"
HEAD = b'--b-1\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
IMAGE = b"\xff\xd8\r\n\r\n--b-2\r\n\0\xff"
PLAIN = HEAD + IMAGE + b"\r\n--b-1--\r\n"


@pytest.mark.parametrize(
    "form",
    [
        PLAIN,
        PLAIN[:-2],
        PLAIN.replace(b'; filename="a.jpg"', b""),
        PLAIN.replace(b"Content-Type: image/jpeg\r\n", b""),
        PLAIN.replace(b"Content-D", b"content-d"),
        PLAIN.replace(IMAGE, b""),
    ],
)
def test_a_plain_form_needs_no_parser_and_gives_the_same(form: bytes) -> None:
    content = multipart._single_part(form, TYPE)
    assert content == files(form, TYPE, 1)[0][1]
    assert content in (IMAGE, b"")


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (b'--b-1\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' + PLAIN, TYPE),
        (PLAIN[:-4] + b'\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b-1--\r\n', TYPE),
        (PLAIN.replace(b'name="file"; filename="a.jpg"', b'filename="a.jpg"; name="file"'), TYPE),
        (PLAIN.replace(b"Content-Type", b"X-More: 1\r\nContent-Type"), TYPE),
        (PLAIN, 'multipart/form-data; boundary="b-1"'),
        (PLAIN, "multipart/form-data; charset=utf-8; boundary=b-1"),
    ],
)
def test_any_other_form_is_the_parsers(form: bytes, kind: str) -> None:
    assert multipart._single_part(form, kind) is None
    assert image_bytes(form, kind) == IMAGE


@pytest.mark.parametrize("form", [PLAIN[:40], PLAIN[:-12], b"", PLAIN.replace(b'"file"', b'"other"'), PLAIN[2:]])
def test_what_is_broken_is_the_parsers_to_tell(form: bytes) -> None:
    assert multipart._single_part(form, TYPE) is None
    with pytest.raises(ProblemError) as caught:
        image_bytes(form, TYPE)
    assert caught.value.status in (400, 422)


def test_a_direct_route_cannot_pass_over_what_it_declares() -> None:
    from fastapi import APIRouter

    from serving.api.route_classes import RawRoute

    router = APIRouter(route_class=RawRoute)
    with pytest.raises(TypeError, match="must take only the request"):
        router.get("/x")(lambda top: top)
