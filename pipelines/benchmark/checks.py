"""What the benchmark commands need, checked before they start. Imports neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path

from conf import Settings, SettingsError, UserError
from conf.flux import EMBEDDED
from pipelines.benchmark.catalogue import find_benchmark
from pipelines.benchmark.items import Problem
from pipelines.benchmark.work import data_folder, judge_settings


def check_files(settings: Settings) -> None:
    """Raises UserError if a file of a benchmark is missing, or if settings of section benchmark do not fit."""
    cfg = settings.benchmark
    if cfg.judge == "exact" and settings.flux.model != EMBEDDED:
        raise SettingsError(
            f"benchmark.judge=exact needs flux.model={EMBEDDED}, as the exact checker knows the scenes world only, "
            f"got flux.model={settings.flux.model}: use benchmark.judge=endpoint"
        )
    if cfg.images and len(cfg.names) != 1:
        raise SettingsError(
            f"benchmark.images holds the images of one benchmark, got benchmark.names={list(cfg.names)}: name that one"
        )
    if cfg.images and not Path(cfg.images).is_dir():
        raise SettingsError(f"benchmark.images={cfg.images}: there is no such folder")
    data_folder(settings)
    for name, problem in problems(settings):
        if problem.fatal:
            raise UserError(f"benchmark {name}: {problem.text}")


def problems(settings: Settings) -> list[tuple[str, Problem]]:
    """What is wrong with the published files, by benchmark. Empty in the scenes world, which writes its own."""
    cfg = settings.benchmark
    if not cfg.data:
        return []
    root = Path(cfg.data).absolute()
    benchmarks = {name: find_benchmark(name, cfg.tiif_set) for name in cfg.names}
    return [(name, problem) for name, each in benchmarks.items() for problem in each.check(root / each.folder)]


def asked_sections(settings: Settings) -> list[str]:
    """The benchmarks of the settings whose judge is a service, one for each section."""
    if settings.benchmark.judge == "exact":
        return []
    forms = {name: find_benchmark(name, settings.benchmark.tiif_set).form for name in settings.benchmark.names}
    chats = [name for name, form in forms.items() if form != "detector"]
    return list({judge_settings(settings, name).section: name for name in chats}.values())


def uses_detector(settings: Settings) -> bool:
    """Whether GenEval's models are loaded."""
    return settings.benchmark.judge != "exact" and any(
        find_benchmark(name, settings.benchmark.tiif_set).form == "detector" for name in settings.benchmark.names
    )
