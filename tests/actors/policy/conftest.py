"""Fixtures of the tiny models."""

from __future__ import annotations

from tests.support.tiny_families import tiny
from tests.support.tiny_flux import flux_directory, policy
from tests.support.tiny_qwen_image import qwen_image, qwen_image_directory, qwen_image_flux

__all__ = ["flux_directory", "policy", "qwen_image", "qwen_image_directory", "qwen_image_flux", "tiny"]
