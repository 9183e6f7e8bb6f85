"""Decoding: the right pixels whatever the encoding, the right words for what is no image."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ml.errors import ImageRejectedError
from ml.imaging import features, images
from ml.imaging.images import Limits
from tests.hostile.make import GOOD, encoded, hostile, picture

SIZES = [(32, 32)] * 20 + [(1, 1), (7, 300)] * 3 + [(64, 48)] * 9
LIMITS = Limits(20_000_000, 40_000_000)
HOSTILE = hostile()


def smooth() -> Image.Image:
    """A picture that lossy formats keep nearly as it is; no two of its corners look alike."""
    across, down = np.meshgrid(np.linspace(0, 200, 48), np.linspace(0, 120, 32))
    return Image.fromarray(np.stack([across, down, 255 - across], 2).astype(np.uint8))


def pixels(data: bytes) -> "np.ndarray[Any, Any]":
    return np.asarray(images.open_image(data, LIMITS)).astype(int)


@pytest.mark.parametrize(
    ("kind", "options", "furthest"),
    [
        ("JPEG", {"quality": 95}, 8),
        ("JPEG", {"quality": 95, "progressive": True}, 8),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("BMP", {}, 0),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 8),
    ],
)
def test_each_format_gives_the_pixels_that_went_in(kind: str, options: dict[str, Any], furthest: int) -> None:
    decoded = pixels(encoded(smooth(), kind, **options))
    assert np.abs(decoded - np.asarray(smooth()).astype(int)).max() <= furthest


def test_the_first_picture_of_an_animation_counts() -> None:
    first, other = picture(mode="P"), Image.new("P", (24, 16))
    data = encoded(first, "GIF", save_all=True, append_images=[other])
    assert (pixels(data) == np.asarray(first.convert("RGB"))).all()


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
        (9, lambda a: a),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_as_their_camera_says(kind: str, orientation: int, turned: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert (pixels(data) == turned(np.asarray(picture()))).all()


def test_inks_become_light() -> None:
    inks = Image.merge("CMYK", [Image.new("L", (8, 8), v) for v in (255, 0, 0, 0)])
    for data in (encoded(inks, "TIFF"), encoded(inks, "JPEG", quality=100)):
        assert np.abs(pixels(data) - [0, 255, 255]).max() <= 3


def test_sixteen_bits_keep_their_upper_eight() -> None:
    values = (np.arange(256, dtype=np.uint16) << 8 | 0x7F).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        assert (pixels(encoded(Image.fromarray(values), kind))[..., 0].ravel() == np.arange(256)).all()


def test_thirty_two_bits_hold_sixteen() -> None:
    values = np.array([[-5, 0], [65_535, 2**30]], np.int32)
    assert pixels(encoded(Image.fromarray(values), "TIFF"))[..., 0].tolist() == [[0, 0], [255, 255]]


@pytest.mark.parametrize("most", [1, 255])
def test_floating_point_pixels_of_both_usual_ranges(most: int) -> None:
    values = np.linspace(0, most, 256, dtype=np.float32).reshape(16, 16)
    assert (pixels(encoded(Image.fromarray(values), "TIFF"))[..., 1].ravel() == np.arange(256)).all()


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    ImageDraw.Draw(clear).rectangle((0, 0, 3, 7), fill=(0, 0, 0, 0))
    expected = np.where(np.arange(8)[None, :, None] < 4, 255, [200, 0, 0])
    for data in (encoded(clear, "PNG"), encoded(clear, "WEBP", lossless=True), encoded(clear, "TIFF")):
        assert (pixels(data) == expected).all()
    palette = Image.fromarray((np.arange(64).reshape(8, 8) % 8 > 3).astype(np.uint8), "P")
    palette.putpalette([9, 9, 9, 200, 0, 0])
    for kind in ("PNG", "GIF"):
        assert (pixels(encoded(palette, kind, transparency=0)) == expected).all()
    grey = Image.fromarray(np.where(np.arange(64).reshape(8, 8) % 8 < 4, 700, 40_000).astype(np.uint16))
    assert set(pixels(encoded(grey, "PNG", transparency=700)).ravel()) == {255, 40_000 >> 8}


def test_half_transparent_is_half_white() -> None:
    assert (pixels(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG")) == 127).all()


def test_features_are_what_they_say() -> None:
    board = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((1, 1))).astype(np.uint8) * 255
    measured = images.inspect(encoded(Image.fromarray(board), "PNG"), LIMITS)
    assert (measured.width, measured.height, measured.format, measured.mode, measured.grey) == (8, 8, "PNG", "L", True)
    assert (measured.brightness, measured.contrast, measured.entropy) == pytest.approx((0.5, 0.5, 1.0))
    values = board.astype(float) / 255
    padded = np.pad(values, 1, mode="edge")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * values
    assert measured.sharpness == pytest.approx(laplacian.var())
    flat = images.inspect(encoded(Image.new("RGB", (9, 9), "red"), "PNG"), LIMITS)
    assert (flat.contrast, flat.sharpness, flat.entropy, flat.grey) == (0, 0, 0, False)


def test_sharpness_is_the_same_in_one_piece_and_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(50, 70), "PNG")
    whole = images.inspect(data, LIMITS).sharpness
    for pixels_at_once in (1, 50, 333):
        monkeypatch.setattr(features, "_STRIP", pixels_at_once)
        assert images.inspect(data, LIMITS).sharpness == pytest.approx(whole)


def test_blurring_makes_less_sharp() -> None:
    small = picture(16, 16)
    blurred = small.resize((8, 8)).resize((16, 16), Image.Resampling.BILINEAR)
    assert images.inspect(encoded(blurred, "PNG"), LIMITS).sharpness < 0.3 * (
        images.inspect(encoded(small, "PNG"), LIMITS).sharpness
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:Invalid APNG")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_refused_for_the_right_reason(name: str) -> None:
    data, code = HOSTILE[name]
    if code is GOOD:
        assert images.inspect(data, LIMITS).width > 0
        return
    with pytest.raises(ImageRejectedError) as caught:
        images.inspect(data, LIMITS)
    assert caught.value.code == code, str(caught.value)


def test_there_are_enough_of_them() -> None:
    assert sum(code is not GOOD for _, code in HOSTILE.values()) >= 40


def test_a_drafted_jpeg_is_checked_like_the_others() -> None:
    data = io.BytesIO()
    picture(400, 300).save(data, "JPEG")
    with pytest.raises(ImageRejectedError, match="at most 1000 are accepted"):
        images.decode(data.getvalue(), 8, 3, Limits(10**6, 1000))


def test_a_picture_is_measured_alike_alone_and_among_others() -> None:
    generator = np.random.default_rng(3)
    pngs = [encoded(Image.fromarray(generator.integers(0, 256, (h, w, 3), np.uint8)), "PNG") for h, w in SIZES]
    together = features.measure([images.decode_for_features(data, LIMITS) for data in pngs])
    assert together == [images.inspect(data, LIMITS) for data in pngs]
