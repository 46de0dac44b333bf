"""The paper's findings examined in small: one run a variant and seed, one table."""
