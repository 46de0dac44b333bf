"""The texts of `spatialt2i policy sample`, checked before torch is imported, and again by the command."""

from __future__ import annotations

from conf import SettingsError
from conf.settings import Settings


def check_texts(settings: Settings) -> list[str]:
    """The texts of a sample, each once. Raises SettingsError if there is none, or if one file is named for several."""
    cfg = settings.sample
    if not cfg.text or not all(text.strip() for text in cfg.text):
        raise SettingsError('sample.text must not be empty, e.g. spatialt2i policy sample "a cat left of a dog"')
    texts = list(dict.fromkeys(cfg.text))
    if cfg.out and len(texts) > 1:
        raise SettingsError(f"sample.out names one file, got {len(texts)} texts: leave it out, or sample one text")
    return texts
