"""The writer, perturber, generator and reviewer of the scenes world: what a pair is and is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.common.images import StoredImage, hamming, perceptual_hash
from pipelines.common.relations import split_group
from pipelines.preferences.roles.base import PromptPair, RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, SceneReviewer, SceneWriter, num_satisfied, sentence
from pipelines.preferences.row_values import PairKind
from pipelines.scenes import grammar
from pipelines.scenes.checker import Verdict, check
from tests.support.scene_pairs import scene_pairs, scene_prompts


def _prompts(kind: PairKind, count: int, single_edit_fraction: float = 0.5) -> list[PromptPair]:
    return scene_prompts([RowSpec(index, kind, 1000 + index) for index in range(count)], single_edit_fraction)


def _scenes(prompts: PromptPair) -> tuple[grammar.Scene, grammar.Scene]:
    """The scenes of the prompt and of the perturbed prompt."""
    assert prompts.perturbed
    return grammar.parse(prompts.prompt.text), grammar.parse(prompts.perturbed.text)


def test_a_perturbation_changes_the_stated_relations_and_nothing_else() -> None:
    for prompts in _prompts("perturbed", 2000):
        scene, changed = _scenes(prompts)
        assert changed.objects == scene.objects and changed.parents == scene.parents
        differing = [i for i, words in enumerate(zip(scene.words, changed.words, strict=True)) if len(set(words)) == 2]
        assert 1 <= len(differing) <= 3
        stated = [(edit.before, edit.after) for edit in prompts.edits]
        assert stated == [(sentence(scene.relations[i]), sentence(changed.relations[i])) for i in differing]
        for i, edit in zip(differing, prompts.edits, strict=True):
            opposite = changed.words[i] == grammar.OPPOSITE[scene.words[i]]
            assert edit.kind == ("flip" if opposite else "turn")


def test_a_perturbed_prompt_contradicts_the_prompt_and_is_in_the_same_group() -> None:
    for prompts in _prompts("perturbed", 1000):
        scene, changed = _scenes(prompts)
        assert not grammar.equivalent(scene, changed)
        before, after = (set(map(grammar.canonical, s.relations)) for s in (scene, changed))
        assert before - after and after - before, "each prompt must state a relation that the other one does not"
        assert split_group(scene.relations) == split_group(changed.relations) == prompts.group_id


def test_every_prompt_is_a_training_prompt() -> None:
    writer = SceneWriter()
    for prompts in _prompts("perturbed", 2000):
        assert prompts.perturbed
        assert not grammar.is_held_out(prompts.prompt.relations)
        assert not grammar.is_held_out(prompts.perturbed.relations)
        assert not grammar.is_held_out(writer.write_one(prompts.spec, attempt=3).prompt.relations)


def test_the_fraction_of_single_edits_follows_the_setting() -> None:
    for fraction in (0.5, 0.75):
        counts = [len(prompts.edits) for prompts in _prompts("perturbed", 3000, fraction)]
        assert abs(counts.count(1) / len(counts) - fraction) < 0.04


def test_equivalent_prompts_are_in_the_same_group() -> None:
    first = grammar.parse("a red circle left of a blue square and above a green triangle")
    second = grammar.parse("a blue square right of a red circle that is above a green triangle")
    assert grammar.equivalent(first, second)
    assert split_group(first.relations) == split_group(second.relations)


def test_the_checker_accepts_winners_and_rejects_losers_except_for_rare_errors() -> None:
    errors: dict[str, float] = {}
    kinds: tuple[PairKind, ...] = ("perturbed", "corrupted")
    for kind in kinds:
        count = 300
        pairs = SceneGenerator().generate(_prompts(kind, count))
        reviews = SceneReviewer().review(pairs)
        errors[kind] = sum(not review.accepted for review in reviews) / count
        for pair, review in zip(pairs, reviews, strict=True):
            if review.accepted:
                relations = pair.prompts.prompt.relations
                assert check(pair.winner.pixels(), relations).perfect
                assert not check(pair.loser.pixels(), relations).perfect
    assert max(errors.values()) < 0.01, "fraction of rendered pairs on which checker and renderer disagree"


def test_the_edit_of_a_corrupted_pair_names_the_object() -> None:
    kinds: set[str] = set()
    for pair in SceneGenerator().generate(_prompts("corrupted", 200)):
        (edit,) = pair.prompts.edits
        present = check(pair.loser.pixels(), pair.prompts.prompt.relations).present
        assert not present[edit.before], f"{edit}, but {edit.before} is present once"
        assert pair.prompts.perturbed is None
        kinds.add(edit.kind)
    assert kinds == {"missing", "doubled", "recoloured", "reshaped"}


def test_swapped_and_equal_images_are_rejected() -> None:
    reviewer = SceneReviewer()
    pairs = SceneGenerator().generate(_prompts("perturbed", 40))
    for pair in pairs:
        swapped = replace(pair, winner=pair.loser, loser=pair.winner)
        (review,) = reviewer.review([swapped])
        assert not review.accepted and review.votes == ("l",)
    (review,) = reviewer.review([replace(pairs[0], loser=pairs[0].winner)])
    assert not review.accepted and review.votes == ("tie",)


def test_a_pair_depends_only_on_its_row() -> None:
    specs = [RowSpec(index, "perturbed", 77 + index) for index in range(8)]
    assert scene_pairs(specs[5:6]) == scene_pairs(specs)[5:6]


def test_perceptual_hashes_of_similar_images_are_near_and_others_are_far() -> None:
    pairs = SceneGenerator().generate(_prompts("perturbed", 20))
    rng = np.random.default_rng(0)
    for pair in pairs:
        pixels = pair.winner.pixels()
        noisy = np.clip(pixels + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)
        assert hamming(pair.winner.phash, perceptual_hash(noisy)) <= 4
        assert hamming(pair.winner.phash, pair.loser.phash) > 4
        assert np.array_equal(StoredImage.of(pixels, "x", 0).pixels(), pixels), "PNG must be lossless"


def test_an_image_does_not_gain_by_leaving_an_object_out() -> None:
    whole = {"red circle": True, "blue square": True, "green circle": True}
    lacking = whole | {"green circle": False}
    assert num_satisfied(Verdict(whole, ("other", "other"))) == num_satisfied(Verdict(lacking, ("right", "missing")))
    assert num_satisfied(Verdict(whole, ("right", "other"))) > num_satisfied(Verdict(lacking, ("right", "missing")))
