"""What an operator calls: the whole pipeline as one job, its submission, its state, and whether a machine is ready."""
