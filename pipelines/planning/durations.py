"""Seconds of each call that a run of stage 3 makes, on one type of GPU: predicted, or measured where a file says so.

`durations` is a pure function. The planner's timeline and the simulation of the driver both use it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

from actors.policy.plan import SamplingPlan
from conf import Settings
from conf.flux import FluxSettings
from conf.policy import PolicySettings
from conf.reward import SpatialScoreSettings
from pipelines.planning.architectures import policy_architecture, score_architecture
from pipelines.planning.calibration import Calibration
from pipelines.planning.gpus import MATMUL_EFFICIENCY, GpuType
from pipelines.planning.policy_work import PolicyWork, count_policy
from pipelines.planning.reward_work import ScoreWork, count_score
from pipelines.planning.work import Program

NETWORK_BYTES_S = 25e9
"""Between two GPUs of an all-reduce, in bytes a second: one 200 Gbit/s port."""
HOST_BYTES_S = 2e9
"""Through a process into Ray's object store, or onto a disk, in bytes a second."""
START_S = 30.0
"""Seconds of a process until it loads weights: interpreter, libraries, CUDA context."""
ADAMW_BYTES = 28
"""Bytes that AdamW reads and writes for each parameter in float32."""


@dataclass(frozen=True)
class RoleSeconds:
    """Seconds of each kind of call, and the number of images or rows in it."""

    chunk_images: int
    """Images of one sampling call: `policy.sampling.batch`, or the group."""
    sample_chunk: float
    """All denoise steps of one chunk, on one GPU."""
    decode_chunk: float
    """Decoding the images of one chunk."""
    encode_prompt: float
    """The text encoders, once a prompt and worker."""
    score_group: float
    """Scoring the images of a whole group on one GPU."""
    chunk_rows: int
    """Rows, i.e. (image, denoise step) pairs, of one pass of the learner."""
    rows_per_image: int
    """Trained denoise steps K of an image."""
    accumulate_chunk: float
    """Forward pass, backward pass and reference of `chunk_rows` rows, on one GPU."""
    optimizer_step: float
    """AdamW, with the all-reduce of the gradient over the ranks."""
    publish: float
    """The LoRA into the object store and from there to a rollout actor."""
    checkpoint: float
    """Writing a checkpoint, which happens in the background."""
    evaluate_chunk: float
    """Sampling and decoding one chunk of held-out prompts."""
    start_rollout: float
    """Start of a rollout actor until it is ready, with the weights in the page cache or on a fast disk."""
    start_learner: float
    """The same of a learner rank."""
    calibrated: bool
    """Whether a measurement replaced predictions."""


def durations(settings: Settings, gpu: GpuType, calibration: Calibration | None = None) -> RoleSeconds:
    """The seconds of each call. Raises UserError for a model whose configuration is not known."""
    policy, flux = settings.policy, settings.flux
    images, rows = chunk_images(policy), chunk_rows(policy)
    work = policy_work(flux)
    plan = SamplingPlan.for_training(policy)
    forward, replay = work.forward.seconds(gpu, images), learning_program(settings, work).seconds(gpu, rows)
    decode, score = work.decoding.seconds(gpu, 1), _score_image(settings, gpu)
    if calibration:
        forward = calibration.forward_seconds * images / calibration.batch
        replay = calibration.replay_seconds * rows / calibration.batch
        decode, score = calibration.decode_seconds or decode, calibration.score_seconds or score
    lora_bytes = 4 * work.lora_parameters
    ranks = policy.learner.ranks
    weights = 2 if flux.dtype == "bfloat16" else 4
    transformer_bytes = weights * work.transformer_parameters
    return RoleSeconds(
        chunk_images=images,
        sample_chunk=forward * _sampling_passes(policy, plan, images),
        decode_chunk=decode * images,
        encode_prompt=2 * work.encoder_parameters * work.text_tokens / (gpu.bf16_tflops * 1e12 * MATMUL_EFFICIENCY),
        score_group=score * policy.group_size,
        chunk_rows=rows,
        rows_per_image=len(plan.train_steps),
        accumulate_chunk=replay,
        optimizer_step=ADAMW_BYTES * work.lora_parameters / (gpu.bandwidth_tb_s * 1e12)
        + (2 * lora_bytes * (ranks - 1) / ranks / NETWORK_BYTES_S),
        publish=2 * lora_bytes / HOST_BYTES_S,
        checkpoint=4 * lora_bytes / HOST_BYTES_S,
        evaluate_chunk=forward * settings.evaluation.denoise_steps + decode * images,
        start_rollout=START_S + (transformer_bytes + weights * work.encoder_parameters) / HOST_BYTES_S,
        start_learner=START_S + transformer_bytes / HOST_BYTES_S,
        calibrated=calibration is not None,
    )


def chunk_images(policy: PolicySettings) -> int:
    """Images in one forward pass of the sampler."""
    return policy.sampling.batch or policy.group_size


def chunk_rows(policy: PolicySettings) -> int:
    """Rows in one forward pass of the learner."""
    return policy.learner.replay_batch or chunk_images(policy)


def kept_images(policy: PolicySettings) -> int:
    """Images of a group that are trained on."""
    return 2 * policy.algorithm.top_k or policy.group_size


def _sampling_passes(policy: PolicySettings, plan: SamplingPlan, images: int) -> float:
    """Forward passes of a chunk, in passes of all its rows. What a group shares is computed once, for one row."""
    if plan.images_per_noise == 1 or not plan.noise_steps:
        return plan.denoise_steps
    shared = plan.noise_steps[0] + 1
    chunks = ceil(policy.group_size / images)
    return plan.denoise_steps - shared + shared / images / chunks


def _score_image(settings: Settings, gpu: GpuType) -> float:
    """Seconds of one image, in forward passes of `serving.batch_images`. Rewards without a GPU take no GPU time."""
    if not settings.trains_on("spatialscore"):
        return 0.0
    rows = min(settings.serving.batch_images, settings.policy.group_size)
    return score_work(settings.spatialscore).scoring.seconds(gpu, rows) / rows


def learning_program(settings: Settings, work: PolicyWork) -> Program:
    """A pass of the learner: forward and backward, and the forward passes that the settings add to it."""
    algorithm = settings.policy.algorithm
    program = work.training_with(settings.flux.checkpoint_every)
    if algorithm.kl_weight:
        program += work.base_forward
    if algorithm.objective == "nft":  # the velocity of the sampling policy
        program += work.forward
    elif algorithm.old_log_probs == "learner":  # at all optimizer steps of an iteration but the first
        program += work.forward * (1 - 1 / settings.policy.optimizer.steps_per_iteration)
    return program


def policy_work(flux: FluxSettings) -> PolicyWork:
    """`count_policy` of the settings, counted once. Raises UserError for a model that is not known."""
    return _policy_work(replace(flux, checkpoint_every=0, vae_decoding="batch", text_encoders_on_cpu=False))


@lru_cache(maxsize=32)
def _policy_work(flux: FluxSettings) -> PolicyWork:
    return count_policy(policy_architecture(flux.model), flux)


@lru_cache(maxsize=32)
def score_work(settings: SpatialScoreSettings) -> ScoreWork:
    """`count_score` of the settings, counted once. Raises UserError for a model that is not known."""
    return count_score(score_architecture(settings.model), settings)
