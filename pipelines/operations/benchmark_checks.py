"""What the benchmark commands need, checked before they start, as in `checks`. Imports neither torch nor Ray."""

from __future__ import annotations

from conf import Settings
from pipelines.operations.checks import trained_policy
from pipelines.operations.needs import require_cluster, require_key, require_model, require_run_folder


def files(settings: Settings) -> None:
    """`benchmark report` and `benchmark export`: the published files, and the version of the policy."""
    from pipelines.benchmark.checks import check_files

    check_files(settings)
    if settings.benchmark.sides != "base" and not settings.benchmark.images:
        trained_policy(settings)
    require_run_folder(settings)


def draw(settings: Settings) -> None:
    """`benchmark draw`: the published files, a cluster, the base model, and the policy if its images are asked for."""
    files(settings)
    require_model(settings, "flux.model", settings.flux.model, "model_index.json")
    require_cluster(settings)


def judge(settings: Settings) -> None:
    """`benchmark judge`: the published files, a cluster, the keys of the judges, and GenEval's models."""
    files(settings)
    services(settings)
    require_cluster(settings)


def services(settings: Settings) -> None:
    """What judging needs from outside the run: the published files, the keys of the judges, and GenEval's models."""
    from pipelines.benchmark.checks import asked_sections, check_files, uses_detector
    from pipelines.benchmark.work import judge_settings

    check_files(settings)
    for name in asked_sections(settings):
        require_key(judge_settings(settings, name))
    if uses_detector(settings):
        require_model(settings, "geneval.detector", settings.geneval.detector, "config.json")
        require_model(settings, "geneval.clip", settings.geneval.clip, "config.json")


def run(settings: Settings) -> None:
    """`benchmark run`: what drawing and judging need."""
    if not settings.benchmark.images:
        draw(settings)
    judge(settings)
