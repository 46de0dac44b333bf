"""The files and folders of each stage in a run directory. `RunPaths` (pipelines/common/paths.py) has all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Stage = Literal["preferences", "reward", "policy", "evaluation"]
"""A stage of `spatialt2i run`, and the name of its folder in a run directory."""


@dataclass(frozen=True)
class StagePaths:
    """A run directory with one folder a stage. All paths are absolute if `root` is."""

    root: Path
    """The run directory."""
    version: int | None = None
    """Policy version whose export and evaluation these are. None: the newest."""

    def stage(self, stage: Stage) -> Path:
        """Folder of a stage."""
        return self.root / stage

    def trackers(self, stage: Stage) -> Path:
        """Folder: what experiment trackers received of a stage, and files that they keep."""
        return self.stage(stage) / "trackers"

    def stage_record(self, stage: Stage, step: str) -> Path:
        """JSON file: what a pipeline step made its output from. Arrow ignores names that begin with `_`."""
        return self.stage(stage) / f"_{step}.record.json"


class PreferencesPaths(StagePaths):
    """Stage 1: the dataset of image pairs, its review and its exports."""

    @property
    def preferences(self) -> Path:
        """Folder: parquet files of image pairs, `<split>-<shard>.parquet`."""
        return self.stage("preferences")

    @property
    def preferences_manifest(self) -> Path:
        """JSON file: written last by the build, it lists the files of a complete build."""
        return self.preferences / "_manifest.json"

    @property
    def preferences_shards(self) -> Path:
        """Folder: one JSON file per complete shard."""
        return self.preferences / ".shards"

    @property
    def preferences_report(self) -> Path:
        """HTML file: the counts and sample pairs of the dataset."""
        return self.root / "preferences_report.html"

    @property
    def review(self) -> Path:
        """Folder: the state of the review by annotators."""
        return self.root / "review"

    @property
    def review_database(self) -> Path:
        """SQLite file: the votes of the annotators."""
        return self.review / "review.sqlite"

    @property
    def review_invitations(self) -> Path:
        """Text file: the login link of each annotator."""
        return self.review / "invitations.txt"

    @property
    def review_aliases(self) -> Path:
        """JSON file: annotator -> the name under which a published version mentions them."""
        return self.review / "aliases.json"

    @property
    def review_votes(self) -> Path:
        """CSV file: the votes of the annotators, as `preferences report` writes them."""
        return self.review / "votes.csv"

    @property
    def triage_scores(self) -> Path:
        """JSON file: how doubtful a model finds each pair."""
        return self.review / "triage.json"

    @property
    def label_studio(self) -> Path:
        """Folder: files for and from Label Studio."""
        return self.root / "label_studio"

    @property
    def published(self) -> Path:
        """Folder: one folder per published dataset version."""
        return self.root / "published"


class RewardPaths(StagePaths):
    """Stage 2: SpatialScore, its fit, checks and evaluation."""

    @property
    def reward(self) -> Path:
        """Folder: everything that stage 2 writes. It is the storage path of Ray Train, too."""
        return self.stage("reward")

    @property
    def reward_model(self) -> Path:
        """Folder: the SpatialScore that stage 2 trains."""
        return self.reward / "model"

    @property
    def reward_merged(self) -> Path:
        """Folder: that SpatialScore with its LoRA merged into the backbone."""
        return self.reward / "merged"

    @property
    def reward_metrics(self) -> Path:
        """JSON Lines file: the metrics of the fit, one row every `reward.log_every` optimizer steps."""
        return self.reward / "metrics.jsonl"

    @property
    def reward_unreadable(self) -> Path:
        """JSON Lines file: preference rows that could not be read."""
        return self.reward / "unreadable.jsonl"

    @property
    def reward_tensorboard(self) -> Path:
        """Folder: TensorBoard events of the fit."""
        return self.reward / "tensorboard"

    @property
    def reward_evaluation(self) -> Path:
        """JSON file: the accuracy on held-out pairs."""
        return self.reward / "evaluation.json"

    @property
    def reward_report(self) -> Path:
        """HTML file: the same as a report."""
        return self.reward / "report.html"

    @property
    def sanity_checks(self) -> Path:
        """JSON file: the sanity checks of SpatialScore, with the digest of the weights that were checked."""
        return self.reward / "sanity_checks.json"

    @property
    def baselines(self) -> Path:
        """Folder: the predictions of each baseline, which an interrupted evaluation reuses."""
        return self.reward / "baselines"


class PolicyPaths(StagePaths):
    """Stage 3: checkpoints, metrics and exports of the policy."""

    @property
    def policy(self) -> Path:
        """Folder: everything that stage 3 writes."""
        return self.stage("policy")

    @property
    def checkpoints(self) -> Path:
        """Folder: checkpoints, unless `policy.checkpoint.dir` names another location."""
        return self.policy / "checkpoints"

    @property
    def export(self) -> Path:
        """Folder: an exported LoRA, in the format of diffusers."""
        return self.policy / "export" if self.version is None else self.exports / str(self.version)

    @property
    def exports(self) -> Path:
        """Folder: the exports of versions that were asked for by number or as the best, `<policy version>`."""
        return self.policy / "exports"

    @property
    def merged(self) -> Path:
        """Folder: the whole pipeline with the LoRA merged into its weights."""
        return self.policy / "merged" if self.version is None else self.exports / f"{self.version}-merged"

    @property
    def metrics(self) -> Path:
        """JSON Lines file: one row per iteration."""
        return self.policy / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """JSON Lines file: one row per evaluation on held-out prompts during training."""
        return self.policy / "evaluations.jsonl"

    @property
    def lineage(self) -> Path:
        """JSON Lines file: what the training started from, and what changed when it was resumed."""
        return self.policy / "lineage.jsonl"

    @property
    def drivers(self) -> Path:
        """JSON Lines file: one row per start of a driver."""
        return self.policy / "drivers.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder: TensorBoard events of the training."""
        return self.policy / "tensorboard"

    @property
    def profiles(self) -> Path:
        """Folder: traces of the iterations of `policy.profile_iterations`, `iteration-<number>/`."""
        return self.root / "profiles"

    @property
    def images(self) -> Path:
        """Folder: `<policy version>.png`, grids of images of held-out prompts."""
        return self.policy / "images"

    def evaluation_image(self, version: int) -> Path:
        """PNG file: the grid of images of one evaluation."""
        return self.images / f"{version:06d}.png"


class EvaluationPaths(StagePaths):
    """Stage 4: the images of base and policy, and the report."""

    @property
    def evaluation(self) -> Path:
        """Folder: everything that stage 4 writes."""
        folder = self.stage("evaluation")
        return folder if self.version is None else folder / f"version-{self.version}"

    def evaluation_images(self, model: Literal["base", "policy"]) -> Path:
        """Folder: the images of one model, `<prompt number>.png`."""
        return self.evaluation / model

    @property
    def evaluation_prompts(self) -> Path:
        """JSON Lines file: the prompts of the evaluation."""
        return self.evaluation / "prompts.jsonl"

    @property
    def evaluation_results(self) -> Path:
        """JSON Lines file: how both images of each prompt were assessed."""
        return self.evaluation / "results.jsonl"

    @property
    def evaluation_tables(self) -> Path:
        """JSON file: the tables of the report."""
        return self.evaluation / "report.json"

    @property
    def evaluation_report(self) -> Path:
        """HTML file: the report."""
        return self.evaluation / "report.html"

    @property
    def before_after(self) -> Path:
        """PNG file: a strip of images of the base above those of the policy. Only the embedded world has it."""
        return self.evaluation / "before_after.png"


class BenchmarkPaths(StagePaths):
    """Benchmarks: images by side, judgements by judge, and the report. A side is a model whose images are judged."""

    @property
    def benchmark(self) -> Path:
        """Folder: everything that the benchmarks write."""
        return self.root / "benchmark"

    @property
    def benchmark_data(self) -> Path:
        """Folder: the held-out prompts of the scenes world, in the formats of the benchmarks."""
        return self.benchmark / "data"

    @property
    def benchmark_export(self) -> Path:
        """Folder: images in the official layouts."""
        return self.benchmark / "export"

    def benchmark_side(self, side: str) -> str:
        """Name of a side in folders: "policy" becomes "policy-<version>" for a policy version that was asked for."""
        return side if side != "policy" or self.version is None else f"policy-{self.version}"

    def benchmark_images(self, name: str, side: str) -> Path:
        """Folder: the images of one benchmark by one model, `<item>_<number>.png`."""
        return self.benchmark / name / "images" / self.benchmark_side(side)

    def benchmark_judged(self, name: str, judge: str) -> Path:
        """Folder: the judgements of one benchmark by one judge."""
        return self.benchmark / name / "judged" / judge

    def benchmark_judgements(self, name: str, judge: str, side: str) -> Path:
        """Parquet file: the judgements of one side. Beside it lie its `.manifest.json` and the folder `.parts`."""
        return self.benchmark_judged(name, judge) / f"{self.benchmark_side(side)}.parquet"

    def benchmark_measured(self, name: str, measure: str) -> Path:
        """JSON file: a measure of policy against base on the images of one benchmark. Beside it: folder `.parts`."""
        return self.benchmark / name / "measured" / self.benchmark_side("policy") / f"{measure}.json"

    @property
    def benchmark_results(self) -> Path:
        """JSON file: all cells of the newest report."""
        return self.benchmark / "benchmark.json"

    @property
    def benchmark_section(self) -> Path:
        """HTML fragment: the report as a section of the evaluation's page."""
        return self.benchmark / "section.html"

    @property
    def benchmark_report(self) -> Path:
        """HTML file: the report."""
        return self.benchmark / "report.html"
