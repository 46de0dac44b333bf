"""What the Grafana dashboard shows: six questions, one row each, and the queries that answer them."""

from __future__ import annotations

from cluster.machine_panels import SELECTED_CLUSTERS, machines
from cluster.panels import Panel, Query, Question, evaluation, policy
from conf import Settings
from pipelines.policy.watch import MAX_FALL

SELECTED_RUNS = 'run=~"$run"'
"""Label selector: the runs that are selected at the top of the dashboard."""


def questions(settings: Settings) -> tuple[Question, ...]:
    """All rows, in the order of `spatialt2i status`, with the limits of the preset."""
    return (_learning(), _on_policy(settings), _waiting(), _rewards(settings), _failures(), machines())


def _per_iteration(*metrics: str) -> tuple[Query, ...]:
    """One line for each metric and run, named after the metric."""
    return tuple(Query(policy(metric, SELECTED_RUNS), f"{metric.replace('_', ' ')} {{{{run}}}}") for metric in metrics)


def _per_evaluation(*metrics: str) -> tuple[Query, ...]:
    """The same for metrics of the held-out evaluations."""
    return tuple(
        Query(evaluation(metric, SELECTED_RUNS), f"{metric.replace('_', ' ')} {{{{run}}}}") for metric in metrics
    )


def _learning() -> Question:
    return Question(
        "Is it learning?",
        (
            Panel(
                "Reward",
                "Should rise, while its std within a group stays well above 0: without differences within a group "
                "nothing is learned. p10 and p90: 10 % of the scores are below, 10 % above.",
                _per_iteration("reward_p10", "reward_mean", "reward_p90", "reward_std", "reward_std_kept"),
            ),
            Panel(
                "Each reward",
                "Mean of each reward that trains, and its std within a group. One that falls while the reward rises is "
                "given up for the others.",
                tuple(
                    Query(policy("rewards", SELECTED_RUNS, part), f"{part} {{{{reward}}}} {{{{run}}}}")
                    for part in ("mean", "std")
                ),
            ),
            Panel(
                "Rewards against each other",
                "Correlation within a group of each reward with the others and with the training reward (total). Below "
                "0: the rewards ask for opposite images.",
                (Query(policy("rewards", SELECTED_RUNS, "correlation"), "{{reward}} with {{other}} {{run}}"),),
            ),
            Panel(
                "Held-out reward",
                "Should rise together with the reward. If only the reward of training prompts rises, the policy "
                "exploits the reward model.",
                _per_evaluation("reward_mean", "reward_mean_short", "reward_mean_long"),
            ),
            Panel(
                "Held-out relations and objects",
                "Scenes world only: fractions by the exact checker on prompts with one relation (short) and several "
                "(long). Objects must not be lost, and few relations should be reversed.",
                _per_evaluation(
                    "relation_accuracy_short",
                    "relation_accuracy_long",
                    "object_accuracy_short",
                    "object_accuracy_long",
                    "relation_reversed_short",
                    "relation_reversed_long",
                ),
                "percentunit",
            ),
            Panel(
                "Falls while the reward rises",
                "What the trained reward does not see of held-out images: their statistics, the diversity of a "
                "prompt's images, watched rewards. By how many standard deviations of the base's images each fell, "
                "0 unless the trained reward rose. Above the line the policy may exploit its reward.",
                (Query(evaluation("measures", SELECTED_RUNS, part="fall"), "{{measure}} {{run}}"),),
                limit=MAX_FALL,
            ),
            Panel(
                "Watched measures",
                "Their means, each on its own scale.",
                (Query(evaluation("measures", SELECTED_RUNS, part="mean"), "{{measure}} {{run}}"),),
            ),
            Panel(
                "Held-out images with an object nobody asked for",
                "Scenes world only: fractions of the images of short and of long prompts. Should not rise.",
                _per_evaluation("unrequested_short", "unrequested_long"),
                "percentunit",
            ),
            Panel(
                "Progress",
                "Policy versions published, and the best one on held-out prompts. A flat line of the first means that "
                "the run makes no progress.",
                (
                    Query(policy("iteration", SELECTED_RUNS), "version {{run}}"),
                    Query(evaluation("best_iteration", SELECTED_RUNS), "best version {{run}}"),
                ),
            ),
        ),
    )


def _on_policy(settings: Settings) -> Question:
    mean = Query(f"abs({policy('ratio_mean', SELECTED_RUNS)} - 1)", "|mean ratio - 1|, all optimizer steps {{run}}")
    return Question(
        "Is it on-policy?",
        (
            Panel(
                "Ratio drift",
                "Largest |ratio - 1| before the first optimizer step of an iteration. Above the line "
                "(policy.algorithm.ratio_tolerance) sampler and learner compute different log-probabilities. The mean "
                "over all optimizer steps may be above it, because the policy changes.",
                (*_per_iteration("ratio_drift"), mean),
                "sci",
                settings.policy.algorithm.ratio_tolerance,
            ),
            Panel(
                "Distance from the base",
                "The KL term, and mean (v - v_base)^2 at the denoise steps that are never trained. Both should grow "
                "slowly. A steep rise means that the policy leaves its base.",
                _per_iteration("kl", "base_distance"),
            ),
            Panel(
                "Clipped fraction",
                "Should be between the extremes: near 1 the clip range is too narrow, at 0 it has no effect.",
                _per_iteration("clip_fraction"),
                "percentunit",
            ),
            Panel(
                "Loss, gradient and staleness",
                "Loss and gradient norm must be finite. Staleness (policy versions between sampling and learning) is "
                "at most policy.max_staleness.",
                _per_iteration("loss", "grad_norm", "staleness_max", "staleness_mean"),
            ),
        ),
    )


def _waiting() -> Question:
    seconds = policy("iteration_seconds", SELECTED_RUNS)
    rollout = (
        f"{policy('rollout_idle_seconds', SELECTED_RUNS)} / ({policy('rollout_actors', SELECTED_RUNS)} * {seconds})"
    )
    reward = (
        f"{policy('reward_idle_seconds', SELECTED_RUNS)} / ({policy('reward_replicas', SELECTED_RUNS)} * {seconds})"
    )
    return Question(
        "Who waits for whom?",
        (
            Panel(
                "Time of the learner",
                "Seconds of an iteration. Ranks sample too with policy.placement=colocated. Long waits for images: add "
                "rollout actors. Long waits for scores: add reward replicas.",
                _per_iteration(
                    "learn_seconds",
                    "learner_sampling_seconds",
                    "wait_for_images_seconds",
                    "wait_for_scores_seconds",
                    "wait_for_ranks_seconds",
                    "publish_seconds",
                    "between_iterations_seconds",
                ),
                "s",
            ),
            Panel(
                "Idle fraction of the others",
                "Fraction of the time without work. Rollout actors are idle if the learner is the bottleneck; with "
                "policy.max_staleness=1 they sample while it learns.",
                (Query(rollout, "rollout actors {{run}}"), Query(reward, "reward replicas {{run}}")),
                "percentunit",
            ),
            Panel(
                "Images per second",
                "Training images, without evaluations; also per GPU of the run.",
                _per_iteration("images_per_second", "images_per_second_per_gpu"),
            ),
            Panel(
                "GPUs",
                "Ray's count of used and free GPUs. Empty on a cluster without GPUs.",
                (Query(f'sum(ray_resources{{Name="GPU",{SELECTED_CLUSTERS}}}) by (State)', "{{State}}"),),
            ),
        ),
    )


def _rewards(settings: Settings) -> Question:
    return Question(
        "Are rewards scaling?",
        (
            Panel(
                "Replicas",
                "SpatialScore's replicas follow the load up to the line (serving.max_replicas), the detector's up to "
                "detector.max_replicas. The other rewards have one.",
                (
                    Query(
                        f"sum(ray_serve_deployment_replica_healthy{{{SELECTED_CLUSTERS}}}) by (application)",
                        "{{application}}",
                    ),
                ),
                limit=settings.serving.max_replicas if settings.uses_reward("spatialscore") else None,
            ),
            Panel(
                "Scoring calls",
                "Calls that run in a replica, and calls that wait for one. If a queue stays, raise "
                "serving.max_replicas, judge.concurrency or detector.max_replicas.",
                (
                    Query(
                        f"sum(ray_serve_replica_processing_queries{{{SELECTED_CLUSTERS}}}) by (application)",
                        "running {{application}}",
                    ),
                    Query(
                        f"sum(ray_serve_deployment_queued_queries{{{SELECTED_CLUSTERS}}}) by (application)",
                        "waiting {{application}}",
                    ),
                ),
            ),
            Panel(
                "Latency of a group's scores",
                "Mean seconds from a group's images to its scores, including the queue, beside the iteration's length.",
                _per_iteration("score_latency_seconds", "iteration_seconds"),
                "s",
            ),
            Panel("Groups that wait for scores", "Mean over an iteration.", _per_iteration("reward_queue")),
        ),
    )


def _failures() -> Question:
    usage, free = (f"ray_node_disk_{kind}{{{SELECTED_CLUSTERS}}}" for kind in ("usage", "free"))
    node_disk = f"{usage} / ({usage} + {free})"
    run_disk = f"1 - ray_spatialt2i_run_disk_free_ratio{{{SELECTED_RUNS}}}"
    return Question(
        "What failed?",
        (
            Panel(
                "Recovered failures",
                "Counted since the driver started; driver starts are counted since the run began. The run recovered "
                "from each of them, but many of them cost time.",
                _per_iteration(
                    "actors_replaced",
                    "groups_reissued",
                    "groups_resampled",
                    "learner_restarts",
                    "score_retries",
                    "driver_starts",
                ),
            ),
            Panel(
                "Faults",
                "Counted since the driver started: devices that failed or were out of memory, nodes that replacements "
                "avoid, calls that did not return, and checkpoints that were not written.",
                _per_iteration(
                    "device_faults", "out_of_memory", "nodes_avoided", "calls_abandoned", "checkpoints_missed"
                ),
            ),
            Panel(
                "Wasted work",
                "In one iteration: groups whose scores are all equal, scores that are not a number or are tied, and "
                "optimizer steps that were skipped.",
                _per_iteration("groups_skipped", "scores_failed", "scores_tied", "optimizer_steps_skipped"),
            ),
            Panel(
                "Actors",
                "Ray's count of actors by state. Actors that stay in PENDING_CREATION wait for resources.",
                (Query(f'sum(ray_actors{{Source="gcs",{SELECTED_CLUSTERS}}}) by (State)', "{{State}}"),),
            ),
            Panel(
                "Disk usage",
                "The disk of each node, and the disk of the run directory. An alert is raised above the line.",
                (Query(node_disk, "node {{ip}}"), Query(run_disk, "{{run}}")),
                "percentunit",
                0.9,
            ),
        ),
    )
