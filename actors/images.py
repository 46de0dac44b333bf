"""The one decoder of images that enter from outside: files, requests, answers of services, rows of datasets.

Contract of `decode_image`:

- Formats: PNG, JPEG and WEBP. PIL's other formats are never tried, whatever a file's name says.
- The EXIF orientation is applied, as browsers apply it. A damaged EXIF block is ignored.
- Transparent pixels are composited on white. Grey, palette, 1-bit and CMYK images become RGB.
- Of 16 bits a channel the upper 8 are kept. Colour profiles and gamma are ignored: values are read as sRGB.
- Refused by the header, before a pixel is decoded: too many pixels, sides beyond 200:1, animations, JPEGs of too many
  scans, files of very many parts. Of a JPEG with several images (MPO) the first is read.
- Damaged and truncated files are refused. Every refusal is an `ImageError`.
"""

from __future__ import annotations

import base64
import io
import math
import re
from typing import Final

import numpy as np
from PIL import Image

FORMATS: Final = ("PNG", "JPEG", "WEBP")
"""The formats that are accepted, by PIL's names."""

MAX_PIXELS: Final = 64 * 10**6
"""Width times height of an image at most, if a caller sets no lower limit. Large cameras make 61 million."""

MAX_ASPECT: Final = 200
"""The longer side divided by the shorter one at most. Qwen2.5-VL reads no longer images."""

_MAX_SCANS = 64  # of a JPEG. Encoders write 10; a file of 100 kB with 1000 of them would take 12 s
_MAX_READS = 5000  # while a file is read, beside one for every few bytes of its pixels: see `_File`
_READ_BYTES = {b"\x89PNG": 256}  # encoders write IDAT chunks of 8 kB, which take five reads
_FILL = re.compile(rb"\xff*")
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # the next marker after the data of a scan
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")
_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """The bytes are no image that `decode_image` accepts. The message tells why, in words for a user."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit."""


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, shrink_to: int | None = None) -> np.ndarray:
    """Decodes a PNG, JPEG or WEBP file to uint8 [H, W, 3], read-only. The module's docstring states the contract.

    `max_pixels`: width times height of the file's image at most. `shrink_to`: an image of more pixels is scaled down to
    at most that many, with its aspect ratio kept; a large JPEG is then decoded at a lower resolution at once, which
    saves time and memory. For a score use `ScoreProcessor.useful_pixels`: fewer pixels change it. Raises
    ImageTooLargeError for too many pixels, and ImageError for all else that is wrong.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    try:
        with _open(data) as image:
            _check_header(image, data, max_pixels)
            if shrink_to is not None and image.width * image.height > shrink_to:
                # Twice the sides: the decoder's own scaling is coarser than the filter that does the rest.
                image.draft(None, _shrunk(image.width, image.height, 4 * shrink_to))  # pyright: ignore[reportArgumentType]
            return _rgb_array(image, shrink_to)
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"the image has over {max_pixels} pixels") from error
    except Exception as error:  # the boundary to foreign bytes: PIL's plugins raise whatever a damaged field leads to
        raise ImageError(f"the image is damaged or truncated: {_reason(error)}") from error


def png_base64(image: np.ndarray) -> str:
    """An image, uint8 [H, W, 3], as a PNG file in base64."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def pixel_count(data: bytes) -> int:
    """Width times height of an image file, by its header alone. Raises ImageError if `decode_image` cannot read it."""
    try:
        with Image.open(_File(data), formats=FORMATS) as image:
            return image.width * image.height
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image has over {MAX_PIXELS} pixels") from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # the boundary to foreign bytes: see `decode_image`
        raise ImageError(f"the image is not a readable {' or '.join(FORMATS)} file: {_reason(error)}") from error


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """The pixels of a PIL image, uint8 [H, W, 3], read-only, by the rules of `decode_image` for modes and orientation.

    Raises ImageError for a mode whose range of values is not known ("F", "I"), and for an image that cannot be read.
    """
    try:
        return _rgb_array(image, None)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # the file of a PIL image may be read only now: see `decode_image`
        raise ImageError(f"the image cannot be read: {_reason(error)}") from error


class _File(io.BytesIO):
    """An image file that can be read only so often.

    PIL reads each chunk of a PNG, and each marker and each superfluous byte of a JPEG, by itself. A file of 20 MB that
    consists of them would take half a minute; one of tiny EXIF blocks, which PIL joins one by one, hours.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left = _MAX_READS + len(data) // _READ_BYTES.get(data[:4], 8192)

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises ImageError if the file was read too often."""
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ImageError("the image has too many parts: save it again")
        return super().read(size)


def _open(data: bytes) -> Image.Image:
    """Opens the file without decoding it. The checksums of a PNG are verified."""
    try:
        image = Image.open(_File(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        accepted = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise ImageError(f"the image is not a readable {accepted} file: it begins with {data[:8]!r}") from None
    if image.format == "PNG":
        image.verify()  # PIL does not check the checksums of pixel data otherwise. It leaves the file unusable
        return Image.open(_File(data), formats=FORMATS)
    return image


def _check_header(image: Image.Image, data: bytes, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image has {width} x {height} pixels, over the limit of {max_pixels}")
    check_aspect(width, height)
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise ImageError("the image is an animation: send one frame of it")
    if image.format in ("JPEG", "MPO") and _scans(data) > _MAX_SCANS:
        raise ImageError(f"the JPEG has over {_MAX_SCANS} scans: save it as a baseline JPEG")
    sixteen_bits = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if sixteen_bits and isinstance(image.info.get("transparency"), tuple):
        raise ImageError("the image has 16 bits a channel and a transparent colour: save it with an alpha channel")


def check_aspect(width: int, height: int) -> None:
    """Raises ImageError if one side is over MAX_ASPECT times as long as the other, or a side is 0."""
    if min(width, height) < 1 or max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"the image has {width} x {height} pixels: its sides may differ by a factor of {MAX_ASPECT}")


def _scans(data: bytes) -> int:
    """Number of scans of a JPEG's first image. Each of them costs a pass over all pixels.

    Raises ImageError for a file of too many markers.
    """
    count, markers, position = 0, 0, 2
    while (after := _after_fill(data, position)) > position and after + 3 <= len(data):
        marker, markers = data[after], markers + 1
        if marker == 0xD9:  # end of the image
            break
        if markers > _MAX_READS:
            raise ImageError("the JPEG has too many parts: save it again")
        position = after + 1 + int.from_bytes(data[after + 1 : after + 3])
        if marker == 0xDA:
            count += 1
            following = _SCAN_END.search(data, position)
            position = following.start() if following else len(data)
    return count


def _after_fill(data: bytes, position: int) -> int:
    """The position after the bytes 0xFF that begin at `position`: a marker may have several."""
    match = _FILL.match(data, position)
    return match.end() if match else position


def _rgb_array(image: Image.Image, shrink_to: int | None) -> np.ndarray:
    """The pixels as uint8 [H, W, 3]."""
    image.load()  # a PNG may state its orientation after its pixels
    orientation = _orientation(image)
    rgb = _as_rgb(image)
    if shrink_to is not None and rgb.width * rgb.height > shrink_to:
        rgb = rgb.resize(_shrunk(rgb.width, rgb.height, shrink_to), Image.Resampling.BICUBIC)
    if orientation in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[orientation])
    return np.asarray(rgb)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # a damaged EXIF block raises anything; the pixels are whole, and browsers show them as they are
        return 1
    return value if isinstance(value, int) else 1


def _as_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, on white where it is transparent."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return _from_16_bit_grey(image)
    if image.mode in ("F", "I"):
        raise ImageError(f"the image has mode {image.mode}, whose range of values is not known: convert it to RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def _from_16_bit_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint16)  # [H, W]
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _shrunk(width: int, height: int, pixels: int) -> tuple[int, int]:
    """Width and height with at most `pixels` pixels and about the same aspect ratio, never over MAX_ASPECT."""
    scale = math.sqrt(pixels / (width * height))
    short = max(1, int(min(width, height) * scale))
    long = max(1, min(int(max(width, height) * scale), MAX_ASPECT * short, pixels // short))
    return (short, long) if width < height else (long, short)


def _reason(error: Exception) -> str:
    """PIL's reason, without the address of an object."""
    return _ADDRESS.sub("the file", str(error)) or type(error).__name__
