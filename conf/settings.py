"""Every setting of every stage, with its unit and meaning. The defaults are the embedded `scenes` world.

A preset (`conf/*.yaml`) holds differences from these defaults only. Values are checked where they are made: each
section's `__post_init__` names the rule, the value it got and the mend.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from conf.rules import at_least, between, one_of

EMBEDDED = "embedded"
"""Model location that means: the tiny checkpoint shipped in `pipelines/scenes/checkpoints`."""


@dataclass(frozen=True)
class FluxSettings:
    """The text-to-image policy: which FLUX, its LoRA, and the size of what it draws."""

    model: str = EMBEDDED  # "embedded", a directory in diffusers format, or a hub id
    height: int = 64  # pixels
    width: int = 64  # pixels
    max_sequence_length: int = 24  # T5 tokens a prompt is padded to
    guidance: float = 3.5  # FLUX's guidance embedding, not classifier-free guidance
    dtype: str = "float32"  # of the frozen base
    text_encoders_on_cpu: bool = False  # frees 10 GB on the GPU of FLUX.1-dev; a prompt is encoded once and kept
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
        "proj_mlp", "single_transformer_blocks.*.proj_out",
    )  # fmt: skip
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if value % 16:
                raise ValueError(f"flux.{name} must be a multiple of 16 (VAE 8 x packing 2), got {value}: round it")
        one_of("flux.dtype", self.dtype, ("float32", "bfloat16"))
        at_least("flux.max_sequence_length", self.max_sequence_length, 1)
        at_least("flux.lora_rank", self.lora_rank, 1)
        at_least("flux.lora_alpha", self.lora_alpha, 1)


@dataclass(frozen=True)
class PretrainSettings:
    """`spatialt2i scenes pretrain`: how the shipped tiny checkpoints are made."""

    out: str = "runs/pretrain"
    minutes: float = 90.0  # wall clock for all parts on two cores; divided among them by fixed shares
    seed: int = 0
    workers: int = 2  # data-parallel processes of one thread each
    compile: bool = True  # torch.compile FLUX: needs a C++ compiler and a minute, then a step takes two thirds
    wrong_captions: float = 0.2  # share of captions with a wrong relation, in FLUX's last phase only

    def __post_init__(self) -> None:
        at_least("pretrain.minutes", self.minutes, 0.1)
        at_least("pretrain.workers", self.workers, 1)
        between("pretrain.wrong_captions", self.wrong_captions, 0.0, 1.0)


@dataclass(frozen=True)
class PreferencesSettings:
    """Stage 1: how many pairs, of which kinds, and where they go."""

    pairs: int = 6000  # rows to write
    seed: int = 0
    shard_rows: int = 250  # rows of a parquet file
    test_fraction: float = 0.1  # share of prompt groups kept for the `test` split
    perturb_one: float = 0.5  # share of perturbed pairs with exactly one changed relation; the others have 2 or 3
    exploit_fraction: float = 0.25  # pairs whose loser has a missing, doubled or recoloured object
    generated_fraction: float = 0.3  # pairs drawn by the base policy and labelled by the checker
    batch_size: int = 50  # pairs a painter draws at once
    painters: int = 2  # actors that hold the base policy and draw generated pairs
    painter_threads: int = 1
    painter_cpus: float = 0.1  # Ray CPUs such an actor reserves; threads, not this, decide what it uses
    painter_gpus: float = 0.0  # Ray GPUs such an actor reserves

    def __post_init__(self) -> None:
        at_least("preferences.pairs", self.pairs, 10)
        at_least("preferences.shard_rows", self.shard_rows, 1)
        at_least("preferences.batch_size", self.batch_size, 1)
        at_least("preferences.painters", self.painters, 1)
        at_least("preferences.painter_threads", self.painter_threads, 1)
        for name in ("test_fraction", "perturb_one", "exploit_fraction", "generated_fraction"):
            between(f"preferences.{name}", getattr(self, name), 0.0, 1.0)
        if self.exploit_fraction + self.generated_fraction > 1.0:
            raise ValueError(
                "preferences.exploit_fraction + preferences.generated_fraction must be at most 1, got "
                f"{self.exploit_fraction} + {self.generated_fraction}: lower one of them"
            )


@dataclass(frozen=True)
class SpatialScoreSettings:
    """The reward model: backbone, LoRA, head."""

    model: str = EMBEDDED  # "embedded", a directory in transformers format, or a hub id
    dtype: str = "float32"  # of the backbone; the head is always float32
    attention: str = "sdpa"  # sdpa | flash_attention_2 | eager
    pixels: int = 4096  # an image is resized to about this many pixels
    instruction: str = "{prompt}"  # the question put to the backbone; {prompt} marks the user's text
    lora_rank: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.0
    head_width: int = 96  # hidden width of the MLP head
    log_sigma_min: float = -5.0
    log_sigma_max: float = 3.0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        one_of("spatialscore.dtype", self.dtype, ("float32", "bfloat16"))
        one_of("spatialscore.attention", self.attention, ("sdpa", "flash_attention_2", "eager"))
        at_least("spatialscore.pixels", self.pixels, 64)
        if self.instruction.count("{prompt}") != 1:
            raise ValueError(f"spatialscore.instruction must contain {{prompt}} once, got {self.instruction!r}")
        at_least("spatialscore.lora_rank", self.lora_rank, 1)
        at_least("spatialscore.head_width", self.head_width, 1)
        between("spatialscore.lora_dropout", self.lora_dropout, 0.0, 0.9)
        if self.log_sigma_min >= self.log_sigma_max:
            raise ValueError(
                "spatialscore.log_sigma_min must be below spatialscore.log_sigma_max, got "
                f"{self.log_sigma_min} and {self.log_sigma_max}"
            )


@dataclass(frozen=True)
class RewardSettings:
    """Stage 2: fitting SpatialScore on preference pairs."""

    loss: str = "bt"  # bt | sampled | marginal | probit
    sigma_draws: int = 100  # draws of s ~ N(mu, sigma^2) for the loss `sampled`
    batch_size: int = 64  # pairs an optimizer step, over all workers
    epochs: int = 5
    lr: float = 3e-3
    warmup_fraction: float = 0.05
    final_lr_fraction: float = 0.05  # cosine decay down to this share of lr
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    both_prompts: bool = True  # also ask that image_l beats image_w under the perturbed prompt, where there is one
    mirror: bool = True  # half of the pairs are mirrored, with left and right exchanged in the text
    workers: int = 2
    threads_per_worker: int = 1
    cpus_per_worker: float = 0.5  # Ray CPUs a worker reserves; Ray Data reads with those that are left
    use_gpu: bool = False
    engine: str = "torch"  # torch (DDP) | deepspeed (ZeRO)
    zero_stage: int = 2  # of the engine `deepspeed`: 1 or 2, as the frozen backbone is not sharded
    shuffle_rows: int = 1024  # rows of the buffer that each worker draws its batches from
    checkpoint_every: int = 50  # optimizer steps; an epoch's end is always one
    max_failures: int = 2  # restarts of a failed worker group
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("reward.loss", self.loss, ("bt", "sampled", "marginal", "probit"))
        one_of("reward.engine", self.engine, ("torch", "deepspeed"))
        one_of("reward.zero_stage", self.zero_stage, (1, 2))
        for name in ("sigma_draws", "batch_size", "epochs", "workers", "threads_per_worker", "shuffle_rows",
                     "checkpoint_every"):  # fmt: skip
            at_least(f"reward.{name}", getattr(self, name), 1)
        if self.batch_size % self.workers:
            raise ValueError(
                f"reward.batch_size must divide by reward.workers, got {self.batch_size} and {self.workers}: "
                f"use {self.batch_size - self.batch_size % self.workers or self.workers}"
            )
        if not 0.0 < self.lr < 1.0:
            raise ValueError(f"reward.lr must lie in (0, 1), got {self.lr}")


@dataclass(frozen=True)
class RewardPoolSettings:
    """The elastic pool of SpatialScore replicas (Ray Serve)."""

    model: str = ""  # SpatialScore directory; empty: what stage 2 of the same run wrote
    min_replicas: int = 1
    max_replicas: int = 2
    target_ongoing_requests: float = 4.0  # queued and running calls per replica that the autoscaler aims at
    max_ongoing_requests: int = 16
    batch_images: int = 48  # images in one forward
    batch_wait_s: float = 0.005  # how long a replica waits for more calls to batch
    threads: int = 1
    cpus: float = 0.1  # Ray CPUs a replica reserves
    gpus: float = 0.0  # Ray GPUs a replica reserves
    retries: int = 8  # of a scoring call whose replica died, with backoff
    upscale_delay_s: float = 5.0  # how long the load must last before replicas are added
    downscale_delay_s: float = 60.0  # and before they are taken away
    http: bool = False  # also answer POST /score
    host: str = "127.0.0.1"  # HTTP: 0.0.0.0 to answer other machines
    port: int = 8000  # HTTP

    def __post_init__(self) -> None:
        at_least("pool.min_replicas", self.min_replicas, 1)
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"pool.max_replicas must be at least pool.min_replicas, got {self.max_replicas} < {self.min_replicas}"
            )
        at_least("pool.batch_images", self.batch_images, 1)
        at_least("pool.retries", self.retries, 0)


@dataclass(frozen=True)
class RewardMixSettings:
    """What the policy is rewarded for: a sum with these weights. A weight of 0 leaves that reward out."""

    spatialscore: float = 1.0  # mu of the run's SpatialScore
    rules: float = 0.0  # `scenes` only: share of objects and relations that the exact checker sees, 0 to 1
    judge: float = 0.0  # grade of a vision-language model, 0 to 10: section `judge`

    def __post_init__(self) -> None:
        if not any((self.spatialscore, self.rules, self.judge)):
            raise ValueError("mix needs a reward whose weight is not 0, e.g. mix.spatialscore=1")


@dataclass(frozen=True)
class JudgeSettings:
    """A vision-language model behind an OpenAI-compatible endpoint."""

    url: str = "https://api.openai.com/v1"
    model: str = "gpt-5"
    key_variable: str = "OPENAI_API_KEY"  # name of the driver's environment variable that holds the key
    concurrency: int = 8  # questions under way at once
    retries: int = 5  # of a question, with the client's own backoff

    def __post_init__(self) -> None:
        at_least("judge.concurrency", self.concurrency, 1)
        at_least("judge.retries", self.retries, 0)


@dataclass(frozen=True)
class PolicySettings:
    """Stage 3: top-k GRPO on FLUX. Axes: P prompts, G group, T denoise steps, K trained steps."""

    iterations: int = 48  # policy versions to publish
    minutes: float = 5.0  # stop after this training time as well; 0: no limit
    seed: int = 0
    prompts_per_step: int = 12  # P
    group_size: int = 24  # G
    top_k: int = 6  # the best k and the worst k of a group are trained on; 0: the whole group
    stats_over: str = "selected"  # advantages' mean and std over: selected | group
    advantage_clip: float = 5.0
    steps: int = 6  # T, while sampling for training
    noise_level: float = 0.7  # a
    transition: str = "flow_sde"  # flow_sde | cps
    last_step_deterministic: bool = True
    trained_steps: int = 3  # K: the first K noisy steps are trained; 0: all that draw noise
    window: int = 0  # draw noise on, and train, a window of this many steps, the others are ODE steps; 0: no window
    window_position: str = "first"  # first | sliding (MixGRPO) | random (Flow-GRPO-Fast)
    window_every: int = 25  # iterations after which a sliding window moves on by one step
    lr: float = 2e-3
    final_lr_fraction: float = 0.1  # linear decay over `iterations` down to this share
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip_range: float = 1e-4  # on the ratio of mean log-probs
    ratio: str = "plain"  # plain | guard (GRPO-Guard: normalised over the steps; needs a smaller clip_range, e.g. 2e-6)
    kl_weight: float = 0.0
    kl_form: str = "flow_grpo"  # flow_grpo | gaussian | velocity
    max_grad_norm: float = 1.0
    updates_per_iteration: int = 2  # optimizer steps an iteration; divides prompts_per_step
    sampling_rows: int = 0  # images in one forward while sampling; 0: the whole group
    replay_rows: int = 36  # (sample, step) rows in one forward of the learner; 0: the sampler's own batch shape
    ema_decay: float = 0.9
    max_staleness: int = 0  # 0: synchronous; 1: sampling overlaps learning
    ratio_tolerance: float = 2e-5  # on-policy gate: |ratio - 1| allowed before the first update
    long_fraction: float = 0.5  # `scenes`: share of prompts with two or more relations
    prompts: str = ""  # JSON lines of prompts ({"text": …}); empty: the scene grammar of the embedded model
    held_out_prompts: str = ""  # the same for evaluation during training; empty: the scene grammar's, or none
    rollout_actors: int = 2
    rollout_threads: int = 1
    rollout_cpus: float = 0.1  # Ray CPUs an actor reserves; threads, not this, decide what it uses
    rollout_gpus: float = 0.0
    learner_ranks: int = 1
    learner_threads: int = 2
    learner_cpus: float = 0.1
    learner_gpus: float = 0.0
    engine: str = "torch"  # torch | deepspeed; more than one rank needs deepspeed
    zero_stage: int = 2
    evaluate_every: int = 10  # iterations between held-out evaluations during training; 0: never
    evaluate_prompts: int = 96  # held-out prompts of such an evaluation, half of them long; one image each
    checkpoint_every: int = 5  # iterations
    checkpoint_dir: str = ""  # any path or URI that pyarrow.fs knows; empty: <run_dir>/policy/checkpoints
    keep_checkpoints: int = 3
    max_idle_updates: int = 10  # in a row that may change nothing (no gradient, or none that is finite)
    redraws: int = 2  # times that a group without spread is replaced by one of another prompt
    resume: str = "auto"  # auto | never

    def __post_init__(self) -> None:
        one_of("policy.transition", self.transition, ("flow_sde", "cps"))
        one_of("policy.stats_over", self.stats_over, ("selected", "group"))
        one_of("policy.kl_form", self.kl_form, ("flow_grpo", "gaussian", "velocity"))
        one_of("policy.engine", self.engine, ("torch", "deepspeed"))
        one_of("policy.window_position", self.window_position, ("first", "sliding", "random"))
        one_of("policy.ratio", self.ratio, ("plain", "guard"))
        one_of("policy.resume", self.resume, ("auto", "never"))
        one_of("policy.zero_stage", self.zero_stage, (1, 2))
        for name in ("iterations", "prompts_per_step", "steps", "updates_per_iteration", "rollout_actors",
                     "rollout_threads", "learner_ranks", "learner_threads", "checkpoint_every",
                     "keep_checkpoints", "window_every", "max_idle_updates"):  # fmt: skip
            at_least(f"policy.{name}", getattr(self, name), 1)
        for name in ("sampling_rows", "replay_rows", "evaluate_every", "evaluate_prompts", "redraws"):
            at_least(f"policy.{name}", getattr(self, name), 0)
        at_least("policy.group_size", self.group_size, 2)
        at_least("policy.max_staleness", self.max_staleness, 0)
        between("policy.long_fraction", self.long_fraction, 0.0, 1.0)
        between("policy.ema_decay", self.ema_decay, 0.0, 1.0)
        if self.noise_level <= 0:
            raise ValueError(
                f"policy.noise_level must be above 0, got {self.noise_level}: without noise every image of a group "
                "is a function of its first latent only and no log-probability exists"
            )
        if self.top_k < 0 or 2 * self.top_k > self.group_size:
            raise ValueError(
                f"policy.top_k must lie between 0 and half of policy.group_size, got {self.top_k} of "
                f"{self.group_size}: lower top_k or enlarge the group"
            )
        noisy = self.steps - 1 if self.last_step_deterministic or self.transition == "cps" else self.steps
        if not 0 <= self.trained_steps <= noisy:
            raise ValueError(
                f"policy.trained_steps must lie between 0 and the {noisy} noisy steps, got {self.trained_steps}"
            )
        if not 0 <= self.window <= noisy:
            raise ValueError(f"policy.window must lie between 0 and the {noisy} noisy steps, got {self.window}")
        if self.ratio == "guard" and self.transition != "flow_sde":
            raise ValueError(f"policy.ratio=guard needs policy.transition=flow_sde, got {self.transition}")
        if self.transition == "cps" and self.noise_level > 1:
            raise ValueError(f"policy.noise_level must be at most 1 with transition cps, got {self.noise_level}")
        if self.prompts_per_step % (self.updates_per_iteration * self.learner_ranks):
            raise ValueError(
                "policy.prompts_per_step must divide by policy.updates_per_iteration x policy.learner_ranks, got "
                f"{self.prompts_per_step} and {self.updates_per_iteration} x {self.learner_ranks}"
            )
        if self.learner_ranks > 1 and self.engine != "deepspeed":
            raise ValueError(
                f"policy.learner_ranks={self.learner_ranks} needs policy.engine=deepspeed, got {self.engine}"
            )


@dataclass(frozen=True)
class EvaluationSettings:
    """Stage 4: held-out prompts, drawn before and after, judged by SpatialScore and by the exact checker."""

    short_prompts: int = 120  # the scene grammar holds out about 150
    long_prompts: int = 160
    images_per_prompt: int = 2
    steps: int = 6  # denoise steps; 28 for FLUX.1-dev
    seed: int = 1000
    batch_prompts: int = 12
    use_ema: bool = True

    def __post_init__(self) -> None:
        for name in ("images_per_prompt", "steps", "batch_prompts"):
            at_least(f"evaluation.{name}", getattr(self, name), 1)
        for name in ("short_prompts", "long_prompts"):
            at_least(f"evaluation.{name}", getattr(self, name), 0)


@dataclass(frozen=True)
class SampleSettings:
    """`policy sample`: one text, drawn by base and tuned policy."""

    text: str = ""  # on the command line, words in quotes are this
    images: int = 4
    seed: int = 0
    out: str = ""  # PNG file; empty: <run_dir>/samples/<text>.png

    def __post_init__(self) -> None:
        at_least("sample.images", self.images, 1)


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
    spatialscore: SpatialScoreSettings = field(default_factory=SpatialScoreSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    pool: RewardPoolSettings = field(default_factory=RewardPoolSettings)
    mix: RewardMixSettings = field(default_factory=RewardMixSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)
