"""Group-relative policy optimization on flow trajectories: advantages, loss, replay, learner. Imports no Ray."""
