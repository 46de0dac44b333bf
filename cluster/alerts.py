"""What wakes an operator: Prometheus rules, each with a sentence on what to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cluster.panels import policy
from conf import Settings
from pipelines.policy.resources import reward_requests

PROGRESS = "ray_spatialt2i_run_progress_time_seconds"
FIRST_VERSION = 1800  # seconds that a driver may take to it: loading models, the base's evaluation, an iteration


@dataclass(frozen=True)
class Alert:
    """One rule. `expression` gives a series where something is wrong; it must stay so for `minutes`."""

    name: str
    expression: str
    minutes: int
    severity: str  # critical: the run is lost or stands; warning: look at it today
    happened: str
    mend: str


def alerts(settings: Settings) -> tuple[Alert, ...]:
    """All rules, with the preset's limits."""
    return (*_no_progress(), *_policy(settings), _saturated(settings), *_disks())


def _no_progress() -> tuple[Alert, ...]:
    """One rule for a driver before its first version, whose usual length nobody knows yet, and one for afterwards."""
    age, usual = f"time() - {PROGRESS}", policy("iteration_seconds")
    look = "Look at the job's last log lines (`ray job logs`): it says every half minute what it waits for."
    return (
        Alert(
            "NotBegun",
            f"{age} > {FIRST_VERSION} unless {usual}",
            5,
            "critical",
            "{{ $labels.run }} has published no version since its driver started, {{ $value | humanizeDuration }} ago.",
            f"{look} Add nodes, or lower what that role asks for. Where it waits for nothing, models are still being "
            "loaded, or a first iteration takes that long: then leave it alone.",
        ),
        Alert(
            "NoProgress",
            f"{age} > 600 + 10 * {usual}",
            5,
            "critical",
            "{{ $labels.run }} has published no version for {{ $value | humanizeDuration }}.",
            f"{look} Add nodes, or stop the job and submit it again: it goes on from its newest checkpoint.",
        ),
    )


def _policy(settings: Settings) -> tuple[Alert, ...]:
    tolerance, groups = settings.policy.algorithm.ratio_tolerance, settings.policy.prompts_per_iteration
    kl, spread = policy("kl"), policy("reward_std")
    return (
        Alert(
            "RatioDrift",
            f"{policy('ratio_drift')} > {tolerance:g}",
            10,
            "warning",
            "Sampler and learner of {{ $labels.run }} disagree: |ratio - 1| is {{ $value }} before the first update.",
            "Stop the run. Set policy.learner.replay_batch=0, which repeats the sampler's batch shape, or flux.dtype=float32; "
            "see `Policy: the ratio` in docs/troubleshooting.md.",
        ),
        Alert(
            "KlRunaway",
            f"{kl} > 3 * max_over_time({kl}[1h] offset 15m) and {policy('iteration')} > 20",
            5,
            "warning",
            "The KL of {{ $labels.run }} to its base, {{ $value }}, is three times the largest of the hour before.",
            "Look at the held-out pictures. Where they got worse, go back to an older checkpoint with a lower "
            "policy.optimizer.lr or a higher policy.algorithm.kl_weight.",
        ),
        Alert(
            "SpreadGone",
            f"{policy('groups_skipped')} > {groups / 2:g} or {spread} < 0.1 * max_over_time({spread}[6h])",
            10,
            "warning",
            "Scores within groups of {{ $labels.run }} hardly differ any more, so little is learned.",
            "If the held-out score is good, stop: the run is done. Else choose harder prompts, or raise "
            "policy.sampling.noise_level.",
        ),
    )


def most_replicas(settings: Settings) -> int:
    """All replicas that the rewards of the run's mix may have together: what `reward_replicas` counts, at its most."""
    pool, detector = settings.serving, settings.detector
    grown = replace(
        settings,
        serving=replace(pool, min_replicas=pool.max_replicas),
        detector=replace(detector, min_replicas=detector.max_replicas),
    )
    return sum(demand.count for demand in reward_requests(grown))


def _sooner(settings: Settings) -> str:
    """What to change where scores come late: of each reward that has a weight, what makes it faster."""
    mix = settings.rewards
    of_each = (
        (mix.spatialscore, "SpatialScore",
         "serving.max_replicas (and the reward group's maxReplicas), or serving.batch_images where the GPU has room"),
        (mix.judge, "the judge", "judge.concurrency and judge.calls_per_minute, as far as its service allows"),
        (mix.detector, "the detector", "detector.max_replicas, or detector.batch_images where the GPU has room"),
    )  # fmt: skip
    mends = {name: mend for weight, name, mend in of_each if weight}
    if not mends:  # the exact checker alone, whose one replica no setting makes faster
        return "Set policy.max_staleness=1, so that the exact checker scores while the learner learns."
    if len(mends) == 1:
        return f"Raise {next(iter(mends.values()))}."
    told = "; ".join(f"for {name} {mend}" for name, mend in mends.items())
    return f"`Calls under way` on the dashboard shows which reward has a queue. Raise {told}."


def _saturated(settings: Settings) -> Alert:
    late = f"{policy('wait_for_scores_seconds')} > 0.25 * {policy('iteration_seconds')}"
    return Alert(
        "RewardPoolSaturated",
        f"{late} and {policy('reward_replicas')} >= {most_replicas(settings)}",
        15,
        "warning",
        "The learner of {{ $labels.run }} waits {{ $value }} s an iteration for scores, and all replicas are there.",
        _sooner(settings),
    )


def _disks() -> tuple[Alert, ...]:
    mend = (
        "Make room: lower policy.checkpoint.keep, remove old runs, or enlarge the volume. A run stops at the third "
        "checkpoint in a row that cannot be written, and goes on when it is submitted again."
    )
    return (
        Alert(
            "RunDiskNearlyFull",
            "ray_spatialt2i_run_disk_free_ratio < 0.1",
            5,
            "critical",
            "The disk of {{ $labels.run }} has {{ $value | humanizePercentage }} left.",
            mend,
        ),
        Alert(
            "NodeDiskNearlyFull",
            "ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage) < 0.1",
            5,
            "critical",
            "The disk of node {{ $labels.ip }} has {{ $value | humanizePercentage }} left; at 5 % Ray stops spilling.",
            "Remove old sessions under Ray's temporary folder, or give the node a larger disk.",
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
                        "annotations": {"summary": alert.happened, "description": alert.mend},
                    }
                    for alert in alerts(settings)
                ],
            }
        ]
    }
