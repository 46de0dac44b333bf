"""The actions of `spatialt2i benchmark`."""

from __future__ import annotations

from conf.command import Action

_COMMANDS, _CHECKS = "pipelines.benchmark.commands", "pipelines.operations.benchmark_checks"
_JUDGES = (
    "tiif_judge",
    "unigenbench_judge",
    "dpg_judge",
    "geneval",
    "spatialgeneval_judge",
    "geneval2_judge",
    "baselines",
    "budget",
)
_NO_RUN = ("benchmark.images", "benchmark.sides")

BENCHMARK: dict[str, Action] = {
    "fetch": Action(
        f"{_COMMANDS}:fetch",
        "fetch the published files of the benchmarks, at pinned commits, into benchmark.data",
        ("benchmark",),
        run="optional",
    ),
    "draw": Action(
        f"{_COMMANDS}:draw_images",
        "generate images of the benchmarks' prompts by the base and the trained policy, from the same seeds",
        ("benchmark", "flux"),
        resumes=True,
        run="continues",
        replaces_run=_NO_RUN,
        check=f"{_CHECKS}:draw",
    ),
    "judge": Action(
        f"{_COMMANDS}:judge",
        "let the judges answer the benchmarks' questions about the images",
        ("benchmark", *_JUDGES),
        resumes=True,
        run="continues",
        replaces_run=_NO_RUN,
        check=f"{_CHECKS}:judge",
    ),
    "report": Action(
        f"{_COMMANDS}:report",
        "score the answers by the official rules and by corrected ones, and write the report",
        ("benchmark", *_JUDGES),
        run="continues",
        replaces_run=_NO_RUN,
        check=f"{_CHECKS}:files",
    ),
    "run": Action(
        f"{_COMMANDS}:run",
        "generate, judge and report; what is complete is not done again",
        ("benchmark", *_JUDGES),
        resumes=True,
        run="continues",
        replaces_run=_NO_RUN,
        check=f"{_CHECKS}:run",
    ),
    "export": Action(
        f"{_COMMANDS}:export",
        "write the run's images in the official layouts, for the official scripts",
        ("benchmark",),
        run="continues",
        replaces_run=_NO_RUN,
        check=f"{_CHECKS}:files",
    ),
}
