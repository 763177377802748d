"""The study asks for the right images, arms and weights at every size; nothing is drawn or trained here."""

import ast
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lib.desk import costs
from lib.feedback import panel, votes
from lib.ground.cache import Artifact, digest_of
from lib.ground.paths import ROOT
from lib.ground.seeds import name_of
from lib.ground.sizes import SIZES, SamplerSpec
from lib.images import models, sampling
from lib.methods import choosing, ensemble, finetune, reward
from lib.methods.finetune import FinetuneSpec
from lib.study import common, voting
from lib.study.lee import ARMS, BEST_QUARTER, FILTERED, FULL_METHOD, OTHER_WEIGHTINGS, RANDOM, SCARCE, TRUTH, LeeStudy
from lib.study.wu import WuStudy
from lib.world import prompts
from lib.world.scenes import OBJECTS, SEEN, UNSEEN

SPEC = FinetuneSpec(beta=0.7, seed=3)


def artifact(name: str) -> Artifact:
    return Artifact("images", name, Path("none") / name, f"digest of {name}", 0.0)


@pytest.fixture
def asked(monkeypatch):
    """What a study asks the generator for, by stream: the images themselves are not drawn."""
    calls = []

    def sampled(load, generator, prompts, numbers, stream, spec=SamplerSpec()):
        calls.append(SimpleNamespace(generator=generator, prompts=prompts, numbers=numbers, stream=stream, spec=spec))
        return artifact(stream)

    monkeypatch.setattr(sampling, "sampled", sampled)
    monkeypatch.setattr(models, "verify", lambda name: f"digest of {name}")
    return calls


def objects(texts) -> set[str]:
    return {prompts.parse(p).object for p in texts}


# ---- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_unseen_objects_are_in_no_image_that_is_labelled_or_trained_on(asked, size):
    made = LeeStudy(size)
    made.labelled_images, made.unlabelled_images, made.unseen_images  # noqa: B018
    labelled, unlabelled, unseen = asked
    assert [a.stream for a in asked] == ["labelled", "unlabelled", "unseen"]
    assert objects(labelled.prompts) | objects(unlabelled.prompts) <= set(SEEN)
    assert objects(unseen.prompts) <= set(UNSEEN)
    assert set(unlabelled.prompts) <= set(labelled.prompts) and len(unlabelled.prompts) == SIZES[size].unlabelled


@pytest.mark.parametrize("size", SIZES)
def test_no_two_images_of_a_stream_share_prompt_and_start_noise(asked, size):
    made = LeeStudy(size)
    made.labelled_images, made.unlabelled_images, made.unseen_images  # noqa: B018
    made.evaluation_images(), made.selection_images()
    for a in asked:
        pairs = list(zip(a.prompts, a.numbers, strict=True))
        assert len(set(pairs)) == len(pairs) > 0, a.stream
    assert len({a.stream for a in asked}) == len(asked) == 5


@pytest.mark.parametrize("size", SIZES)
def test_each_prompt_gets_its_categorys_number_of_images(asked, size):
    made = LeeStudy(size)
    made.labelled_images  # noqa: B018
    drawn = asked[0].prompts
    for category, count, images in zip(prompts.CATEGORIES, SIZES[size].prompts, SIZES[size].images, strict=True):
        own = [p for p in dict.fromkeys(drawn) if prompts.parse(p).category == category]
        assert len(own) == count and {drawn.count(p) for p in own[:40]} == {images}


@pytest.mark.parametrize("size", ["gpu", "full"])
def test_the_largest_sizes_have_the_papers_prompts_and_images(size):
    n, k = SIZES[size].prompts, SIZES[size].images
    assert sum(n) == 2774 and int(np.dot(n, k)) == 27_528


@pytest.mark.parametrize("size", SIZES)
def test_settings_are_chosen_on_prompts_and_objects_apart_from_the_evaluations(asked, size):
    made = LeeStudy(size)
    made.evaluation_images(), made.selection_images()
    evaluation, selection = asked
    assert not objects(evaluation.prompts) & objects(selection.prompts)
    assert len(set(selection.prompts)) == (10 if size == "smoke" else 40) and objects(selection.prompts) <= set(SEEN)
    assert len(set(evaluation.prompts)) == -(-120 // SIZES[size].evaluation_stride)
    assert objects(evaluation.prompts) & set(UNSEEN) and objects(evaluation.prompts) & set(SEEN)
    assert {prompts.parse(p).category for p in evaluation.prompts} == {"count", "colour", "background"}


def test_every_model_is_evaluated_from_the_same_start_noise(asked):
    made, unet = LeeStudy("smoke"), artifact("unet")
    for ask in (made.evaluation_images, made.selection_images, made.fidelity_images):
        asked.clear()
        ask(), ask((unet, 6)), ask((unet, 3))
        base, *tuned = asked
        for a in tuned:
            assert (a.stream, a.prompts, a.numbers) == (base.stream, base.prompts, base.numbers)
            assert a.spec == base.spec
            assert a.generator["unet"] is unet and a.generator["base"] == base.generator["base"]
        assert len({a.generator.get("updates") for a in asked}) == 3


@pytest.mark.parametrize("size", SIZES)
def test_there_are_as_many_candidates_as_the_size_says_and_the_evaluation_images_are_among_them(asked, size):
    made, unet = LeeStudy(size), artifact("unet")
    made.candidate_images(), made.candidate_images((unet, 6))
    half = len(asked) // 2
    base, tuned = asked[:half], asked[half:]
    pairs = [(p, k) for a in base for p, k in zip(a.prompts, a.numbers, strict=True)]
    assert pairs == [(p, k) for a in tuned for p, k in zip(a.prompts, a.numbers, strict=True)]
    texts = prompts.evaluation_prompts()[:: SIZES[size].evaluation_stride]
    assert len(set(pairs)) == len(pairs) and set(pairs) == {(p, k) for p in texts for k in range(SIZES[size].candidates)}
    assert {a.stream for a in asked} == {"evaluation"} and SIZES[size].candidates >= 2 * votes.SET
    made.evaluation_images()
    assert asked[-1] in base and made.candidate_images()[0] == artifact("evaluation")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["evaluation", "fidelity"])
def test_the_few_images_of_a_model_are_those_that_an_adapted_one_draws(asked, monkeypatch, kind, size):
    monkeypatch.setattr(sampling, "numbered_below", lambda images, limit: (images, limit))
    made, unet = WuStudy(size), (artifact("unet"), 6)
    _, limit = made.few_images(kind, unet)
    made.adapted_images(kind, negative_prompt="Weird image. ")
    made.adapted_images(kind, lora=artifact("lora"))
    made.few_images(kind, unet, whole=False)
    whole, *drawn = asked
    pairs = [(p, k) for p, k in zip(whole.prompts, whole.numbers, strict=True) if k < limit]
    assert all(pairs == list(zip(a.prompts, a.numbers, strict=True)) and a.stream == whole.stream for a in drawn)
    assert made.adapted_images(kind) == made.few_images(kind) == (artifact(whole.stream), limit)  # the base's are a part
    assert [a.spec.negative_prompt for a in drawn] == ["Weird image. ", "", ""] and "lora" in drawn[1].generator


@pytest.mark.parametrize("size", SIZES)
def test_an_adaptations_settings_are_chosen_on_images_of_the_selection_prompts_from_their_noise(asked, size):
    LeeStudy(size).selection_images()
    made = WuStudy(size)
    for lora in (None, artifact("lora")):
        made.adapted_images("selection", lora, "Weird image. ")
    whole, *few = ([*zip(a.prompts, a.numbers, strict=True)] for a in asked)
    assert {a.stream for a in asked} == {"selection"} and {a.spec.negative_prompt for a in asked[1:]} == {"Weird image. "}
    assert few[0] == few[1] and set(few[0]) <= set(whole) and {p for p, _ in few[0]} == set(made.selection_prompts)
    assert not {p for p, _ in few[0]} & set(prompts.evaluation_prompts())


def test_fewer_images_of_the_evaluation_prompts_are_the_first_of_all(asked):
    made = LeeStudy("laptop")
    made.evaluation_images(), made.evaluation_images(None, 2)
    whole, few = ([*zip(a.prompts, a.numbers, strict=True)] for a in asked)
    assert few == [(p, k) for p, k in whole if k < 2] and asked[0].stream == asked[1].stream


def test_images_that_are_voted_on_share_no_start_noise_with_any_others(asked):
    made, unet = LeeStudy("smoke"), artifact("unet")
    made.vote_images(), made.vote_images((unet, 6))
    base, tuned = asked
    assert base.prompts == tuned.prompts and base.numbers == tuned.numbers and base.stream != tuned.stream
    assert {base.prompts.count(p) for p in base.prompts} == {votes.SET}
    made.evaluation_images(), made.selection_images()
    assert not {base.stream, tuned.stream} & {a.stream for a in asked[2:]}


def test_a_side_gathers_the_chosen_images_of_all_its_sets(monkeypatch):
    sets = {"x": ["One dog"] * 4 + ["Two dogs"] * 2, "y": ["Two dogs"] * 4}
    made = LeeStudy("smoke")

    def shown(a):
        n, first = len(sets[a.key]), 0 if a.key == "x" else 6
        pixels = np.arange(first, first + n, dtype=np.uint8)[:, None, None, None] * np.ones((64, 64, 3), np.uint8)
        return sampling.ImageSet(pixels, a.key, sets[a.key], list(range(n)), [f"digest {a.key}{i}" for i in range(n)])

    monkeypatch.setattr(sampling, "load_images", shown)
    monkeypatch.setattr(LeeStudy, "looks", lambda self, a, judge: {"count": shown(a).pixels[:, 0, 0, :1] / 1.0})
    monkeypatch.setattr(LeeStudy, "realism", lambda self, pixels: pixels[:, 0, 0, 0])
    monkeypatch.setattr(votes, "sides", lambda *args: [args])
    rows = np.array([[3, 1, 0, 2], [9, 4, 6, 7]])
    (several,) = voting.sides(made, [artifact("x"), artifact("y")], np.stack([rows, rows[:, ::-1]]))
    for (seen, real, names, texts, places, _), at in ((voting.side(made, [artifact("x"), artifact("y")], rows), rows[None]),
                                                      (several, np.stack([rows, rows[:, ::-1]]))):  # fmt: skip
        assert len(names) == 8 and places.shape == at.shape  # each image is looked at once
        whose = np.array(["x0", "x1", "x2", "x3", "x4", "x5", "y0", "y1", "y2", "y3"])[at]
        assert np.array(texts)[places].tolist() == [[["One dog"] * 4, ["Two dogs"] * 4]] * len(at)
        expected = [name_of(w[0], p, int(w[1])) for w, p in zip(whose.ravel(), np.array(texts)[places].ravel(), strict=True)]
        assert np.array(names)[places].ravel().tolist() == expected
        assert real[places].tolist() == seen["count"][places, 0].tolist() == at.tolist()


def test_fidelity_and_pre_training_take_different_web_pairs():
    made = LeeStudy("smoke")
    (captions, scenes), (others, _) = made.web_pairs(64, 1), made.web_pairs(64, 2)
    again = made.web_pairs(64, 1)
    assert made.web_captions(64, 1) == captions
    assert scenes.shape == (64, 64, 64, 3) and scenes.dtype == np.uint8
    assert captions == again[0] and np.array_equal(scenes, again[1])
    assert sum(a == b for a, b in zip(captions, others, strict=True)) < 8
    assert {o for c in captions for o in OBJECTS if o in c} & set(UNSEEN)  # the web knows them


def test_an_item_of_a_sorted_list_is_numbered_by_how_often_it_came_before():
    assert common._earlier([0, 0, 0, 2, 5, 5]) == [0, 1, 2, 0, 0, 1]
    assert common._earlier([]) == []


def test_the_panels_share_of_an_image_counts_skips_as_not_good(monkeypatch):
    shown = sampling.ImageSet(np.zeros((2, 0)), "labelled", ["Two dogs", "Six cats"], [0, 3], list("ab"))
    monkeypatch.setattr(sampling, "load_images", lambda made: shown)
    monkeypatch.setattr(LeeStudy, "looks", lambda self, images, judge: judge)
    given = np.array([["good"] * 3 + ["skip"] * 3 + ["bad"] * 3, ["skip"] * 9]).T

    def rate(seen, names, prompts, raters, spec):
        assert (seen, names, prompts, len(raters)) == ("a", shown.names, shown.prompts, 9)
        return given

    monkeypatch.setattr(panel, "rate", rate)
    assert LeeStudy("smoke").panel_shares(None).tolist() == pytest.approx([1 / 3, 0])


# ---- rewards ------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(asked, monkeypatch):
    """A study with five labelled images, of which the last is held out."""
    shown = sampling.ImageSet(np.zeros((5, 64, 64, 3), np.uint8), "labelled", list("pqrst"), [0] * 5, list("abcde"))
    monkeypatch.setattr(sampling, "load_images", lambda made: shown)
    made = LeeStudy("smoke")
    rows = [("e", "t", "labeller-1", "good"), ("c", "r", "labeller-1", "skip"), ("b", "q", "labeller-2", "bad"),
            ("d", "s", "labeller-2", "good"), ("a", "p", "labeller-1", "good"),
            ("b", "q", "labeller-1", "good")]  # fmt: skip
    made.labels = pd.DataFrame(rows, columns=["image", "prompt", "rater", "label"])
    made.validation = np.array([False] * 4 + [True])
    monkeypatch.setattr(made, "embeddings", lambda images: (np.ones((5, 2)), np.ones((5, 2))))
    return made


def test_feedback_is_each_images_first_label_with_who_gave_it(labelled):
    labels, texts, raters = labelled.feedback
    np.testing.assert_array_equal(labels, [1, 0, 0.5, 1, np.nan])
    assert texts == list("pqrst") and raters.tolist() == [0, 1, 0, 1, 0]
    np.testing.assert_array_equal(labelled.targets(None, labelled.labels), [1, 0, np.nan, 1, 1])


def test_an_image_that_nobody_labelled_has_no_label_and_the_others_keep_theirs(labelled):
    labelled.labels = labelled.labels[labelled.labels.image != "a"]
    np.testing.assert_array_equal(labelled.feedback[0], [np.nan, 0, 0.5, 1, np.nan])
    np.testing.assert_array_equal(labelled.targets(None, labelled.labels), [np.nan, 0, np.nan, 1, 1])


@pytest.mark.parametrize(
    "change, why",
    [(lambda t: t.assign(image=t.image.str.upper()), "^6 of 6 labels .* 'E' for 't': .* with capital letters"),
     (lambda t: t.assign(image=t.image + ".png"), "^6 of 6 labels .* 'e.png' for 't': this is the name of a file"),
     (lambda t: t.assign(prompt=t.prompt.replace("q", "q.")), "^2 of 6 labels .* another prompt, expected exactly 'q'"),
     (lambda t: t.assign(image=t.image.replace("c", "9")), "^1 of 6 labels .* '9' for 'r': this is not the digest of an"),
     (lambda t: t.assign(label=t.label.replace("bad", "Bad")), "^unknown label 'Bad' in row 2: expected one of good, bad")],
)  # fmt: skip
def test_labels_that_match_no_image_are_refused_before_anything_learns_from_them(labelled, change, why):
    labelled.labels = change(labelled.labels)
    for learn in (lambda: labelled.feedback, lambda: labelled.targets(None, labelled.labels)):
        with pytest.raises(ValueError, match=why):
            learn()


@pytest.mark.parametrize("size", SIZES)
def test_prompts_are_held_out_whole_about_one_in_as_many_as_the_size_says(asked, monkeypatch, size):
    made = LeeStudy(size)
    made.labelled_images  # noqa: B018
    texts, numbers = asked[0].prompts, asked[0].numbers
    shown = sampling.ImageSet(np.zeros(0, np.uint8), "labelled", texts, numbers, [""] * len(texts))
    monkeypatch.setattr(sampling, "load_images", lambda images: shown)
    held = {p for p, out in zip(texts, made.validation, strict=True) if out}
    learnt = {p for p, out in zip(texts, made.validation, strict=True) if not out}
    assert max(map(texts.count, list(held)[:5])) > 1 and not held & learnt
    assert len(held) == pytest.approx(len(held | learnt) / made.size.held_out, rel=0.5)
    assert {prompts.parse(p).category for p in held} == set(prompts.CATEGORIES)


def test_rewards_are_known_by_labels_and_raters_and_take_the_sizes_epochs(labelled, monkeypatch):
    calls = []
    monkeypatch.setattr(
        ensemble, "trained", lambda specs, *args, **how: calls.append((len(specs), specs[0], args[-1])) or list(specs))
    labelled.rewards(), labelled.rewards(reward.RewardSpec(epochs=3))
    labelled.feedback = (labelled.feedback[0], labelled.feedback[1], 1 - labelled.feedback[2])
    labelled.rewards(seeds=9)
    own = SIZES["smoke"].reward_epochs
    assert [(n, s.epochs) for n, s, _ in calls] == [(1, own), (1, 3), (1, own)]
    assert calls[0][2] == calls[1][2] and calls[0][2]["labels"] != calls[2][2]["labels"]


def test_rewards_of_several_variants_are_asked_for_at_once_and_come_by_name_one_a_seed(labelled, monkeypatch):
    calls, early = [], []
    monkeypatch.setattr(ensemble, "trained", lambda specs, *args, **how: calls.append(specs) or [f"r of {s}" for s in specs])
    monkeypatch.setattr(labelled, "ahead", lambda *wanted: early.extend(wanted))
    labelled.size = replace(labelled.size, reward_seeds=2)
    variants = {"plain": reward.RewardSpec(epochs=3), "narrow": reward.RewardSpec(epochs=3, width=8)}
    found = labelled.all_rewards(variants)
    expected = {name: [replace(spec, seed=seed) for seed in (0, 1)] for name, spec in variants.items()}
    assert found == {name: [(f"r of {s}", s) for s in specs] for name, specs in expected.items()}
    assert calls == [expected["plain"] + expected["narrow"]]
    assert early == [("rewards", spec, None) for spec in variants.values()]


def test_notebooks_03_and_04_share_their_baseline():
    book = json.loads((ROOT / "notebooks" / "03_reward_learning.ipynb").read_text("utf-8"))
    (cell,) = [c for c in book["cells"] if "parameters" in c["metadata"].get("tags", [])]
    given = {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse("".join(cell["source"])).body}
    given = {name: value for name, value in given.items() if name not in ("size", "setup", "raters")}
    assert digest_of(asdict(reward.RewardSpec(**given))) == digest_of(asdict(reward.RewardSpec()))


# ---- arms ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tuned(asked, monkeypatch, pipe):
    """A function of an arm: the spec, inputs and pairs with which it would be tuned."""
    images = {"labelled": 5, "unlabelled": 3}
    scores = {"labelled": np.array([0.1, 0.2, 0.3, 0.4, 1.0]), "unlabelled": np.array([0.5, 0.6, 0.9])}

    def shown(made):
        n = images[made.key]
        texts = (["Six cats", "A blue colored cat"] * n)[:n]
        return sampling.ImageSet(np.zeros((n, 64, 64, 3), np.uint8), made.key, texts, list(range(n)), ["d"] * n)

    monkeypatch.setattr(sampling, "load_images", shown)
    some = [1.0, 0.0, np.nan, 1.0, 0.0]  # labels; at a share of 1/8 one a prompt is kept
    feedback = some, ["Six cats", "A blue colored cat", "Six cats", "A blue colored cat", "Six cats"], [0] * 5
    right = {"labelled": np.array([1, 1, 0, 0, 1], bool), "unlabelled": np.array([0, 1, 1], bool)}
    monkeypatch.setattr(LeeStudy, "run_feedback", lambda self, run: feedback)
    monkeypatch.setattr(LeeStudy, "run_reward", lambda self, run, labels: [(None, reward.RewardSpec(labels=labels))])
    monkeypatch.setattr(LeeStudy, "verdicts", lambda self, images, judge: right[images.key] if judge == "a" else None)
    monkeypatch.setattr(LeeStudy, "scores", lambda self, images, rewards: scores[images.key][None])
    monkeypatch.setattr(LeeStudy, "web_captions", lambda self, n, first: {1: ["a dog"] * n}[first])  # as `web_latents`
    monkeypatch.setattr(LeeStudy, "latents", lambda self, made: torch.zeros(images[made.key], 16, 8, 8))
    monkeypatch.setattr(LeeStudy, "web_latents", lambda self: torch.zeros(self.size.pretraining, 16, 8, 8))

    def record(load, model, web, spec, inputs):
        return SimpleNamespace(model=model(pipe), web=web(pipe), spec=spec, inputs=inputs)

    monkeypatch.setattr(finetune, "tuned", record)
    return lambda arm, seed=SPEC.seed: LeeStudy("smoke").finetuned(arm, replace(SPEC, seed=seed))


def test_arms_differ_in_images_weights_and_beta_as_their_names_say(tuned):
    r = [0.1, 0.2, 0.3, 0.4, 1.0, 0.5, 0.6, 0.9]
    expected = {
        "human-labelled only": (r[:5], 0.0, True),
        "+ unlabelled": (r, 0.0, True),
        "full method": (r, 0.7, True),
        "pre-training loss alone": (r, 0.7, False),
        "constant reward": ([0.5] * 8, 0.7, True),
    }
    assert set(expected) == set(ARMS) and FULL_METHOD in ARMS
    for arm, (weight, beta, use_model) in expected.items():
        found = tuned(arm)
        torch.testing.assert_close(found.model.weight, torch.tensor(weight))
        assert (found.spec.beta, found.spec.use_model) == (beta, use_model)
        assert found.spec.seed == 3 and torch.equal(found.web.weight, torch.ones(SIZES["smoke"].pretraining))


def test_the_mean_control_differs_from_the_full_method_in_its_weights_alone(tuned):
    full, mean = tuned(FULL_METHOD), tuned("constant reward")
    assert full.spec == mean.spec
    assert torch.equal(full.model.latents, mean.model.latents) and torch.equal(full.model.text, mean.model.text)
    assert full.model.weight.mean().item() == pytest.approx(mean.model.weight.mean().item())
    assert {k for k in full.inputs if full.inputs[k] != mean.inputs[k]} == {"weights"}


def test_other_weightings_change_the_weights_alone_and_keep_their_mean(tuned):
    full = tuned(FULL_METHOD)
    for arm in OTHER_WEIGHTINGS:
        found = tuned(arm)
        assert found.spec == full.spec and {k for k in full.inputs if full.inputs[k] != found.inputs[k]} == {"weights"}
        assert found.model.weight.mean().item() == pytest.approx(0.5)
    assert sorted(tuned(RANDOM).model.weight.tolist()) == sorted(full.model.weight.tolist())
    torch.testing.assert_close(tuned("thresholded r").model.weight, torch.tensor([0, 0, 0, 0, 4 / 3, 0, 4 / 3, 4 / 3]))
    steep = tuned("exponential r").model.weight
    assert (steep[4] / steep[0]).log().item() == pytest.approx(4 * 0.9, rel=1e-4)


def test_each_run_of_the_random_control_shuffles_the_rewards_anew(tuned):
    runs = [tuned(RANDOM, seed).model.weight.tolist() for seed in range(3)]
    assert len(set(map(tuple, runs))) == 3 and tuned(RANDOM, 1).model.weight.tolist() == runs[1]


def test_every_further_run_is_three_more_trainings():
    """Of the full method, constant reward and the random control."""
    one, two = (costs.work(replace(SIZES["evening"], finetune_seeds=n))["trained on"] for n in (1, 2))
    assert two - one == 3 * SIZES["evening"].updates * sum(SIZES["evening"].batch)


def test_the_work_of_a_size_counts_the_arms_and_settings_that_are_trained():
    book = json.loads((ROOT / "notebooks" / "05_fine_tuning.ipynb").read_text("utf-8"))
    (cell,) = [c for c in book["cells"] if "parameters" in c["metadata"].get("tags", [])]
    given = {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse("".join(cell["source"])).body}
    changed = [x for name in ("learning_rates", "betas", "lengths") for x in sorted(given[name])[::2]]  # beside the centre
    assert costs.TRIED == 1 + len(changed) + 2  # and the schedule, and the scale of drawing
    grid = sum(sorted(given["lengths"])[::2]) + len(changed) - 2 + 2
    weightings = [arm for arm in OTHER_WEIGHTINGS if arm != RANDOM]  # whose runs are counted with the arms
    assert costs.TRAINED == len(ARMS) and len(TRUTH) == 1
    assert costs.OTHERS == grid + 1.5 * len(TRUTH) + 2 + len(FILTERED) + len(weightings) + len(SCARCE)
    swept, compared = len(choosing.SWEPT), len(choosing.COMPARED)
    assert costs.SCALES == swept + (compared - 1) + len(choosing.STRENGTHS) + (compared - 1)  # half the scale was tried
    assert costs.ALONG == swept - 1 + 3 * (compared - 1)
    assert SamplerSpec().guidance_scale in choosing.COMPARED
    assert costs.unet_runs({"to label": 3, "trained on": 2}) == 3 * SamplerSpec().calls + 2 * 3
    assert list(SIZES) == sorted(SIZES, key=costs.cpu_hours)
    assert costs.cpu_hours("evening") == pytest.approx(costs.EVENING_HOURS)


def test_where_labels_are_scarce_the_model_sees_the_labelled_images_or_all_of_them(tuned):
    only, rest = map(tuned, SCARCE)
    assert only.spec.beta == rest.spec.beta == 0 and len(rest.model.weight) == 8
    learnt = np.isfinite(reward.taught([1.0, 0.0, np.nan, 1.0, 0.0], ["Six cats", "A blue colored cat"] * 2 + ["Six cats"],
                                       [0] * 5, reward.RewardSpec(labels=1 / 8)))  # fmt: skip
    assert learnt.sum() == 2  # one a prompt
    torch.testing.assert_close(only.model.weight, torch.tensor([0.1, 0.2, 0.3, 0.4, 1.0])[torch.from_numpy(learnt)])


def test_the_truth_is_judge_as_on_counting_prompts_alone(tuned):
    found = tuned(*TRUTH)
    assert found.model.weight.tolist() == [1, 0, 1, 0, 1]  # of images 0, 2, 4 of the labelled, 0, 2 of the others
    assert len(found.model.latents) == 5 and found.model.text.unique().numel() == 1


def test_a_run_has_labellers_of_its_own_who_see_the_same_images(monkeypatch, labelled):
    asked = []
    monkeypatch.setattr(panel, "label_by_two", lambda looks, shown, run: asked.append((run, shown.names)) or labelled.labels)
    monkeypatch.setattr(LeeStudy, "looks", lambda self, images, judge: None)
    labelled.labels_of(0), labelled.labels_of(3)
    assert [run for run, _ in asked] == [0, 3] and asked[0][1] == asked[1][1]
    assert not set(panel.labellers(3)) & {*panel.labellers(0), *panel.labellers(1), *panel.EVALUATORS}


def test_own_images_at_another_scale_have_the_names_of_those_that_are_labelled(asked, tuned):
    study = LeeStudy("smoke")
    here, there = study.own_images(), study.own_images(1.0)
    assert [s.key for s in here] == ["labelled", "unlabelled"] == [s.key for s in there]
    drawn = [c for c in asked if c.spec.guidance_scale == 1.0]
    shown = [sampling.load_images(s) for s in here]
    assert [(c.prompts, c.numbers, c.stream) for c in drawn] == [(s.prompts, s.numbers, s.stream) for s in shown]
    assert len(study.own_images(unlabelled=False)) == 1


def test_the_best_quarter_of_each_prompt_is_learnt_from_alone_and_keeps_the_mean_of_r(tuned, monkeypatch):
    """Of five images of six cats 1.25 count, of three of a blue one .75; the mean of r is 0.5."""
    numbered = {"labelled": torch.arange(5.0), "unlabelled": torch.arange(5.0, 8.0)}
    monkeypatch.setattr(LeeStudy, "latents", lambda self, made: numbered[made.key][:, None, None, None])
    found, full = tuned(BEST_QUARTER), tuned(FULL_METHOD)
    torch.testing.assert_close(found.model.weight, 0.75 * torch.tensor([1, 0.75, 0.25]))
    assert found.model.text.tolist() == [0, 1, 0] and found.model.latents.flatten().tolist() == [4, 6, 7]
    assert found.spec == full.spec and {k for k in full.inputs if full.inputs[k] != found.inputs[k]} == {"weights"}


def test_an_unknown_arm_or_size_is_refused(tuned):
    with pytest.raises(ValueError, match="^unknown arm 'r = 1': expected one of human-labelled only, "):
        tuned("r = 1")
    with pytest.raises(ValueError, match="^unknown size 'huge': expected one of smoke, laptop, evening, gpu, full$"):
        LeeStudy("huge")


def test_the_reward_direction_is_an_arm_less_constant_reward_of_the_same_settings(monkeypatch):
    made, spec = LeeStudy("smoke"), LeeStudy("smoke").finetune_spec(seed=1)
    monkeypatch.setattr(LeeStudy, "finetuned", lambda self, arm, spec: (arm, spec))
    monkeypatch.setattr("lib.study.lee.arithmetic.along", lambda load, plus, minus, strength, base: (plus, minus, strength))
    constant = (("constant reward", spec), spec.updates)
    assert made.reward_direction(spec, 2.0) == (((FULL_METHOD, spec), spec.updates), constant, 2.0)
    assert made.reward_direction(spec, 4.0, RANDOM)[0] == ((RANDOM, spec), spec.updates)
