"""Checks the API keys in the environment, whose values are never shown, and the ports that a run listens on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from conf import Settings
from conf.endpoints import EndpointSettings
from pipelines.benchmark.checks import asked_sections
from pipelines.benchmark.work import judge_settings
from pipelines.common.ports import port_problem
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.stage import checks_for


def check_keys(settings: Settings, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Checks that the environment variables with the keys of all services that the preset calls are set."""
    for service, variable in _key_variables(settings):
        yield Finding(
            bool(environment.get(variable)),
            f"key of {service} in ${variable}",
            f"set {variable} in the environment of the driver (on Kubernetes: in the secret); see docs/preferences.md",
        )


def _key_variables(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each service that needs a key, with the name of its environment variable."""
    pairs, policy = checks_for(settings, "preferences"), checks_for(settings, "policy")
    endpoints: list[tuple[object, EndpointSettings]] = [
        (pairs and settings.preferences.writer == "chat", settings.writer),
        (pairs and settings.preferences.perturber == "chat", settings.perturber),
        (pairs and settings.preferences.generators.seedream, settings.seedream),
        (pairs and settings.preferences.image_check == "judge", settings.claim_judge),
        (policy and settings.uses_reward("judge"), settings.judge),
    ]
    for used, endpoint in endpoints:
        if used:
            yield endpoint.section, endpoint.key_variable
    if settings.benchmark.data and checks_for(settings, "benchmark"):
        for name in asked_sections(settings):
            judge = judge_settings(settings, name)
            yield judge.section, judge.key_variable
    for name, term in settings.used_rewards().items():
        if policy and term.token_variable:
            yield f"rewards.{name}", term.token_variable
    if settings.serving.token_variable and policy:
        yield "serving.http", settings.serving.token_variable


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Checks that the ports which commands of this preset open on this machine are free."""
    if settings.serving.http and checks_for(settings, "policy"):
        yield _check_port("serving", settings.serving.host, settings.serving.port)
    if settings.preferences.reviewer == "annotators" and checks_for(settings, "preferences"):
        yield _check_port("review", settings.review.host, settings.review.port)


def _check_port(section: str, host: str, port: int) -> Finding:
    if problem := port_problem(host, port):
        fix = f"stop the process that uses it, or set {section}.port (or {section}.host) to another"
        return Finding(False, f"{section}: cannot listen on {host}:{port}: {problem}", fix)
    return Finding(True, f"{section}: {host}:{port} is free")
