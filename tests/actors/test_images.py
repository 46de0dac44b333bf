"""The image decoder: the right pixels for every kind of file that it accepts, an ImageError for every other."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from actors.images import MAX_ASPECT, ImageError, ImageTooLargeError, decode_image, rgb_pixels

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 200, 0), (0, 0, 255), (128, 128, 128)
RGB = np.kron(np.array([[RED, GREEN, BLUE], [GREY, RED, GREEN]], np.uint8), np.ones((16, 16, 1), np.uint8))
"""No flip or rotation of it equals another one  # [32, 48, 3]"""

GRADIENT = np.arange(0, 256, 8, dtype=np.uint8)[None].repeat(4, 0)  # [4, 32]
COLORS = ("1", "L", "P", "RGB", "CMYK", "YCbCr")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int, color: int, rows: bytes, extra: bytes = b"", interlaced: int = 0) -> bytes:
    """A PNG of given bits, which PIL cannot write. `rows`: with filter bytes. `extra`: chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def rows_of(values: np.ndarray) -> bytes:
    """The bytes of an image's rows, each after filter byte 0."""
    return b"".join(b"\0" + row.tobytes() for row in values)


def adam7(pixels: np.ndarray) -> bytes:
    """The pixels [H, W, 3] as the seven passes of an interlaced PNG."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = (pixels[y::down, x::right] for y, x, down, right in passes)
    return b"".join(rows_of(part) for part in parts if part.size)


def grey(values: np.ndarray) -> np.ndarray:
    """[H, W] grey values as [H, W, 3]."""
    return values[..., None].repeat(3, 2)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] composited on white by alpha [H, W]."""
    share = alpha[..., None] / 255.0
    return np.round(pixels * share + 255 * (1 - share)).astype(np.uint8)


ALPHA = np.linspace(0, 255, 48, dtype=np.uint8)[None].repeat(32, 0)  # [32, 48]
WITH_ALPHA = np.dstack([RGB, ALPHA])
GREY_16 = (GRADIENT.astype(np.uint16) << 8) + 77
BIG_ENDIAN = GREY_16.astype(">u2")
OPAQUE_8 = np.where(GRADIENT == 64, 255, GRADIENT).astype(np.uint8)  # grey 64 is transparent
PALETTE = Image.fromarray(RGB).quantize(8)
NIBBLES = (np.arange(16, dtype=np.uint8)[0::2] << 4) + np.arange(16, dtype=np.uint8)[1::2]

PIXELS: dict[str, tuple[bytes, np.ndarray]] = {
    "png RGB": (encoded(Image.fromarray(RGB), "PNG"), RGB),
    "png RGB interlaced": (png(48, 32, 8, 2, adam7(RGB), interlaced=1), RGB),
    "png grey": (encoded(Image.fromarray(GRADIENT), "PNG"), grey(GRADIENT)),
    "png 1 bit": (encoded(Image.fromarray(GRADIENT > 99), "PNG"), grey(np.uint8(255) * (GRADIENT > 99))),
    "png grey 4 bits": (png(16, 1, 4, 0, b"\0" + NIBBLES.tobytes()), grey(17 * np.arange(16, dtype=np.uint8)[None])),
    "png grey 2 bits": (png(4, 1, 2, 0, b"\0\x1b"), grey(np.array([[0, 85, 170, 255]], np.uint8))),
    "png grey 16 bits": (encoded(Image.fromarray(GREY_16), "PNG"), grey(GRADIENT)),
    "png RGB 16 bits": (png(32, 4, 16, 2, rows_of(BIG_ENDIAN[..., None].repeat(3, 2))), grey(GRADIENT)),
    "png palette": (encoded(PALETTE, "PNG"), RGB),
    "png grey and alpha": (
        encoded(Image.fromarray(np.dstack([RGB[..., 0], ALPHA]), "LA"), "PNG"),
        on_white(grey(RGB[..., 0]), ALPHA),
    ),
    "png RGBA": (encoded(Image.fromarray(WITH_ALPHA), "PNG"), on_white(RGB, ALPHA)),
    "png RGBA 16 bits": (
        png(48, 32, 16, 6, rows_of((WITH_ALPHA.astype(np.uint16) * 257).astype(">u2"))),
        on_white(RGB, ALPHA),
    ),
    "png grey, one transparent": (
        encoded(Image.fromarray(GRADIENT), "PNG", transparency=64),
        grey(OPAQUE_8),
    ),
    "png grey 16 bits, one transparent": (
        png(32, 4, 16, 0, rows_of(BIG_ENDIAN), chunk(b"tRNS", struct.pack(">H", (64 << 8) + 77))),
        grey(OPAQUE_8),
    ),
    "png RGB, red transparent": (
        encoded(Image.fromarray(RGB), "PNG", transparency=RED),
        np.where((RGB == RED).all(2, keepdims=True), np.uint8(255), RGB),
    ),
    "png palette, red transparent": (
        encoded(PALETTE, "PNG", transparency=PALETTE.getpixel((0, 0))),
        np.where((RGB == RED).all(2, keepdims=True), np.uint8(255), RGB),
    ),
    "png palette, half transparent": (
        encoded(PALETTE, "PNG", transparency=b"\x80" * 8),
        on_white(RGB, np.full(RGB.shape[:2], 128, np.uint8)),
    ),
    "jpeg": (encoded(Image.fromarray(RGB), "JPEG", quality=95, subsampling=0), RGB),
    "jpeg progressive": (encoded(Image.fromarray(RGB), "JPEG", quality=95, subsampling=0, progressive=True), RGB),
    "jpeg 4:2:0": (encoded(Image.fromarray(RGB), "JPEG", quality=95, subsampling=2), RGB),
    "jpeg grey": (encoded(Image.fromarray(RGB[..., 0]), "JPEG", quality=95), grey(RGB[..., 0])),
    "jpeg CMYK": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95), RGB),
    "jpeg of two images": (
        encoded(Image.fromarray(RGB), "MPO", quality=95, save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        RGB,
    ),
    "webp lossless": (encoded(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    "webp lossless RGBA": (
        encoded(Image.fromarray(WITH_ALPHA), "WEBP", lossless=True, exact=True),
        on_white(RGB, ALPHA),
    ),
    "webp": (encoded(Image.fromarray(RGB), "WEBP", quality=95), RGB),
    "one pixel": (encoded(Image.new("RGB", (1, 1), BLUE), "PNG"), np.array([[BLUE]], np.uint8)),
    "sides of the largest ratio": (
        encoded(Image.new("RGB", (MAX_ASPECT, 1), BLUE), "PNG"),
        np.full((1, MAX_ASPECT, 3), BLUE, np.uint8),
    ),
    "damaged EXIF": (encoded(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), RGB),
    "a colour profile that is none": (encoded(Image.fromarray(RGB), "PNG", icc_profile=b"no profile"), RGB),
}


@pytest.mark.parametrize(("data", "expected"), PIXELS.values(), ids=PIXELS)
def test_a_file_is_decoded_to_its_pixels(data: bytes, expected: np.ndarray) -> None:
    pixels = decode_image(data)
    assert (pixels.dtype, pixels.shape) == (np.uint8, expected.shape)
    lossy = data.startswith(b"\xff\xd8") or b"VP8 " in data[:40]
    error = np.abs(pixels.astype(int) - expected)
    assert error.max() <= 1 or lossy, "values may be rounded, no more"
    assert np.median(error) <= 3, "a lossy format is close except at the edges"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    """By PIL's own function, which the decoder does not use. 0 and 9 have no meaning and change nothing."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RGB), kind, exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode_image(data), np.asarray(upright))
    corner = {2: BLUE, 3: GREEN, 4: GREY, 6: GREY, 7: GREEN, 8: BLUE}.get(orientation, RED)
    assert np.abs(decode_image(data)[4, 4].astype(int) - corner).max() < 12


def _png_of(width: int, height: int) -> bytes:
    return png(width, height, 8, 2, b"")


def _jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose header states another size."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    position = data.index(b"\xff\xc0") + 5
    data[position : position + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _webp_of(width: int, height: int) -> bytes:
    """A small lossless WEBP whose header states another size."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    position = data.index(b"VP8L") + 9
    data[position : position + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(data)


def _many_scans(count: int) -> bytes:
    data = encoded(Image.new("RGB", (64, 64), RED), "JPEG", progressive=True)
    scans = data.split(b"\xff\xda")
    return b"\xff\xda".join([*scans[:2], *[scans[2]] * count]) + b"\xff\xd9"


def _animation(kind: str) -> bytes:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _changed_pixel_before_its_checksum() -> bytes:
    """A PNG with one changed pixel, whose checksum is in a chunk that PIL does not read."""
    rows = zlib.compress(rows_of(RGB), 0)
    start, end = png(48, 32, 8, 2, b"")[:33], chunk(b"IDAT", rows[-4:]) + chunk(b"IEND", b"")
    pixels = bytearray(chunk(b"IDAT", rows[:-4]))
    pixels[100] ^= 0xFF
    return start + pixels + end


def _with_parts(data: bytes, position: int, part: bytes) -> bytes:
    """The file with 100,000 of a part in front of the byte at `position`."""
    return data[:position] + part * 100_000 + data[position:]


PNG = encoded(Image.fromarray(RGB), "PNG")
JPEG = encoded(Image.fromarray(RGB), "JPEG")
TOO_MANY = "too many parts"
SMALL = Image.fromarray(RGB)
REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty"),
    "text": (b"<!DOCTYPE html><html>", r"not a readable PNG, JPEG or WEBP file: it begins with b'<!DOCTYP'"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1", "begins with b'version '"),
    "zeros": (bytes(4096), "not a readable"),
    "only a signature": (b"\x89PNG\r\n\x1a\n", "image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a readable"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a readable"),
    "PDF": (encoded(SMALL, "PDF"), "not a readable"),
    **{kind: (encoded(SMALL, kind), "not a readable") for kind in ("GIF", "BMP", "TIFF", "DDS", "ICO", "PPM", "TGA")},
    **{kind: (encoded(SMALL, kind), "not a readable") for kind in ("AVIF", "JPEG2000", "ICNS", "SGI", "PCX", "QOI")},
    "animated PNG": (_animation("PNG"), "animation"),
    "animated WEBP": (_animation("WEBP"), "animation"),
    "too wide": (encoded(Image.new("RGB", (MAX_ASPECT + 1, 1)), "PNG"), "201 x 1 pixels"),
    "too high": (encoded(Image.new("RGB", (2, 2 * MAX_ASPECT + 1)), "JPEG"), "2 x 401 pixels"),
    "no columns": (_png_of(0, 5), "image"),
    "fill bytes": (_with_parts(JPEG, 2, b"\xff"), TOO_MANY),
    "restart markers": (_with_parts(JPEG, 2, b"\xff\xd0"), TOO_MANY),
    "comments": (_with_parts(JPEG, 2, b"\xff\xfe\0\2"), TOO_MANY),
    "comments after the scan": (_with_parts(JPEG, len(JPEG) - 2, b"\xff\xfe\0\2"), TOO_MANY),
    "parts of an EXIF block": (_with_parts(JPEG, 2, b"\xff\xe1\0\x0aExif\0\0MM"), TOO_MANY),
    "chunks": (_with_parts(PNG, 33, chunk(b"abCd", b"")), TOO_MANY),
    "chunks after the pixels": (_with_parts(PNG, len(PNG) - 12, chunk(b"abCd", b"")), TOO_MANY),
    "many scans": (_many_scans(100), "over 64 scans"),
    "16 bits and a transparent colour": (
        png(1, 1, 16, 2, bytes(7), chunk(b"tRNS", bytes(6))),
        "save it with an alpha channel",
    ),
    "damaged pixels of a PNG": (PNG[:60] + b"\0\0\0" + PNG[63:], "damaged or truncated"),
    "a changed pixel of a PNG": (_changed_pixel_before_its_checksum(), "damaged or truncated"),
    "no pixels": (_png_of(8, 8), "damaged or truncated"),
    "an unknown bit depth": (png(8, 8, 3, 2, bytes(99)), "image"),
    "compressed text of 64 MB": (
        png(1, 1, 8, 2, bytes(4), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))),
        "damaged",
    ),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_any_other_file_is_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as refusal:
        decode_image(data)
    assert " at 0x" not in str(refusal.value)


def test_a_large_png_may_have_small_chunks() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    rows = zlib.compress(rows_of(pixels), 0)
    parts = b"".join(chunk(b"IDAT", rows[start : start + 1400]) for start in range(0, len(rows), 1400))
    data = png(1000, 1000, 8, 2, b"")[:33] + parts + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_image(data), pixels)


@pytest.mark.parametrize(
    "data",
    [
        _png_of(60_000, 60_000),
        _png_of(2**31 - 1, 1),
        _png_of(8001, 8000),
        _jpeg_of(65_500, 65_500),
        _webp_of(16_383, 16_383),
        _webp_of(12_000, 6_000),
    ],
)
def test_too_many_pixels_are_refused_by_the_header(data: bytes) -> None:
    with pytest.raises(ImageTooLargeError, match="pixels"):
        decode_image(data)


def test_a_caller_may_lower_the_limit_of_pixels() -> None:
    assert decode_image(PNG, max_pixels=RGB.shape[0] * RGB.shape[1]).shape == RGB.shape
    with pytest.raises(ImageTooLargeError, match="48 x 32 pixels, over the limit of 1535"):
        decode_image(PNG, max_pixels=RGB.shape[0] * RGB.shape[1] - 1)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
FILES = {
    "PNG": encoded(NOISE, "PNG", exif=b"Exif\0\0MM\0*"),
    "JPEG": encoded(NOISE, "JPEG"),
    "progressive JPEG": encoded(NOISE, "JPEG", progressive=True),
    "WEBP": encoded(NOISE, "WEBP"),
    "lossless WEBP": encoded(NOISE, "WEBP", lossless=True),
    "palette": encoded(NOISE.quantize(16), "PNG", transparency=b"\x10\x80"),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_truncated_file_is_refused(data: bytes) -> None:
    for end in range(1, len(data) - 12, max(1, len(data) // 60)):  # 12: the last chunk of a PNG has no content
        with pytest.raises(ImageError):
            decode_image(data[:end])


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_changed_bytes_lead_to_pixels_or_to_an_image_error(data: bytes) -> None:
    """A PNG has checksums: it keeps its pixels, or it is refused."""
    rng, whole = np.random.default_rng(1), decode_image(data)
    refusals: list[str] = []
    for _ in range(150):
        changed = bytearray(data)
        for position in rng.integers(0, len(data), rng.integers(1, 8)):
            changed[position] = rng.integers(0, 256)
        try:
            pixels = decode_image(bytes(changed))
        except ImageError as error:
            refusals.append(str(error))
        else:
            assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
            assert not data.startswith(b"\x89PNG") or np.array_equal(pixels, whole)
    assert len(refusals) > 10
    assert not [refusal for refusal in refusals if " at 0x" in refusal]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(480, 320), (32, 4800), (2000, 10)])
def test_a_large_image_is_shrunk_to_the_wanted_pixels(kind: str, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    large = Image.fromarray(RGB).resize(size, Image.Resampling.BICUBIC)
    data = encoded(large, kind, exif=exif, quality=95)
    small, whole = decode_image(data, shrink_to=2000), decode_image(data)
    height, width = small.shape[:2]
    assert 1000 < height * width <= 2000
    assert max(height, width) <= MAX_ASPECT * min(height, width)
    assert (height > width) == (whole.shape[0] > whole.shape[1])
    expected = Image.fromarray(whole).resize((width, height), Image.Resampling.BICUBIC)
    assert np.abs(small.astype(int) - np.asarray(expected)).mean() < (10 if kind == "JPEG" else 1)
    assert decode_image(data, shrink_to=size[0] * size[1]).shape == whole.shape


@pytest.mark.parametrize("mode", COLORS)
def test_a_pil_image_of_any_mode_gives_rgb(mode: str) -> None:
    expected = Image.fromarray(RGB).convert(mode).convert("RGB")
    assert np.array_equal(rgb_pixels(Image.fromarray(RGB).convert(mode)), np.asarray(expected))


def test_a_pil_image_is_read_by_the_rules_of_files() -> None:
    assert np.abs(rgb_pixels(Image.fromarray(WITH_ALPHA)).astype(int) - on_white(RGB, ALPHA)).max() <= 1
    assert np.array_equal(rgb_pixels(Image.fromarray(GREY_16)), grey(GRADIENT))
    exif = Image.Exif()
    exif[0x0112] = 3
    opened = Image.open(io.BytesIO(encoded(Image.fromarray(RGB), "PNG", exif=exif)))
    assert np.array_equal(rgb_pixels(opened), RGB[::-1, ::-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Image.new("F", (4, 4)), "mode F"),
        (lambda: Image.new("I", (4, 4)), "mode I"),
        (lambda: Image.open(io.BytesIO(PNG[:100])), "cannot be read"),
    ],
)
def test_a_pil_image_that_cannot_be_read_is_refused(make: Callable[[], Image.Image], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        rgb_pixels(make())
