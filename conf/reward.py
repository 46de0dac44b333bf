"""Stage 2: the reward model, how it is fitted, and the pool that serves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from conf.flux import EMBEDDED
from conf.rules import above, at_least, between, gpus, one_of


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

    pairs: str = ""  # a published version to learn from and be measured on; empty: <run_dir>/preferences
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
    min_workers: int = 0  # elastic: start and go on with as few as these while no more are to be had; 0: all or none
    threads_per_worker: int = 1
    cpus_per_worker: float = 0.5  # Ray CPUs a worker reserves; Ray Data reads with those that are left
    use_gpu: bool = False
    engine: str = "torch"  # torch (DDP) | deepspeed (ZeRO)
    zero_stage: int = 2  # of the engine `deepspeed`: 1, 2, or 3, which shards the frozen backbone too
    zero_keep_whole: int = 100_000  # ZeRO-3 does not shard parameters with fewer elements than this
    shuffle_rows: int = 8192  # rows that are read and shuffled together; whole files, so that the rest is streamed
    log_every: int = 10  # optimizer steps between reports
    peak_tflops: float = 0.0  # of a worker's device, for the MFU; 0: measured with a matrix product at the start
    checkpoint_every: int = 50  # optimizer steps; an epoch's end is always one
    max_failures: int = 2  # restarts of a failed worker group
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("reward.loss", self.loss, ("bt", "sampled", "marginal", "probit"))
        one_of("reward.engine", self.engine, ("torch", "deepspeed"))
        one_of("reward.zero_stage", self.zero_stage, (1, 2, 3))
        at_least("reward.zero_keep_whole", self.zero_keep_whole, 0)
        for name in ("sigma_draws", "batch_size", "epochs", "workers", "threads_per_worker", "shuffle_rows",
                     "log_every", "checkpoint_every"):  # fmt: skip
            at_least(f"reward.{name}", getattr(self, name), 1)
        for name in ("cpus_per_worker", "weight_decay"):
            at_least(f"reward.{name}", getattr(self, name), 0.0)
        above("reward.max_grad_norm", self.max_grad_norm, 0)
        if self.batch_size < self.workers:
            raise ValueError(
                f"reward.batch_size must be at least reward.workers, got {self.batch_size} < {self.workers}: raise it"
            )
        if not 0 <= self.min_workers <= self.workers:
            raise ValueError(
                f"reward.min_workers must lie in [0, reward.workers = {self.workers}], got {self.min_workers}"
            )
        if not 0.0 < self.lr < 1.0:
            raise ValueError(f"reward.lr must lie in (0, 1), got {self.lr}")


@dataclass(frozen=True)
class ScoreSettings:
    """`reward score`: a folder of images under their prompts, by as many actors as the pool's settings say."""

    prompts: str = ""  # path or URI of JSON lines {"image": name inside the folder, "prompt": text}
    images: str = ""  # folder or URI of the images
    out: str = "scores.parquet"  # path or URI
    chunk_rows: int = 512  # rows that are saved together: what an interruption can lose

    def __post_init__(self) -> None:
        at_least("score.chunk_rows", self.chunk_rows, 1)
        if not self.out.endswith(".parquet"):
            raise ValueError(f"score.out must end in .parquet, got {self.out!r}")


@dataclass(frozen=True)
class RewardPoolSettings:
    """The elastic pool of SpatialScore replicas (Ray Serve)."""

    model: str = ""  # SpatialScore directory; empty: what stage 2 of the same run wrote
    unexamined: bool = False  # let a SpatialScore steer a policy that the doctor has not seen, or did not pass
    min_replicas: int = 1
    max_replicas: int = 2
    target_ongoing_requests: float = 4.0  # queued and running calls per replica that the autoscaler aims at
    max_ongoing_requests: int = 16
    batch_images: int = 48  # images in one forward
    batch_wait_s: float = 0.005  # how long a replica waits for more calls to batch
    threads: int = 1
    cpus: float = 0.1  # Ray CPUs a replica reserves
    gpus: float = 0.0  # Ray GPUs a replica reserves; a fraction shares a GPU with other roles
    nodes: str = ""  # node group (label ray.io/node-group, a KubeRay group's name) of the replicas; empty: any
    replicas_per_node: int = 0  # at most; 0: as many as fit
    runtime_env: dict[str, Any] = field(default_factory=dict)  # Ray's, of the replicas: pip, env_vars and so on
    retries: int = 8  # of a scoring call whose replica died, with backoff
    upscale_delay_s: float = 5.0  # how long the load must last before replicas are added
    downscale_delay_s: float = 60.0  # and before they are taken away
    http: bool = False  # also answer POST /score
    host: str = "127.0.0.1"  # HTTP: 0.0.0.0 to answer other machines
    port: int = 8000  # HTTP
    token_variable: str = ""  # HTTP: environment variable with the token that callers must bear; empty: none is asked
    max_queued_requests: int = 64  # HTTP: calls that may wait for a replica; more are answered 503

    def __post_init__(self) -> None:
        at_least("pool.min_replicas", self.min_replicas, 1)
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"pool.max_replicas must be at least pool.min_replicas, got {self.max_replicas} < {self.min_replicas}"
            )
        for name in ("batch_images", "threads", "max_ongoing_requests", "max_queued_requests"):
            at_least(f"pool.{name}", getattr(self, name), 1)
        for name in ("cpus", "replicas_per_node", "retries", "batch_wait_s", "upscale_delay_s", "downscale_delay_s"):
            at_least(f"pool.{name}", getattr(self, name), 0)
        gpus("pool.gpus", self.gpus)
        above("pool.target_ongoing_requests", self.target_ongoing_requests, 0)
        if not _is_loopback(self.host) and not self.token_variable:
            raise ValueError(
                f"pool.host={self.host} answers other machines, so callers must bear a token: set pool.token_variable "
                "to the name of an environment variable that holds one, or pool.host=127.0.0.1"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
