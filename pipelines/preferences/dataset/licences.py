"""What the terms of the services and models of stage 1 restrict. Read them before GPU-hours are spent."""

from __future__ import annotations

from collections.abc import Iterable

from conf.settings import Settings
from pipelines.common.terminal import print_warning

OPENAI = (
    "OpenAI (writer, perturber): its terms forbid the use of output to develop models that compete with its own. The "
    "prompts of this dataset are such output."
)
SEEDREAM = (
    "Seedream (Volcengine Ark, BytePlus): the terms of the service restrict the use of its images to train other "
    "models. Ask for a permission that covers reward models."
)
TENCENT = (
    "HunyuanImage: the Tencent Hunyuan community licence does not apply in the European Union, the United Kingdom and "
    "South Korea, and forbids the use of outputs to improve other AI models."
)
"""As we understand the terms of 2025. Lawyers decide, not this text."""


def notes_on_services(settings: Settings) -> tuple[str, ...]:
    """The notes on the services and models that a build with these settings uses."""
    cfg = settings.preferences
    chat = [
        one.url for used, one in ((cfg.writer, settings.writer), (cfg.perturber, settings.perturber)) if used == "chat"
    ]
    found = (
        (any("openai" in url for url in chat), OPENAI),
        (cfg.generators.seedream > 0, SEEDREAM),
        (cfg.generators.hunyuan_image > 0, TENCENT),
    )
    return tuple(note for used, note in found if used)


def notes_on_generators(generators: Iterable[str]) -> tuple[str, ...]:
    """The notes on the generators that made a dataset's images, by the names in its rows."""
    names = " ".join(generators).lower()
    return tuple(note for word, note in (("seedream", SEEDREAM), ("hunyuan", TENCENT)) if word in names)


def warn_of_licences(settings: Settings) -> None:
    """Prints the notes before anything is generated."""
    for note in notes_on_services(settings):
        print_warning(f"licence: {note}")
