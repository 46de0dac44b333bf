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
