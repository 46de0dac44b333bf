"""What the Grafana dashboard shows: five questions, a row each, and the queries that answer them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from conf import Settings
from pipelines.policy.metrics import EvaluationRow, IterationRow

PICKED = 'run=~"$run"'
"""The runs that are chosen at the dashboard's top."""


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and how its lines are called: text in which {{label}} stands for a label's value."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One graph. `unit` as Grafana names it; `limit` is drawn as a line."""

    title: str
    meaning: str  # in words: what is good, and what is not
    queries: tuple[Query, ...]
    unit: str = "short"
    limit: float | None = None


@dataclass(frozen=True)
class Question:
    """One row of the dashboard."""

    text: str
    panels: tuple[Panel, ...]


def policy(measure: str, labels: str = "") -> str:
    """The series of a field of IterationRow. Raises ValueError for one that a run does not measure."""
    return _series("policy", measure, IterationRow, labels)


def evaluation(measure: str, labels: str = "") -> str:
    """The series of a field of EvaluationRow. Raises ValueError for one that a run does not measure."""
    return _series("evaluation", measure, EvaluationRow, labels)


def _series(family: str, measure: str, row: type[IterationRow] | type[EvaluationRow], labels: str) -> str:
    if measure not in {field.name for field in fields(row)}:
        raise ValueError(f"no run measures {measure}: {row.__name__} in pipelines/policy/metrics.py has no such field")
    return f"ray_spatialt2i_{family}_{measure}" + (f"{{{labels}}}" if labels else "")


def questions(settings: Settings) -> tuple[Question, ...]:
    """All rows, in the order of `spatialt2i status`. Limits are the preset's."""
    return (_learning(), _on_policy(settings), _waiting(), _rewards(settings), _failures())


def _of_runs(*measures: str) -> tuple[Query, ...]:
    """One line a measure and run, called by the measure's name."""
    return tuple(Query(policy(measure, PICKED), f"{measure.replace('_', ' ')} {{{{run}}}}") for measure in measures)


def _held_out(*measures: str) -> tuple[Query, ...]:
    return tuple(Query(evaluation(measure, PICKED), f"{measure.replace('_', ' ')} {{{{run}}}}") for measure in measures)


def _learning() -> Question:
    progress = Query(policy("iteration", PICKED), "version {{run}}")
    return Question("Is it learning?", (
        Panel("Reward", "Rises, and its spread within a group stays well above 0: without spread nothing is learned.",
              _of_runs("reward_p10", "reward_mean", "reward_p90", "reward_std", "reward_std_kept")),
        Panel("Held-out score", "Rises as the reward does. Where only the reward rises, the reward is being hacked.",
              _held_out("reward_mean", "reward_mean_short", "reward_mean_long")),
        Panel("Held-out relations and objects", "`scenes` only, by the exact checker. Objects must not be lost, and "
              "few relations be the other way round.",
              _held_out("relation_accuracy_short", "relation_accuracy_long", "object_accuracy_short",
                        "object_accuracy_long", "relation_reversed_short", "relation_reversed_long"), "percentunit"),
        Panel("Progress", "Policy versions published. A flat line: nothing moves.", (progress,)),
    ))  # fmt: skip


def _on_policy(settings: Settings) -> Question:
    tolerance = settings.policy.algorithm.ratio_tolerance
    moved = Query(f"abs({policy('ratio_mean', PICKED)} - 1)", "of the mean, all updates {{run}}")
    return Question("Is it on-policy?", (
        Panel("Ratio drift", "Largest |ratio - 1| before an iteration's first update. Above the line, sampler and "
              "learner do not compute the same. The mean's, over all updates, may lie above: there the policy moves.",
              (*_of_runs("ratio_drift"), moved), "sci", tolerance),
        Panel("Distance from the base", "The KL term, and the square distance of velocities at untrained steps. "
              "They grow slowly; a steep rise is a policy that leaves its base.", _of_runs("kl", "base_distance")),
        Panel("Clipped share", "Some, not all: near 1 the clip is too narrow, at 0 nothing is held back.",
              _of_runs("clip_fraction"), "percentunit"),
        Panel("Loss, gradient and age", "Loss and gradient's norm are finite; the age of samples is at most "
              "policy.max_staleness.", _of_runs("loss", "grad_norm", "staleness_max", "staleness_mean")),
    ))  # fmt: skip


def _waiting() -> Question:
    idle = policy("rollout_idle_seconds", PICKED)
    present = f"({policy('rollout_actors', PICKED)} * {policy('iteration_seconds', PICKED)})"
    scored = f"({policy('reward_replicas', PICKED)} * {policy('iteration_seconds', PICKED)})"
    unscored = f"{policy('reward_idle_seconds', PICKED)} / {scored}"
    return Question("Who waits for whom?", (
        Panel("The learner's seconds", "Where an iteration goes. Long waits for images: more rollouts; for scores: "
              "more replicas.", _of_runs("learn_seconds", "wait_for_images_seconds", "wait_for_scores_seconds",
                                         "wait_for_ranks_seconds", "publish_seconds", "between_iterations_seconds"), "s"),
        Panel("Idle share of the others", "Rollouts idle while the learner is the narrow place; "
              "policy.max_staleness=1 overlaps them.",
              (Query(f"{idle} / {present}", "rollouts {{run}}"), Query(unscored, "rewards {{run}}")), "percentunit"),
        Panel("Images a second", "Of training, evaluations apart; and a GPU of those that the run holds.",
              _of_runs("images_per_second", "images_per_second_per_gpu")),
        Panel("GPUs", "Ray's own measure. Empty where there are none.",
              (Query('sum(ray_resources{Name="GPU"}) by (State)', "{{State}}"),)),
    ))  # fmt: skip


def _rewards(settings: Settings) -> Question:
    of_pool = "by (application)"
    elastic = bool(settings.rewards.spatialscore)
    return Question("Are rewards scaling?", (
        Panel("Replicas", "SpatialScore's follow the queue up to the line, serving.max_replicas, the detector's up to "
              "detector.max_replicas. Another reward has one.",
              (Query(f"sum(ray_serve_deployment_replica_healthy) {of_pool}", "{{application}}"),),
              limit=settings.serving.max_replicas if elastic else None),
        Panel("Calls under way", "In replicas, and waiting for one. A queue that stays: raise that reward's "
              "serving.max_replicas, judge.concurrency or detector.max_replicas.",
              (Query(f"sum(ray_serve_replica_processing_queries) {of_pool}", "running {{application}}"),
               Query(f"sum(ray_serve_deployment_queued_queries) {of_pool}", "waiting {{application}}"))),
        Panel("A group's scores take", "Mean latency, queueing included, beside an iteration's length.",
              _of_runs("score_latency_seconds", "iteration_seconds"), "s"),
        Panel("Groups that wait for scores", "Mean over an iteration.", _of_runs("reward_queue")),
    ))  # fmt: skip


def _failures() -> Question:
    disk = "ray_node_disk_usage / (ray_node_disk_usage + ray_node_disk_free)"
    return Question("What failed?", (
        Panel("Mended", "Since the driver started: a new driver counts from 0, and is counted itself since the run "
              "began. Each was mended; many of them cost time.",
              _of_runs("actors_replaced", "groups_reissued", "groups_resampled", "learner_restarts", "score_retries",
                       "driver_starts")),
        Panel("Without effect", "In an iteration: groups without spread, scores that are no number or equal "
              "another's, updates that were skipped.",
              _of_runs("groups_skipped", "scores_failed", "scores_tied", "optimizer_steps_skipped")),
        Panel("Actors", "ALIVE is well. PENDING_CREATION that stays: the cluster has no room for it.",
              (Query('sum(ray_actors{Source="gcs"}) by (State)', "{{State}}"),)),
        Panel("Disks in use", "Every node's own, and that of the run's folder.",
              (Query(disk, "node {{ip}}"), Query(f"1 - ray_spatialt2i_run_disk_free_ratio{{{PICKED}}}", "{{run}}")),
              "percentunit", 0.9),
    ))  # fmt: skip
