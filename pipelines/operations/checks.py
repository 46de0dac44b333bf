"""What each command needs, checked before it starts: files, earlier stages, models, keys, ports and the cluster.

The command line calls a command's check before it imports the command, so that a mistake is answered in a second. No
module that is imported here imports torch or Ray. Every function takes the settings and raises UserError.
"""

from __future__ import annotations

from pathlib import Path

from conf import Settings, SettingsError, UserError
from conf.play import PlaySettings
from conf.rewards import KINDS_BY_RELATIONS
from conf.serving import ServingSettings
from pipelines.common.cluster_address import uses_private_cluster
from pipelines.common.disk_faults import require_writable
from pipelines.common.paths import run_paths, spatialscore_folder
from pipelines.common.ports import check_port
from pipelines.common.scenes_only import check_ablation, check_generated_pairs, check_rules_reward
from pipelines.common.trackers import check_trackers
from pipelines.operations.needs import (
    require_cluster,
    require_key,
    require_model,
    require_own_policy,
    require_rewards,
    require_run_folder,
)
from pipelines.operations.sent_folder import check_folder


def whole_run(settings: Settings) -> None:
    """`run` and `demo`: what every stage reads from outside the run."""
    from pipelines.common.prompts import check_prompts

    check_prompts(settings)
    check_trackers(settings)
    _preferences_services(settings)
    _policy_models(settings)
    _resume_and_start(settings)
    _spatialscore_backbone(settings)
    _baselines(settings)
    if settings.benchmark.in_run:
        from pipelines.operations import benchmark_checks

        benchmark_checks.services(settings)
    require_run_folder(settings)
    require_cluster(settings)


def build_preferences(settings: Settings) -> None:
    """`preferences build`: a cluster, models, and keys of services."""
    _preferences_services(settings)
    require_run_folder(settings)
    require_cluster(settings)


def pairs(settings: Settings) -> None:
    """Commands that only need the pairs of the run."""
    from pipelines.preferences.review.pairs import pair_files

    pair_files(run_paths(settings).preferences)


def review(settings: Settings) -> None:
    """`preferences review`: pairs, and a free port."""
    pairs(settings)
    check_port("review", settings.review.host, settings.review.port)


def triage(settings: Settings) -> None:
    """`preferences triage`: pairs, and a SpatialScore or the key of the judge."""
    pairs(settings)
    if settings.review.triage == "judge":
        require_key(settings.judge)
    else:
        spatialscore(settings)


def train_reward(settings: Settings) -> None:
    """`reward train`: a cluster, pairs, the backbone, and what the baselines need."""
    check_trackers(settings)
    _baselines(settings)
    _reward_pairs(settings)
    _spatialscore_backbone(settings)
    require_run_folder(settings)
    require_cluster(settings)


def evaluate_reward(settings: Settings) -> None:
    """`reward evaluate`: what `reward check` needs, and what the baselines need."""
    check_reward(settings)
    _baselines(settings)


def check_reward(settings: Settings) -> None:
    """`reward check`: a cluster, a SpatialScore, and pairs."""
    spatialscore(settings)
    _reward_pairs(settings)
    require_run_folder(settings)
    require_cluster(settings)


def score(settings: Settings) -> None:
    """`reward score`: a cluster, a SpatialScore, a file of prompts, a folder of images, and one for the scores."""
    from pipelines.reward.score_input import image_folder, read_requests

    spatialscore(settings)
    read_requests(settings.score.prompts)
    image_folder(settings.score.images)
    if "://" not in settings.score.out:
        require_writable(Path(settings.score.out).parent, "the folder of score.out")
    require_cluster(settings)


def serve(settings: Settings) -> None:
    """`reward serve`: a cluster, a SpatialScore, a free port, and the token if one is asked for."""
    spatialscore(settings)
    _served(settings, settings.serving, "the token that callers of SpatialScore must send")


def merge(settings: Settings) -> None:
    """`reward merge`: a SpatialScore, and a folder for the result."""
    spatialscore(settings)
    require_run_folder(settings)


def spatialscore(settings: Settings) -> None:
    """Refuses a SpatialScore that is absent."""
    from pipelines.reward.served_model import served_model

    served_model(settings)


def train_policy(settings: Settings) -> None:
    """`policy train`: a cluster, prompts, models, and rewards that may train a policy."""
    from pipelines.common.prompts import check_prompts

    _checked_spatialscore(settings)
    check_prompts(settings)
    check_trackers(settings)
    _policy_models(settings)
    _resume_and_start(settings)
    require_run_folder(settings)
    require_cluster(settings)


def sample(settings: Settings) -> None:
    """`policy sample`: a text, and a trained policy."""
    from actors.reward_input import InputError, check_prompt
    from pipelines.policy.sample_texts import check_texts

    for text in check_texts(settings):
        try:
            check_prompt(text)
        except InputError as error:
            raise SettingsError(f"sample.text: {error}") from error
    trained_policy(settings)
    require_model(settings, "flux.model", settings.flux.model, "model_index.json")


def play(settings: Settings) -> None:
    """`play`: a cluster, a trained policy, its base, rewards, a free port, and the token if one is asked for."""
    trained_policy(settings)
    if spatialscore_folder(settings).is_dir():
        spatialscore(settings)
    require_rewards(settings, without=KINDS_BY_RELATIONS)  # the page does not show them
    require_model(settings, "flux.model", settings.flux.model, "model_index.json")
    _served(settings, settings.play, "the token of play")


def trained_policy(settings: Settings) -> None:
    """Commands that need a trained policy of the run's settings: checkpoints or an export of the version asked for."""
    from actors.files import list_folder
    from pipelines.policy.versions import choose_version

    paths = run_paths(settings)
    location = settings.policy.checkpoint.dir or str(paths.checkpoints)
    if not paths.export.is_dir() and not list_folder(location):
        raise UserError(f"no trained policy in {paths.policy}: run `spatialt2i policy train` first")
    choose_version(settings)
    require_own_policy(settings)
    require_run_folder(settings)


def evaluate(settings: Settings) -> None:
    """`evaluate`: a cluster, a trained policy, a SpatialScore and the other rewards, and held-out prompts."""
    from pipelines.evaluation.cases import draw_cases

    trained_policy(settings)
    if not spatialscore_folder(settings).is_dir():
        spatialscore(settings)
    draw_cases(settings)
    _policy_models(settings)
    require_cluster(settings)


def ablation(settings: Settings) -> None:
    """`ablation`: a cluster, the scenes world, and rewards that may train a policy."""
    check_ablation(settings)
    check_trackers(settings)
    _checked_spatialscore(settings)
    require_run_folder(settings)
    require_cluster(settings)


def submit(settings: Settings) -> None:
    """`submit`: the folder that is sent to the cluster, and the certificates."""
    options = settings.submit
    check_folder(options.working_dir)
    if options.verify.lower() not in ("true", "false") and not Path(options.verify).exists():
        raise SettingsError(f"submit.verify must be true, false, or a file or folder that exists, got {options.verify}")


def _resume_and_start(settings: Settings) -> None:
    """Refuses changes that a resumed run cannot make, and a start that does not fit a run that begins.

    The command compares inputs and shapes too, which may take longer to read.
    """
    from pipelines.policy.checkpoint import run_checkpoints
    from pipelines.policy.resume import check_settings_resumable
    from pipelines.policy.start_source import check_start

    newest = next(run_checkpoints(settings).manifests(), None)
    if newest and settings.policy.resume != "never":
        check_settings_resumable(newest, settings)
    check_start(settings)


def _served(settings: Settings, section: ServingSettings | PlaySettings, token: str) -> None:
    """What Ray Serve needs to answer HTTP: the token, if there is one, a free port, and a cluster."""
    from actors.services.keys import key_in

    if section.token_variable:
        key_in(section.token_variable, token)
    if uses_private_cluster(settings):
        check_port(section.section, section.host, section.port)
    require_cluster(settings)


def _checked_spatialscore(settings: Settings) -> None:
    """Refuses a SpatialScore that is absent or may not train a policy, if it is a reward of the run."""
    from pipelines.reward.sanity_report import require_passed

    if settings.uses_reward("spatialscore"):
        spatialscore(settings)
        require_passed(settings)


def _reward_pairs(settings: Settings) -> None:
    """The pairs of stage 2: of the run, or of a published version, which may be at a URI."""
    from actors.files import list_folder
    from pipelines.reward.locations import pair_source

    source = pair_source(settings)
    for folder in source.folders:
        if not any(name.endswith(".parquet") for name in list_folder(folder)):
            build = "" if settings.reward.pairs else "run `spatialt2i preferences build` first, or set reward.pairs"
            raise UserError(f"no preference pairs at {folder}: {build or 'correct reward.pairs'}")
    source.require_verified()


def _preferences_services(settings: Settings) -> None:
    from pipelines.preferences.dataset.splits import check_benchmark

    cfg, weights = settings.preferences, settings.preferences.generators
    check_generated_pairs(settings)
    check_benchmark(cfg, settings.publish)
    for used, endpoint in (
        (cfg.writer == "chat", settings.writer),
        (cfg.perturber == "chat", settings.perturber),
        (weights.seedream > 0, settings.seedream),
        (cfg.image_check == "judge", settings.claim_judge),
    ):
        if used:
            require_key(endpoint)
    qwen, edited = settings.qwen_image, weights.qwen_image and settings.qwen_image.edit_losers
    for used, setting, model in (
        (weights.qwen_image, "qwen_image.model", qwen.model),
        (weights.hunyuan_image, "hunyuan_image.model", settings.hunyuan_image.model),
        (edited, "qwen_image.edit_model", qwen.edit_model),
    ):
        if used:
            require_model(settings, setting, model, "model_index.json")


def _policy_models(settings: Settings) -> None:
    require_model(settings, "flux.model", settings.flux.model, "model_index.json")
    require_rewards(settings)
    check_rules_reward(settings)


def _spatialscore_backbone(settings: Settings) -> None:
    require_model(settings, "spatialscore.model", settings.spatialscore.model, "config.json")


def _baselines(settings: Settings) -> None:
    from pipelines.reward.baselines.requirements import require_baselines

    require_baselines(settings.baselines.names, settings)
