"""The actions of `spatialt2i push`. They need no Ray cluster."""

from __future__ import annotations

from conf import Settings
from pipelines.push import artefacts
from pipelines.push.artefacts import Artefact
from pipelines.push.hub import Hub


def lora(settings: Settings) -> None:
    """Uploads the exported policy."""
    _push(settings, artefacts.lora(settings))


def spatialscore(settings: Settings) -> None:
    """Uploads the SpatialScore."""
    _push(settings, artefacts.spatialscore(settings))


def dataset(settings: Settings) -> None:
    """Uploads a published version of the pairs."""
    _push(settings, artefacts.dataset(settings))


def _push(settings: Settings, artefact: Artefact) -> None:
    """Says what it sends where, sends it, and says where it is."""
    hub = Hub()
    upload = hub.plan(artefact, settings.push)
    print(upload, flush=True)
    print(f"pushed to {hub.send(upload)}")
