"""The layout of a run directory. Only this module, stage_paths.py and benchmark_paths.py know it.

- settings.yaml, timings.json, account.jsonl, answers/, samples/, logs/, profiles/: of the whole run
- preferences/, review/, label_studio/, published/, preferences_report.html: stage 1, the dataset of image pairs
- reward/: stage 2, SpatialScore and its evaluation
- policy/: stage 3, checkpoints, metrics and the exported LoRA
- evaluation/: stage 4, images of the base and of the policy, and the report
- benchmark/: images, judgements and report of the benchmarks
- ablation/: one run directory per variant and seed
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conf.settings import Settings
from pipelines.common.benchmark_paths import BenchmarkPaths
from pipelines.common.stage_paths import EvaluationPaths, PolicyPaths, PreferencesPaths, RewardPaths

PUBLISHED_DATA = "data"
"""Folder of a published dataset version that holds its parquet files."""


@dataclass(frozen=True)
class RunPaths(PreferencesPaths, RewardPaths, PolicyPaths, EvaluationPaths, BenchmarkPaths):
    """Every file and folder of one run directory. All paths are absolute if `root` is."""

    # Files of the whole run.

    @property
    def settings(self) -> Path:
        """YAML file: the settings that commands recorded here; later commands start from them."""
        return self.root / "settings.yaml"

    @property
    def lease(self) -> Path:
        """JSON file: the driver that is at work here. It exists while one is."""
        return self.root / "driver.lease"

    @property
    def timings(self) -> Path:
        """JSON file: the machine, and the seconds that each step of the pipeline took."""
        return self.root / "timings.json"

    @property
    def account(self) -> Path:
        """JSON Lines file: what calls of remote services cost so far."""
        return self.root / "account.jsonl"

    @property
    def answers(self) -> Path:
        """Folder: the cache of answers of remote services."""
        return self.root / "answers"

    @property
    def samples(self) -> Path:
        """Folder: PNG files that `spatialt2i policy sample` writes."""
        return self.root / "samples"

    @property
    def library_log(self) -> Path:
        """Text file: the warnings of libraries, which are not shown in the terminal."""
        return self.root / "logs" / "libraries.log"

    # Ablation.

    @property
    def ablation(self) -> Path:
        """Folder: the runs of an ablation and its report."""
        return self.root / "ablation"

    @property
    def ablation_settings(self) -> Path:
        """YAML file: the settings that all runs of the ablation start from."""
        return self.ablation / "settings.yaml"

    @property
    def ablation_table(self) -> Path:
        """Markdown file: the table of the ablation."""
        return self.ablation / "ablation.md"

    @property
    def ablation_report(self) -> Path:
        """HTML file: the report of the ablation."""
        return self.ablation / "ablation.html"

    def ablation_run(self, variant: str, seed: int) -> RunPaths:
        """The run directory of one variant under one seed."""
        return RunPaths(self.ablation / variant / f"seed-{seed}")

    @property
    def outcome(self) -> Path:
        """JSON file in the run directory of an ablation's run: its settings and its evaluations."""
        return self.root / "outcome.json"


def run_paths(settings: Settings, version: int | None = None) -> RunPaths:
    """The paths of `settings.run_dir`. They are absolute, because Ray's workers have other working directories.

    `version`: the policy version whose export and evaluation are meant; None: the newest.
    """
    return RunPaths(Path(settings.run_dir).absolute(), version)


def published_data(version: str) -> str:
    """The parquet folder of a published dataset version, a path or URI."""
    from actors.files import join  # pyarrow, which finding a run does not need

    return join(version, PUBLISHED_DATA)


def pairs_locations(settings: Settings) -> tuple[str, ...]:
    """The parquet folders that stage 2 reads, paths or URIs: those of `reward.pairs` if set, else that of this run."""
    versions = settings.reward.pairs
    return tuple(map(published_data, versions)) or (str(run_paths(settings).preferences),)


def spatialscore_folder(settings: Settings) -> Path:
    """The SpatialScore that scores images: `serving.model` if set, else the one that this run trains. Absolute."""
    return Path(settings.serving.model).absolute() if settings.serving.model else run_paths(settings).reward_model
