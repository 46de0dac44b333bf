"""Where the time of an iteration went, in words. Needs neither torch nor Ray."""

from __future__ import annotations

from pipelines.policy.metrics import IterationRow


def wait_breakdown(row: IterationRow) -> str:
    """Says where the iteration's time went: seconds of the learner, and the idle fraction of the other roles.

    Learner ranks that sample too have seconds of both.
    """
    rollout_seconds = row.rollout_actors * row.iteration_seconds
    rollouts_idle = row.rollout_idle_seconds / rollout_seconds if rollout_seconds else 0.0
    reward_seconds = row.reward_replicas * row.iteration_seconds
    rewards_idle = row.reward_idle_seconds / reward_seconds if reward_seconds else 0.0
    ranks = f", for other ranks {row.wait_for_ranks_seconds:.1f}" if row.wait_for_ranks_seconds >= 0.05 else ""
    sample = f", sample {row.learner_sampling_seconds:.1f}" if row.learner_sampling_seconds else ""
    actors = f"rollout actors {rollouts_idle:.0%} of {row.rollout_actors:.0f}, " if row.rollout_actors else ""
    return (
        f"learn {row.learn_seconds:.1f}{sample}, wait for images {row.wait_for_images_seconds:.1f}, for scores "
        f"{row.wait_for_scores_seconds:.1f}{ranks}, publish {row.publish_seconds:.1f}; idle: {actors}"
        f"reward replicas {rewards_idle:.0%} of {row.reward_replicas:.0f}"
    )
