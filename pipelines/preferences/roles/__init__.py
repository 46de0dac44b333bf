"""The four roles of stage 1 (writer, perturber, generator, reviewer) and their implementations."""
