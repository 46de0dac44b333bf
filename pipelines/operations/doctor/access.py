"""Keys in the environment, which are never shown, and ports that a run listens on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

from conf import Settings
from conf.endpoints import EndpointSettings
from pipelines.operations.doctor.finding import Finding


def check_keys(settings: Settings) -> Iterator[Finding]:
    """The environment variables that hold the keys of what the preset calls."""
    for what, variable in _keys(settings):
        yield Finding(
            bool(os.environ.get(variable)),
            f"key of {what} in ${variable}",
            f"set {variable} in the environment of the driver (on Kubernetes: in the secret); see docs/preferences.md",
        )


def _keys(settings: Settings) -> Iterator[tuple[str, str]]:
    called: list[tuple[object, EndpointSettings]] = [
        (settings.preferences.writer == "chat", settings.writer),
        (settings.preferences.perturber == "chat", settings.perturber),
        (settings.preferences.generators.seedream, settings.seedream),
        (settings.rewards.judge, settings.judge),
    ]
    for used, endpoint in called:
        if used:
            yield endpoint.section, endpoint.key_variable
    if settings.serving.token_variable:
        yield "serving.http", settings.serving.token_variable


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Ports that verbs of this preset open on this machine."""
    if settings.serving.http:
        yield _port("pool", settings.serving.host, settings.serving.port)
    if settings.preferences.reviewer == "annotators":
        yield _port("review", settings.review.host, settings.review.port)


def _port(section: str, host: str, port: int) -> Finding:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just left is free
        try:
            probe.bind((host, port))
        except OSError as error:
            mend = f"end what listens there, or set {section}.port to another (or {section}.host)"
            return Finding(False, f"{section}: {host}:{port} cannot be listened on: {error.strerror}", mend)
    return Finding(True, f"{section}: {host}:{port} is free")
