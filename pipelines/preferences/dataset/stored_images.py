"""How the images of a build are stored: those of the rows, and their masters at full size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from actors.files import write_file
from actors.folders import Marker, claim_folder
from conf.preferences import PreferencesSettings
from conf.settings import Settings
from pipelines.common.images import StoredImage, encode_jpeg, encode_png, encode_webp, perceptual_hash
from pipelines.common.paths import run_paths
from pipelines.common.run_folder import run_id
from pipelines.preferences.dataset.masters import master_location
from pipelines.preferences.dataset.schema import pair_id
from pipelines.preferences.roles.base import ImagePair, RawImage, RawPair
from pipelines.preferences.row_values import Side

Keep = Literal["png", "jpeg95", "webp90"]


@dataclass(frozen=True)
class ImageStorage:
    """Encodes the images of pairs, and writes their masters."""

    keep: Keep
    max_side: int
    """Longest side of the images in the rows, in pixels. 0: as generated."""
    masters: str
    """Folder or URI of the masters. Empty: they are not kept."""

    @classmethod
    def of(cls, settings: PreferencesSettings) -> ImageStorage:
        """The storage that the settings describe."""
        return cls(settings.keep, settings.max_side, settings.masters)

    def store(self, pair: RawPair | ImagePair) -> ImagePair:
        """The pair as it is stored. Generators of small images have encoded theirs already; those stay as they are.

        Raises OSError if a master cannot be written.
        """
        if isinstance(pair, ImagePair):
            return pair
        name = pair_id(pair.prompts.spec.index)
        winner, loser = self._store(pair.winner, name, "w"), self._store(pair.loser, name, "l")
        return ImagePair(pair.prompts, winner, loser, pair.check)

    def _store(self, image: RawImage, pair: str, side: Side) -> StoredImage:
        if self.masters:
            write_file(master_location(self.masters, pair, side), encode_png(image.pixels))
        content = encode(reduced(image.pixels, self.max_side), self.keep)
        return StoredImage(content, perceptual_hash(image.pixels), image.generator, image.seed)


def claim_masters(settings: Settings) -> None:
    """Marks `preferences.masters` as a folder of this run, because the pairs of another run have the same names.

    Raises UserError if it belongs to another run, holds other content or cannot be used.
    """
    if masters := settings.preferences.masters:
        paths = run_paths(settings)
        claim_folder(masters, Marker("masters", run_id(paths), str(paths.root)), "preferences.masters")


def reduced(pixels: np.ndarray, max_side: int) -> np.ndarray:
    """The image, uint8 [H, W, 3], with at most `max_side` pixels a side; the same array if it fits or for 0."""
    if not max_side or max(pixels.shape[:2]) <= max_side:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def encode(pixels: np.ndarray, keep: Keep) -> bytes:
    """Encodes uint8 [H, W, 3] pixels in one of the formats of `preferences.keep`."""
    match keep:
        case "png":
            return encode_png(pixels)
        case "jpeg95":
            return encode_jpeg(pixels, quality=95)
        case "webp90":
            return encode_webp(pixels, quality=90)
