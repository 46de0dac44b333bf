"""The real driver of stage 3 over simulated workers, under a virtual clock."""
