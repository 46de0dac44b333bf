"""The alert rules for Prometheus. Each has a sentence that says what happened and one that says what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster.alert import PROGRESS_TIME, Alert
from cluster.fault_alerts import fault_alerts
from cluster.panels import evaluation, policy
from conf import Settings
from pipelines.policy.resources import reward_requests
from pipelines.policy.watch import MAX_FALL, MAX_MISSING

START_LIMIT = 1800
"""Seconds that a driver may need for its first version: it loads models, evaluates the base and runs an iteration."""
LATE_SCORES = 0.25
"""Fraction of an iteration that the learner may wait for scores."""
MIN_FREE_DISK = 0.1
"""Free fraction of a disk below which an alert is raised."""

LOOK_AT_IMAGES = (
    "Look at the images in policy/images of the run directory. If they got worse, stop the run and use the best "
    "version: `spatialt2i policy export run_dir=... export.version=best`, or the number of an older one."
)
"""The first thing to do if a policy may have become worse."""


def alerts(settings: Settings) -> tuple[Alert, ...]:
    """All rules, with the limits of the preset."""
    return (
        *_progress_alerts(),
        *_policy_alerts(settings),
        _exploit_alert(),
        _missing_alert(),
        _reward_alert(settings),
        *_disk_alerts(),
        *fault_alerts(),
    )


def _progress_alerts() -> tuple[Alert, Alert]:
    """A rule for a driver before its first version, when the usual duration is unknown, and one for later."""
    age, usual = f"time() - {PROGRESS_TIME}", policy("iteration_seconds")
    see_log = "Read the end of the job's log (`ray job logs`): every 30 seconds it says what the run waits for."
    return (
        Alert(
            "NoFirstVersion",
            f"{age} > {START_LIMIT} unless {usual}",
            minutes=5,
            severity="critical",
            summary="{{ $labels.run }}: no policy version since the driver started "
            "{{ $value | humanizeDuration }} ago.",
            fix=f"{see_log} Add nodes, or lower the resources of the role that waits. If nothing waits, models are "
            "still being loaded or the first iteration is long: do nothing.",
        ),
        Alert(
            "NoProgress",
            f"{age} > 600 + 10 * {usual}",
            minutes=5,
            severity="critical",
            summary="{{ $labels.run }}: no policy version for {{ $value | humanizeDuration }}.",
            fix=f"{see_log} Add nodes, or stop the job and submit it again: it continues from its newest checkpoint.",
        ),
    )


def _exploit_alert() -> Alert:
    """A rule for a reward that rises while something that it does not see falls. See pipelines/policy/watch.py."""
    return Alert(
        "MeasureFell",
        f"{evaluation('measures', part='fall')} > {MAX_FALL:g}",
        minutes=5,
        severity="warning",
        summary="{{ $labels.run }}: the trained reward rises while {{ $labels.measure }} of held-out images falls, by "
        "{{ $value | humanize }} standard deviations of the base's images.",
        fix=f"{LOOK_AT_IMAGES} The policy may exploit its reward: see docs/reward_hacking.md.",
    )


def _missing_alert() -> Alert:
    """A rule for a watched reward that fails: it does not end the run, so somebody must hear of it."""
    return Alert(
        "ScoresMissing",
        f"{evaluation('measures', part='missing')} > on (run) group_left {MAX_MISSING:g} * {evaluation('images')}",
        minutes=5,
        severity="warning",
        summary="{{ $labels.run }}: {{ $labels.measure }} did not score {{ $value }} held-out images of the newest "
        "evaluation.",
        fix="The run goes on. The driver's log says why: look for `has no scores`. The evaluations after the cause is "
        "gone have scores again.",
    )


def _policy_alerts(settings: Settings) -> tuple[Alert, Alert, Alert]:
    """Rules about the mathematics of the training."""
    tolerance, prompts = settings.policy.algorithm.ratio_tolerance, settings.policy.prompts_per_iteration
    kl, std = policy("kl"), policy("reward_std")
    return (
        Alert(
            "RatioDrift",
            f"{policy('ratio_drift')} > {tolerance:g}",
            minutes=10,
            severity="warning",
            summary="{{ $labels.run }}: sampler and learner compute different log-probabilities. Before the first "
            "optimizer step, |ratio - 1| is up to {{ $value }}.",
            fix="Stop the run. Set policy.learner.replay_batch=0, so that the learner uses the sampler's batch shape, "
            "or flux.dtype=float32. See `Policy: the ratio` in docs/troubleshooting.md.",
        ),
        Alert(
            "KlRunaway",
            f"{kl} > 3 * max_over_time({kl}[1h] offset 15m) and {policy('iteration')} > 20",
            minutes=5,
            severity="warning",
            summary="{{ $labels.run }}: the KL to the base, {{ $value }}, is three times the largest value of the "
            "hour before.",
            fix=f"{LOOK_AT_IMAGES} Start the next run with a lower policy.optimizer.lr or a higher "
            "policy.algorithm.kl_weight.",
        ),
        Alert(
            "RewardSpreadLost",
            f"{policy('groups_skipped')} > {prompts / 2:g} or {std} < 0.1 * max_over_time({std}[6h])",
            minutes=10,
            severity="warning",
            summary="{{ $labels.run }}: scores within a group hardly differ any more, so little is learned.",
            fix="If the held-out reward is good, the run is finished: stop it. Otherwise use harder prompts, or raise "
            "policy.sampling.noise_level.",
        ),
    )


def _reward_alert(settings: Settings) -> Alert:
    late = f"{policy('wait_for_scores_seconds')} > {LATE_SCORES:g} * {policy('iteration_seconds')}"
    return Alert(
        "RewardPoolSaturated",
        f"{late} and {policy('reward_replicas')} >= {max_reward_replicas(settings)}",
        minutes=15,
        severity="warning",
        summary="{{ $labels.run }}: the learner waits {{ $value }} s in an iteration for scores, although all reward "
        "replicas are running.",
        fix=_scaling_advice(settings),
    )


def max_reward_replicas(settings: Settings) -> int:
    """The largest number of replicas that all rewards of the run may have together."""
    serving, detector = settings.serving, settings.detector
    terms = settings.used_rewards()
    at_maximum = replace(
        settings,
        rewards={name: replace(term, min_replicas=term.max_replicas) for name, term in terms.items()},
        serving=replace(serving, min_replicas=serving.max_replicas),
        detector=replace(detector, min_replicas=detector.max_replicas),
    )
    return sum(request.count for request in reward_requests(at_maximum))


def _scaling_advice(settings: Settings) -> str:
    """What to change if scores arrive late: the settings that make each reward in use faster."""
    advice_by_use = (
        (
            settings.trains_on("spatialscore"),
            "for SpatialScore",
            "serving.max_replicas (and maxReplicas of the reward group), or serving.batch_images if the GPU has memory",
        ),
        (
            settings.trains_on("judge"),
            "for the judge",
            "judge.concurrency and judge.calls_per_minute, as far as its service allows",
        ),
        (
            settings.trains_on("detector"),
            "for the detector",
            "detector.max_replicas, or detector.batch_images if the GPU has memory",
        ),
    )
    advice = {reward: raised for used, reward, raised in advice_by_use if used}
    advice |= {f"for {name}": f"rewards.{name}.max_replicas" for name in settings.replicated_rewards()}
    if not advice:  # only the exact checker, whose single replica no setting makes faster
        return "Set policy.max_staleness=1, so that the exact checker scores images while the learner learns."
    if len(advice) == 1:
        return f"Raise {next(iter(advice.values()))}."
    choices = "; ".join(f"{reward} {raised}" for reward, raised in advice.items())
    return f"The panel `Scoring calls` shows which reward has a queue. Raise {choices}."


def _disk_alerts() -> tuple[Alert, Alert]:
    return (
        Alert(
            "RunDiskNearlyFull",
            f"ray_spatialt2i_run_disk_free_ratio < {MIN_FREE_DISK:g}",
            minutes=5,
            severity="critical",
            summary="{{ $labels.run }}: {{ $value | humanizePercentage }} of its disk is free.",
            fix="Make room: lower policy.checkpoint.keep, remove old runs, or enlarge the volume. A run stops when "
            "three checkpoints in a row cannot be written. It continues when it is submitted again.",
        ),
        Alert(
            "NodeDiskNearlyFull",
            f"ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage) < {MIN_FREE_DISK:g}",
            minutes=5,
            severity="critical",
            summary="Node {{ $labels.ip }}: {{ $value | humanizePercentage }} of its disk is free. Below 5 % Ray "
            "cannot spill objects to it.",
            fix="Remove old sessions under Ray's temporary folder, or give the node a larger disk.",
        ),
    )


def rules(settings: Settings) -> dict[str, Any]:
    """The content of a Prometheus rule file."""
    return {
        "groups": [
            {
                "name": "spatialt2i",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expression,
                        "for": f"{alert.minutes}m",
                        "labels": {"severity": alert.severity},
                        "annotations": {"summary": alert.summary, "description": alert.fix},
                    }
                    for alert in alerts(settings)
                ],
            }
        ]
    }
