"""Cheap numbers of images that no reward looks at: of one image each, and of two images of one prompt.

A policy that exploits its reward often makes emptier images: fewer edges, fewer colours, paler, softer or all alike.
The trained reward cannot show that, because it is what is exploited.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

EDGE = 24.0
"""Difference of the brightness (0 to 255) of neighbouring pixels from which on it counts as an edge."""
COLOR_LEVELS = 8
"""Levels of each of the three colour channels in the histogram of colours."""
THUMBNAIL = 16
"""Width and height of the reduced images whose difference is their diversity."""


def image_statistics(images: np.ndarray) -> np.ndarray:
    """The statistics of each image, [B, 4], in the order of IMAGE_STATISTICS. images: uint8 [B, H, W, 3].

    edge_density: fraction of pixels at an edge. color_entropy: entropy of the histogram of colours, in bits.
    saturation: mean saturation, 0 to 1. sharpness: standard deviation of the brightness's Laplacian, in grey levels.
    """
    rows = [(*_edges_and_sharpness(image), _color_entropy(image), _saturation(image)) for image in images]
    edges, sharpness, entropy, saturation = np.array(rows, dtype=float).reshape(-1, 4).T
    return np.stack((edges, entropy, saturation, sharpness), axis=1)


def diversity(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much two images of one prompt from different seeds differ, [B], 0 to 1. Both: uint8 [B, H, W, 3].

    Each image is reduced to 16 x 16 means of equal areas. The diversity is the root of the mean squared difference of
    these means, over areas and colour channels, as a fraction of the largest one, 255.
    """
    reduced = [np.stack([_reduced(image) for image in each]) for each in (images, others)]  # [B, 16, 16, 3]
    return np.sqrt(((reduced[0] - reduced[1]) ** 2).mean((1, 2, 3))) / 255


def _reduced(image: np.ndarray) -> np.ndarray:
    size = (THUMBNAIL, THUMBNAIL)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX), dtype=float)


def _edges_and_sharpness(image: np.ndarray) -> tuple[float, float]:
    gray = image.astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32)  # [H, W]
    across = np.abs(np.diff(gray, axis=1))[:-1]
    down = np.abs(np.diff(gray, axis=0))[:, :-1]
    inner = gray[1:-1, 1:-1]
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * inner
    return float((np.maximum(across, down) > EDGE).mean()), float(laplacian.std())


def _color_entropy(image: np.ndarray) -> float:
    levels = image.reshape(-1, 3).astype(np.int64) * COLOR_LEVELS // 256
    bins = levels @ np.array((COLOR_LEVELS**2, COLOR_LEVELS, 1))
    share = np.bincount(bins)[np.unique(bins)] / len(bins)
    return float(-(share * np.log2(share)).sum()) + 0.0  # no -0.0


def _saturation(image: np.ndarray) -> float:
    high, low = image.max(2).astype(np.float32), image.min(2).astype(np.float32)
    return float(((high - low) / np.maximum(high, 1.0)).mean())
