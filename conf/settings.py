"""All settings of one run. The defaults are the embedded `scenes` world; each section has a class of its own.

A preset (`conf/presets/*.yaml`) holds only differences from these defaults. Every section checks its values when it is
created; an error states the rule, the value and the fix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from conf.ablation import AblationSettings
from conf.baselines import BaselinesSettings
from conf.benchmark import (
    BenchmarkSettings,
    DpgJudgeSettings,
    GenEval2JudgeSettings,
    GenEvalSettings,
    SpatialGenEvalJudgeSettings,
    TiifJudgeSettings,
    UniGenBenchJudgeSettings,
)
from conf.best_by import check_best_by
from conf.detector import DetectorSettings
from conf.endpoints import (
    BudgetSettings,
    ClaimJudgeSettings,
    PerturberSettings,
    SeedreamSettings,
    WriterSettings,
)
from conf.errors import SettingsError
from conf.evaluation import EvaluationSettings, SampleSettings
from conf.flux import EMBEDDED, FluxSettings
from conf.generators import HunyuanImageSettings, QwenImageSettings
from conf.merge import MergeSettings
from conf.operations import ConfigSettings, DoctorSettings, StatusSettings, SubmitSettings
from conf.plan import PlanSettings
from conf.play import PlaySettings
from conf.policy import ExportSettings, PolicySettings
from conf.preferences import PreferencesSettings
from conf.pretrain import PretrainSettings
from conf.push import PushSettings
from conf.review import PublishSettings, ReviewSettings
from conf.reward import RewardSettings, SpatialScoreSettings
from conf.rewards import KINDS_WITH_A_SECTION, OWN_KINDS, JudgeSettings, Rewards, RewardTerm, check_rewards
from conf.rules import Section, at_least
from conf.serving import ScoreSettings, ServingSettings
from conf.tracking import TrackingSettings

_RAY_ADDRESS = re.compile(r"local|auto|(ray://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")


@dataclass(frozen=True)
class Settings(Section):
    """All sections of one run. Saved, resolved, as `settings.yaml` in the run directory."""

    preset: str = "scenes"
    """Name of the preset. Set by the program."""

    run_dir: str = "runs/scenes"
    """Folder of everything that the run writes."""

    take_over: bool = False
    """Make another driver that is at work in run_dir stop, and continue there. For one command; it is not recorded."""

    ray_address: str = "local"
    """Ray cluster. local: a private cluster. auto or host:port: a running cluster."""

    num_cpus: int = field(default=0, metadata=at_least(0))
    """CPUs of a private cluster. 0: all CPUs of the machine."""

    dashboard: bool = False
    """Start the Ray dashboard of a private cluster. A running cluster has its own."""

    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    flux: FluxSettings = field(default_factory=FluxSettings)
    preferences: PreferencesSettings = field(default_factory=PreferencesSettings)
    review: ReviewSettings = field(default_factory=ReviewSettings)
    publish: PublishSettings = field(default_factory=PublishSettings)
    writer: WriterSettings = field(default_factory=WriterSettings)
    perturber: PerturberSettings = field(default_factory=PerturberSettings)
    claim_judge: ClaimJudgeSettings = field(default_factory=ClaimJudgeSettings)
    seedream: SeedreamSettings = field(default_factory=SeedreamSettings)
    qwen_image: QwenImageSettings = field(default_factory=QwenImageSettings)
    hunyuan_image: HunyuanImageSettings = field(default_factory=HunyuanImageSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    spatialscore: SpatialScoreSettings = field(default_factory=SpatialScoreSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    baselines: BaselinesSettings = field(default_factory=BaselinesSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    merge: MergeSettings = field(default_factory=MergeSettings)
    serving: ServingSettings = field(default_factory=ServingSettings)
    rewards: Rewards = field(default_factory=lambda: {"spatialscore": RewardTerm(weight=1.0)})
    """Name -> its settings, as rewards.NAME.weight=0.5; 0 leaves a reward out."""

    judge: JudgeSettings = field(default_factory=JudgeSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    benchmark: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    tiif_judge: TiifJudgeSettings = field(default_factory=TiifJudgeSettings)
    unigenbench_judge: UniGenBenchJudgeSettings = field(default_factory=UniGenBenchJudgeSettings)
    dpg_judge: DpgJudgeSettings = field(default_factory=DpgJudgeSettings)
    spatialgeneval_judge: SpatialGenEvalJudgeSettings = field(default_factory=SpatialGenEvalJudgeSettings)
    geneval2_judge: GenEval2JudgeSettings = field(default_factory=GenEval2JudgeSettings)
    geneval: GenEvalSettings = field(default_factory=GenEvalSettings)
    ablation: AblationSettings = field(default_factory=AblationSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)
    play: PlaySettings = field(default_factory=PlaySettings)
    push: PushSettings = field(default_factory=PushSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    submit: SubmitSettings = field(default_factory=SubmitSettings)
    status: StatusSettings = field(default_factory=StatusSettings)
    doctor: DoctorSettings = field(default_factory=DoctorSettings)
    config: ConfigSettings = field(default_factory=ConfigSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rewards(self.rewards)
        self.baselines.check_names(list(self.own_rewards()))
        if not self.run_dir.strip():
            raise SettingsError("run_dir must not be empty: write e.g. run_dir=runs/mine")
        if any("\ud800" <= character <= "\udfff" for character in self.run_dir):
            raise SettingsError(f"run_dir must be a name of UTF-8 text, got {self.run_dir!r}: rename the folder")
        if not _RAY_ADDRESS.fullmatch(self.ray_address):
            raise SettingsError(f"ray_address must be local, auto or host:port, got {self.ray_address!r}")
        check_best_by(self.policy.evaluation, list(self.used_rewards()), self.flux.model == EMBEDDED)

    def used_rewards(self) -> dict[str, RewardTerm]:
        """The rewards that are not left out, by name."""
        return {name: term for name, term in self.rewards.items() if term is not None}

    def own_rewards(self) -> dict[str, RewardTerm]:
        """Your own rewards by name: those of kind python or http."""
        return {name: term for name, term in self.used_rewards().items() if term.kind_of(name) in OWN_KINDS}

    def replicated_rewards(self) -> list[str]:
        """The rewards of the training reward whose replicas have settings under their own name."""
        terms = self.used_rewards().items()
        return [name for name, term in terms if term.trains and term.kind_of(name) not in KINDS_WITH_A_SECTION]

    def training_weight(self, kind: str) -> float:
        """The weight of the rewards of this kind in the training reward; 0 if there is none."""
        return sum(term.weight for name, term in self.used_rewards().items() if term.kind_of(name) == kind)

    def trains_on(self, kind: str) -> bool:
        """Whether the training reward depends on a reward of this kind, by a weight or by a gate."""
        return any(term.trains and term.kind_of(name) == kind for name, term in self.used_rewards().items())

    def uses_reward(self, kind: str) -> bool:
        """Whether the run has a reward of this kind, if only to watch it."""
        return any(term.kind_of(name) == kind for name, term in self.used_rewards().items())
