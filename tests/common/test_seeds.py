"""Seeds are distinct, and a group's seeds are those of its samples."""

from itertools import product

from pipelines.common.seeds import group_seeds, sample_seed


def test_every_sample_of_every_run_has_its_own_seed() -> None:
    seeds = {sample_seed(*arguments) for arguments in product(range(2), range(5), range(5), range(5))}
    assert len(seeds) == 250
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_seeds_of_a_group_are_those_of_its_samples() -> None:
    assert group_seeds(3, 1, 2, 4) == tuple(sample_seed(3, 1, 2, sample) for sample in range(4))
