"""All settings of one run. The defaults are the embedded `scenes` world; each stage's section has a module of its own.

A preset (`conf/*.yaml`) holds differences from these defaults only. Values are checked where they are made: each
section's `__post_init__` names the rule, the value it got and the mend.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from conf.ablation import AblationSettings
from conf.detector import DetectorSettings
from conf.endpoints import BudgetSettings, PerturberSettings, SeedreamSettings, WriterSettings
from conf.evaluation import EvaluationSettings, SampleSettings
from conf.flux import FluxSettings
from conf.operations import StatusSettings, SubmitSettings
from conf.policy import ExportSettings, JudgeSettings, PolicySettings, RewardMixSettings
from conf.preferences import DiffusersSettings, PreferencesSettings
from conf.review import PublishSettings, ReviewSettings
from conf.reward import RewardPoolSettings, RewardSettings, ScoreSettings, SpatialScoreSettings
from conf.rivals import RivalsSettings
from conf.scenes import PretrainSettings


@dataclass(frozen=True)
class Settings:
    """All sections of one run. Saved, resolved, as `settings.yaml` in the run's directory."""

    preset: str = "scenes"
    run_dir: str = "runs/scenes"
    ray_address: str = "local"  # "local": a private cluster; "auto" or host:port: one that is running
    num_cpus: int = 0  # CPUs of a private cluster; 0: all of the machine
    dashboard: bool = False  # of a private cluster; a shared one has its own
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    flux: FluxSettings = field(default_factory=FluxSettings)
    preferences: PreferencesSettings = field(default_factory=PreferencesSettings)
    review: ReviewSettings = field(default_factory=ReviewSettings)
    publish: PublishSettings = field(default_factory=PublishSettings)
    writer: WriterSettings = field(default_factory=WriterSettings)
    perturber: PerturberSettings = field(default_factory=PerturberSettings)
    seedream: SeedreamSettings = field(default_factory=SeedreamSettings)
    qwen_image: DiffusersSettings = field(default_factory=DiffusersSettings)
    hunyuan_image: DiffusersSettings = field(default_factory=DiffusersSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    spatialscore: SpatialScoreSettings = field(default_factory=SpatialScoreSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    rivals: RivalsSettings = field(default_factory=RivalsSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    pool: RewardPoolSettings = field(default_factory=RewardPoolSettings)
    mix: RewardMixSettings = field(default_factory=RewardMixSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    ablation: AblationSettings = field(default_factory=AblationSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)
    submit: SubmitSettings = field(default_factory=SubmitSettings)
    status: StatusSettings = field(default_factory=StatusSettings)
