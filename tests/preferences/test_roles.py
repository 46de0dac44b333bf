"""The scenes' writer, perturber, painter and reviewer: what a pair is and is not."""

from dataclasses import replace

import numpy as np

from pipelines.common.images import StoredImage, hamming, perceptual_hash
from pipelines.common.relations import split_group
from pipelines.preferences.roles.base import PromptPair, RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter, num_satisfied
from pipelines.scenes import grammar
from pipelines.scenes.checker import Verdict, check

CHANGED_WORD = {"left of": "x", "right of": "x", "above": "y", "below": "y"}


def _drafts(kind: str, count: int, one: float = 0.5) -> list[PromptPair]:
    tasks = [RowSpec(index, kind, 1000 + index) for index in range(count)]
    return ScenePerturber(one).perturb(SceneWriter().write(tasks))


def test_a_perturbation_changes_the_stated_relations_and_nothing_else():
    for draft in _drafts("perturbed", 2000):
        scene, changed = grammar.parse(draft.prompt.text), grammar.parse(draft.perturbed.text)
        assert changed.objects == scene.objects and changed.parents == scene.parents
        differing = [i for i, words in enumerate(zip(scene.words, changed.words, strict=True)) if len(set(words)) == 2]
        assert 1 <= len(differing) <= 3
        stated = [(change.before, change.after) for change in draft.changes]
        told = lambda r: f"{r.subject} {r.relation} {r.object}"  # noqa: E731
        assert stated == [(told(scene.relations[i]), told(changed.relations[i])) for i in differing]
        for i, change in zip(differing, draft.changes, strict=True):
            opposite = changed.words[i] == grammar.OPPOSITE[scene.words[i]]
            assert change.kind == ("flip" if opposite else "turn")


def test_a_perturbed_prompt_contradicts_is_never_equivalent_and_shares_the_group():
    for draft in _drafts("perturbed", 1000):
        scene, changed = grammar.parse(draft.prompt.text), grammar.parse(draft.perturbed.text)
        assert not grammar.equivalent(scene, changed)
        said, now = (set(map(grammar.canonical, s.relations)) for s in (scene, changed))
        assert said - now and now - said, "one of two relations between the same objects must be denied"
        assert split_group(scene.relations) == split_group(changed.relations) == draft.group_id


def test_every_prompt_is_on_the_training_side():
    writer = SceneWriter()
    for draft in _drafts("perturbed", 2000):
        assert not grammar.is_held_out(draft.prompt.relations)
        assert not grammar.is_held_out(draft.perturbed.relations)
        assert not grammar.is_held_out(writer.write_one(draft.task, attempt=3).prompt.relations)


def test_the_share_of_single_changes_is_what_was_asked_for():
    for wanted in (0.5, 0.75):
        counts = [len(draft.changes) for draft in _drafts("perturbed", 3000, wanted)]
        assert abs(counts.count(1) / len(counts) - wanted) < 0.04


def test_equivalent_prompts_share_a_group():
    first = grammar.parse("a red circle left of a blue square and above a green triangle")
    second = grammar.parse("a blue square right of a red circle that is above a green triangle")
    assert grammar.equivalent(first, second)
    assert split_group(first.relations) == split_group(second.relations)


def test_the_checker_accepts_winners_and_rejects_losers_but_for_rare_errors():
    errors = {}
    for kind, count in (("perturbed", 300), ("exploit", 300)):
        pairs = SceneGenerator().generate(_drafts(kind, count))
        reviews = SceneReviewer().review(pairs)
        errors[kind] = sum(not review.accepted for review in reviews) / count
        for pair, review in zip(pairs, reviews, strict=True):
            if review.accepted:
                asked = pair.draft.prompt.relations
                assert check(pair.winner.pixels(), asked).perfect
                assert not check(pair.loser.pixels(), asked).perfect
    print(f"share of rendered pairs on which checker and renderer disagree: {errors}")
    assert max(errors.values()) < 0.01


def test_an_exploit_says_what_was_spoiled():
    seen = {}
    for pair in SceneGenerator().generate(_drafts("exploit", 200)):
        (change,) = pair.draft.changes
        present = check(pair.loser.pixels(), pair.draft.prompt.relations).present
        assert not present[change.before], f"{change} but {change.before} is there, once"
        assert pair.draft.perturbed is None
        seen[change.kind] = seen.get(change.kind, 0) + 1
    assert seen.keys() == {"missing", "doubled", "recoloured", "reshaped"}


def test_a_swapped_pair_is_rejected():
    reviewer = SceneReviewer()
    for pair in SceneGenerator().generate(_drafts("perturbed", 40)):
        swapped = replace(pair, winner=pair.loser, loser=pair.winner)
        (review,) = reviewer.review([swapped])
        assert not review.accepted and review.votes == ("l",)
    same = replace(pair, loser=pair.winner)
    assert reviewer.review([same])[0].votes == ("tie",)


def test_a_row_depends_on_its_task_alone():
    tasks = [RowSpec(index, "perturbed", 77 + index) for index in range(8)]
    together = SceneGenerator().generate(ScenePerturber().perturb(SceneWriter().write(tasks)))
    alone = SceneGenerator().generate(ScenePerturber().perturb(SceneWriter().write(tasks[5:6])))
    assert alone == together[5:6]


def test_a_perceptual_hash_is_near_for_alike_pictures_and_far_for_others():
    pairs = SceneGenerator().generate(_drafts("perturbed", 20))
    rng = np.random.default_rng(0)
    for pair in pairs:
        pixels = pair.winner.pixels()
        noisy = np.clip(pixels + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)
        assert hamming(pair.winner.phash, perceptual_hash(noisy)) <= 4
        assert hamming(pair.winner.phash, pair.loser.phash) > 4
    assert np.array_equal(StoredImage.of(pixels, "x", 0).pixels(), pixels), "PNG is lossless"


def test_a_picture_does_not_gain_by_leaving_an_object_out() -> None:
    whole = {"red circle": True, "blue square": True, "green circle": True}
    lacking = whole | {"green circle": False}
    assert num_satisfied(Verdict(whole, ("other", "other"))) == num_satisfied(Verdict(lacking, ("right", "missing")))
    assert num_satisfied(Verdict(whole, ("right", "other"))) > num_satisfied(Verdict(lacking, ("right", "missing")))
