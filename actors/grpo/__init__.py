"""Group-relative policy optimisation on flow trajectories: advantages, loss, update. Pure tensors, no Ray."""
