"""`spatialt2i play`: starts the page and what it needs on Ray Serve, and serves until it is interrupted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from actors.policy.plan import SamplingPlan
from actors.services.keys import key_in
from actors.workers.comparison import comparison_deployment
from actors.workers.reward import RewardPool, application_name
from actors.workers.reward_serving import health_application
from actors.workers.serve_http import start_serve_http
from actors.workers.serve_start import run_application
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.common import interrupt
from pipelines.common.cluster_address import uses_private_cluster
from pipelines.common.paths import RunPaths
from pipelines.common.progress_line import ProgressLine
from pipelines.common.prompts import draw_held_out_prompts
from pipelines.common.resources import ResourceRequest, check_requests
from pipelines.play.rewards import shown_rewards, start_shown
from pipelines.play.rules import PromptRules
from pipelines.policy.export import provide_export
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.versions import read_export_record
from pipelines.scenes.checker import can_check

_EXAMPLES = 2
"""Held-out prompts of each kind, short and long, that the page offers."""


@dataclass(frozen=True)
class RunningPlay:
    """The page and what it needs, on Ray Serve."""

    address: str
    """What a visitor opens."""
    applications: tuple[str, ...]
    rewards: tuple[RewardPool, ...]

    def stop(self) -> None:
        """Removes all from the cluster. Other Serve applications stay."""
        for application in self.applications:
            serve.delete(application)
        for pool in self.rewards:
            pool.stop()


def serve_play(settings: Settings) -> None:
    """Serves the page on `play.host`:`play.port` until it is interrupted. Ray must be initialized.

    Raises KeyboardInterrupt at the end, and what `start_play` raises.
    """
    with ProgressLine("play") as progress:
        progress.phase("loading the models")
        play = start_play(settings)
    interrupt.catch_sigterm_again()
    try:
        print(f"Open {play.address} in a browser; Ctrl-C ends it", flush=True)
        while True:
            time.sleep(1)
    finally:
        print("stopping", flush=True)  # Ray takes seconds to end its processes
        if not uses_private_cluster(settings):  # a private one ends with this process, and Serve with it
            play.stop()


def start_play(settings: Settings) -> RunningPlay:
    """Starts everything and waits until it answers.

    Raises UserError if the run has no trained policy, if the cluster cannot hold the models, or if Serve already runs
    without HTTP.
    """
    cfg, owner = settings.play, f"play {settings.run_dir}"
    token = key_in(cfg.token_variable, "the token of play") if cfg.token_variable else None
    check_requests(settings, actor_requests(settings))
    paths = provide_export(settings)
    start_serve_http(cfg.host, cfg.port, "play")
    from pipelines.play.app import PlayHttp  # importing it creates a deployment, which needs FastAPI

    sampler = comparison_deployment(
        flux_location(settings),
        str(paths.export),
        settings.flux,
        SamplingPlan.for_evaluation(settings.evaluation),
        settings.policy.samplers,
        cfg.replicas,
    )
    names = application_name("play", owner), application_name("health", owner)
    rewards = start_shown(settings, owner)
    try:
        page = PlayHttp.bind(sampler, rewards, cfg, PromptRules.of(settings), describe(settings, paths), token)
        run_application(health_application(), names[1], "/health")
        run_application(page, names[0], "/")
    except BaseException:  # also an interrupt: on a cluster that goes on, nothing may keep its GPUs
        RunningPlay("", names, tuple(rewards.values())).stop()
        raise
    suffix = f"#<the token in ${cfg.token_variable}>" if token else ""
    return RunningPlay(f"http://{cfg.host}:{cfg.port}/{suffix}", names, tuple(rewards.values()))


def actor_requests(settings: Settings) -> tuple[ResourceRequest, ...]:
    """What the copies of the policy and the rewards request."""
    place = settings.policy.samplers
    hint = "play.replicas, or the GPUs of policy.learner (policy.rollout with policy.placement=separate)"
    copies = ResourceRequest(
        "copies of the policy", settings.play.replicas, place.cpus, place.gpus, place.node_group, hint
    )
    return (copies, *shown_rewards(settings).values())


def describe(settings: Settings, paths: RunPaths) -> dict[str, Any]:
    """What the page says about the run: its name, the base, the policy version, sizes, rewards and examples."""
    record, flux = read_export_record(paths.export), settings.flux
    held_out = draw_held_out_prompts(settings.policy, flux, settings.evaluation.seed)
    scenes = flux.model == EMBEDDED
    return {
        "run": Path(settings.run_dir).name,
        "base": "the small FLUX of the scenes world" if scenes else flux.model,
        "version": record.policy_version if record else None,
        "width": flux.width,
        "height": flux.height,
        "denoise_steps": settings.evaluation.denoise_steps,
        "rewards": list(shown_rewards(settings)),
        "exact": can_check(flux),
        "examples": [prompt.text for prompt in (*held_out.short[:_EXAMPLES], *held_out.long[:_EXAMPLES])],
        "max_characters": settings.play.max_characters,
    }
