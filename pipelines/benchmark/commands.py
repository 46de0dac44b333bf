"""`spatialt2i benchmark`: fetch, draw, judge, report, run and export."""

from __future__ import annotations

from collections.abc import Sequence

from conf import Settings
from pipelines.benchmark.draw import draw
from pipelines.benchmark.exchange import export_images, import_images
from pipelines.benchmark.fetch import fetch as fetch_files
from pipelines.benchmark.judging import JudgeResult, judge_sides
from pipelines.benchmark.measuring import check_rewards, measure_sides
from pipelines.benchmark.overlap import warn_of_overlap
from pipelines.benchmark.report import write_report
from pipelines.benchmark.work import SIDES, Work, load_work, sides_of
from pipelines.common.paths import RunPaths, run_paths
from pipelines.common.ray_session import ray_session
from pipelines.common.run_folder import driving
from pipelines.common.terminal import print_warning
from pipelines.policy.versions import choose_version


def fetch(settings: Settings) -> None:
    """Fetches the published files into `benchmark.data`."""
    fetch_files(settings)


def draw_images(settings: Settings) -> None:
    """Generates the images that are missing."""
    with driving(settings):
        work = load_work(settings)
        warn_of_overlap(settings, work)
        with ray_session(settings):
            print(draw(settings, work))


def judge(settings: Settings) -> None:
    """Judges the images of the run, or those of `benchmark.images`."""
    with driving(settings):
        check_rewards(settings)
        work = load_work(settings)
        paths = paths_of(settings)
        if settings.benchmark.images:
            print(import_images(settings, work, paths))
        with ray_session(settings):
            result = judge_sides(settings, work, sides_to_judge(settings), paths)
            _measure(settings, work, paths)
    conclude(result)


def report(settings: Settings) -> None:
    """Scores the judgements and writes the report."""
    with driving(settings):
        work = load_work(settings)
        print(write_report(settings, work, sides_to_judge(settings), paths_of(settings)))


def run(settings: Settings) -> None:
    """Generates images, judges them and reports. What is complete is not done again."""
    with driving(settings):
        work = load_work(settings)
        result, text = run_all(settings, work)
        print(text)
    conclude(result)


def run_all(settings: Settings, work: Sequence[Work]) -> tuple[JudgeResult, str]:
    """Generates, judges and reports. Returns the result of judging and the report as text."""
    check_rewards(settings)
    warn_of_overlap(settings, work)
    sides = sides_to_judge(settings)
    with ray_session(settings):
        if settings.benchmark.images:
            print(import_images(settings, work, paths_of(settings)))
        else:
            print(draw(settings, work))
        paths = paths_of(settings)
        result = judge_sides(settings, work, sides, paths)
        _measure(settings, work, paths)
    return result, write_report(settings, work, sides, paths)


def export(settings: Settings) -> None:
    """Writes the run's images in the official layouts, for the official scripts."""
    with driving(settings):
        print(export_images(settings, load_work(settings), sides_to_judge(settings), paths_of(settings)))


def sides_to_judge(settings: Settings) -> tuple[str, ...]:
    """The sides whose images are judged: those of the run, or the model that made `benchmark.images`."""
    return (settings.benchmark.images_name,) if settings.benchmark.images else sides_of(settings)


def paths_of(settings: Settings) -> RunPaths:
    """The paths of the policy version that is measured. Raises UserError if there is no such version."""
    return run_paths(settings, choose_version(settings) if "policy" in sides_to_judge(settings) else None)


def _measure(settings: Settings, work: Sequence[Work], paths: RunPaths) -> None:
    """Measures what else changed, if there are images of base and policy."""
    if sides_to_judge(settings) == SIDES:
        measure_sides(settings, work, paths)


def conclude(result: JudgeResult) -> None:
    """Prints what was judged. Raises SystemExit with exit code 1 if another start may obtain more judgements."""
    print(result)
    if result.unanswered:
        raise SystemExit(f"a service did not answer all calls ({result.unanswered}): start the command again")
    if sum(result.missing.values()) > 0.01 * result.images:
        print_warning("over 1 % of the judgements are missing: read the ranges in the report, not the values alone")
