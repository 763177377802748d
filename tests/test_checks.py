"""What is NaN or infinite is refused by name and place: no clipping, comparing or sorting makes a plausible number of it."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from lib.desk import charts
from lib.feedback import choices, judges, panel, tallies, taste, votes
from lib.feedback.panel import EVALUATORS
from lib.ground import stats
from lib.ground.checks import finite
from lib.ground.sizes import SamplerSpec
from lib.images import embedding, metrics, networks, sampling
from lib.methods import ablation, adaptation, finetune, preference, rejection, reward

NOT_FINITE = (np.nan, np.inf, -np.inf)


# ---- one check -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [
    np.eye(2), np.float32([1, 2]), [1, 2.5], 3, 0.5, np.arange(3), np.array([True]), np.uint8([255]), np.zeros((0, 4)),
    pd.Series([0.5, 1]), torch.ones(2, 2), torch.zeros(2, dtype=torch.bfloat16), torch.tensor(3),
    np.array([1, 0.5], object), np.array(["good"]),
], ids=repr)  # fmt: skip
def test_finite_values_come_back_as_they_were(good):
    assert finite("scores", good) is good and finite("scores", good, missing=True) is good


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("kind", [np.array, torch.tensor, pd.Series, list, np.float32, torch.HalfTensor])
def test_values_that_are_not_are_counted_and_the_first_is_placed(kind, bad):
    with pytest.raises(ValueError, match=r"^2 of 5 values of scores are NaN or infinite, the first at \[3\]: expected"):
        finite("scores", kind([0.1, 2.0, 3.0, bad, bad]))


def test_a_place_has_all_its_axes_and_a_number_has_none():
    table = np.zeros((40, 30))
    table[7, 9:] = np.nan
    with pytest.raises(ValueError, match=r"^21 of 1,200 values of r are NaN or infinite, the first at \[7, 9\]: "):
        finite("r", table)
    for bad in (float("inf"), np.float64("nan"), torch.tensor(float("nan")), None):
        with pytest.raises(ValueError, match="^r is NaN or infinite: expected a finite number$"):
            finite("r", bad)
    with pytest.raises(ValueError, match=r"^1 of 2 values of r are .* \[1\]"):
        finite("r", [0.5, None])


def test_where_nan_means_missing_only_the_infinite_is_refused():
    for kind in (np.array, torch.tensor):
        assert finite("ratings", (given := kind([1.0, np.nan])), missing=True) is given
        with pytest.raises(ValueError, match=r"^1 of 3 values of ratings are infinite, the first at \[2\]: "):
            finite("ratings", kind([1.0, np.nan, -np.inf]), missing=True)


# ---- wherever it would be hidden -----------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 40, 4))
PROMPTS, NAMES = ["Two dogs"] * 4 + ["A red colored apple"] * 4, [f"image {i}" for i in range(8)]
SEEN = {h: np.full((8, n), 1 / n) for h, n in networks.HEADS.items()}
SHOWN = sampling.ImageSet(np.zeros((8, 1, 1, 3), np.uint8), "labelled", PROMPTS, list(range(8)), NAMES)
ROWS = np.arange(8).reshape(2, 4)
SIDE, OTHER = (votes.sides(SEEN, np.zeros(8), n, PROMPTS, ROWS[None])[0] for n in (NAMES, SHOWN.names))
EIGHT = np.linspace(0.1, 0.9, 8)
TRAITS = RNG.normal(size=(8, 5))
SPEC, NETWORK = reward.RewardSpec(width=8), reward.Reward(4, 8)
GREY = np.full((2, 8, 8, 3), 0.5)
POOL = [f"prompt {i // 4}" for i in range(32)]


def with_side(strength: np.ndarray) -> votes.Side:
    return replace(SIDE, strength={"alignment": strength, "fidelity": strength})


# What is made of an array, by name: a function of the array, and an array of which it can be made.
MADE = {
    "Fréchet distance, real": (lambda x: metrics.frechet_distance(x, Y), X),
    "Fréchet distance, generated": (lambda x: metrics.frechet_distance(X, x), Y),
    "interval of a distance": (lambda x: metrics.distance_with_interval(x, Y), X),
    "change of a distance": (lambda x: metrics.distance_change(Y, x, Y + 1), X),
    "change of a distance, other": (lambda x: metrics.distance_change(Y, Y + 1, x), X),
    "floor": (lambda x: metrics.floor_band(x, [Y] * 8), X),
    "floor, redrawn": (lambda x: metrics.floor_band(Y, [Y] * 7 + [x]), X),
    "inception score": (metrics.inception_score, np.full((8, 3), 1 / 3)),
    "diversity": (lambda x: metrics.diversity(x, np.array(PROMPTS)), X[:8]),
    "colourfulness": (metrics.colourfulness, GREY),
    "realism": (lambda x: votes.realism(x, Y), X),
    "realism, real": (lambda x: votes.realism(Y, x), X),
    "spread within prompts": (lambda x: votes.spread_within(x, PROMPTS), EIGHT),
    "realism of a side": (lambda x: votes.sides(SEEN, x, NAMES, PROMPTS, ROWS[None]), EIGHT),
    "tie band": (lambda x: votes.tie_band(with_side(x), OTHER, "alignment"), SIDE.strength["alignment"]),
    "answers": (lambda x: votes.answers(OTHER, with_side(x), "fidelity", 0.5), SIDE.strength["fidelity"]),
    "answers, by the band": (lambda x: votes.answers(OTHER, SIDE, "fidelity", float(x)), np.array(0.5)),
    "tally": (lambda x: tallies.tally(x, PROMPTS[3:5]), np.ones((len(EVALUATORS), 2))),
    "verdict of a judge": (lambda x: judges.verdicts(SEEN | {"count": x}, PROMPTS), SEEN["count"]),
    "chances of attributes": (lambda x: judges.attribute_chances(SEEN | {"object": x}, PROMPTS), SEEN["object"]),
    "label": (lambda x: panel.rate(SEEN | {"object": x}, NAMES, PROMPTS, ["ann"]), SEEN["object"]),
    "label, by the count": (lambda x: panel.label_by_two(SEEN | {"count": x}, SHOWN), SEEN["count"]),
    "strength": (lambda x: panel.strengths(SEEN | {"colour": x}, NAMES, PROMPTS, ["ann"]), SEEN["colour"]),
    "foreground": (taste.size_and_placement, GREY),
    "traits": (lambda x: taste.traits(SEEN, PROMPTS, x, np.zeros((8, 4, 4, 3), np.uint8)), EIGHT),
    "trait units": (lambda x: taste.trait_units(x, PROMPTS), TRAITS),
    "chances of choices": (lambda x: taste.chances(x, ROWS, 1.0), EIGHT),
    "chances of choices, by noise": (lambda x: taste.chances(EIGHT, ROWS, float(x)), np.array(0.5)),
    "choice": (lambda x: choices.choose(x, ROWS, SHOWN, [["u"], ["v"]], taste.TasteSpec()), TRAITS),
    "choice of a coin": (
        lambda x: choices.choose(x, ROWS, SHOWN, [["u"], ["v"]], taste.TasteSpec(), coin=True), TRAITS),
    "calibrated noise": (lambda x: taste.calibrated(x, ROWS, taste.TasteSpec(), 0.3), TRAITS),
    "unit length": (embedding.unit, X),
    "CLIP score": (lambda x: embedding.clip_score(X, x), Y),
    "r": (lambda x: reward.score(NETWORK, x.astype(np.float32), X.astype(np.float32), SPEC), Y),
    "r of long embeddings": (
        lambda x: reward.score(NETWORK, X.astype(np.float32), x.astype(np.float32), replace(SPEC, normalise=False)), Y),
    "HPS": (lambda x: preference.hps(x, Y), X),
    "hits": (lambda x: preference.hits(x, ROWS, np.array([0, 1])), EIGHT),
    "ridge": (lambda x: preference.ridge(X, x), Y[:, 0]),
    "aesthetic": (lambda x: preference.aesthetic(X, x), np.ones(5)),
    "grouped pairwise accuracy": (lambda x: stats.grouped_pairwise_accuracy(x, [1, 0] * 4, PROMPTS), EIGHT),
    "votes": (lambda x: stats.votes(x, np.ones(8), np.ones(8)), np.ones(8)),
    "interval": (lambda x: stats.cluster_bootstrap(x, np.arange(8)), EIGHT),
    "interval, by weights": (lambda x: stats.cluster_bootstrap(EIGHT, np.arange(8), weights=x), np.ones(8)),
    "interval of a statistic": (lambda x: stats.cluster_bootstrap(x, np.arange(8), lambda v: (v > 0.5).mean()), EIGHT),
    "paired difference": (lambda x: stats.paired_difference(x, EIGHT[::-1], np.arange(8)), EIGHT),
    "share": (stats.share_interval, np.array([1.0, 0, 1, 1])),
    "calibration error": (lambda x: ablation.calibration_error(x, np.ones(8), 2), EIGHT),
    "calibration error, by labels": (lambda x: ablation.calibration_error(EIGHT, x, 2), np.ones(8)),
    "calibration floor": (lambda x: ablation.calibration_floor(x, 2, 3), EIGHT[None]),
    "verdict of an interval": (lambda x: ablation.verdict(*x), np.array([0.1, 0.2])),
    "reliability": (lambda x: charts.reliability(x, np.ones(8), plt.figure().gca(), 2), EIGHT),
    "reliability, by labels": (lambda x: charts.reliability(EIGHT, x, plt.figure().gca(), 2), np.ones(8)),
    "kept": (lambda x: rejection.kept(x, 2), EIGHT.reshape(2, 4)),
    "best of n": (lambda x: rejection.best_of(x, EIGHT, 2), EIGHT),
    "best of n, by quality": (lambda x: rejection.best_of(EIGHT, x, 2), EIGHT),
    "near-uniform": (adaptation.near_uniform, GREY),
    "selection": (lambda x: adaptation.select(x, POOL, np.ones(32, bool), 0.5), X.ravel()[:32]),
    "selection, by what is usable": (lambda x: adaptation.select(X.ravel()[:32], POOL, x, 0.5), np.ones(32)),
    "user study": (
        lambda x: adaptation.votes(x, TRAITS[:2], [("a", "b"), ("c", "d")], ["u"], taste.TasteSpec()), TRAITS[2:4]),
    "majorities": (adaptation.majorities, np.ones((3, 2))),
    "ceiling": (lambda x: finetune.ceiling(x, np.ones(8)), EIGHT),
    "ceiling, by labels": (lambda x: finetune.ceiling(EIGHT, x), np.ones(8)),
    **{f"weights, {how}": (lambda x, how=how: finetune.reweighted(x, how), EIGHT) for how in finetune.WEIGHTINGS},
}  # fmt: skip


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("what", MADE)
def test_nothing_is_made_of_one_value_that_is_not_finite(what, bad):
    make, good = MADE[what]
    make(good)
    broken = good.astype(float)
    broken.flat[broken.size // 2] = bad
    with pytest.raises(ValueError, match="NaN or infinite|finite number|, such as -?(nan|inf)") as refusal:
        make(broken)
    assert "\n" not in str(refusal.value)
    plt.close("all")


@pytest.mark.parametrize("what, named", {
    "Fréchet distance, real": "real features", "Fréchet distance, generated": "generated features",
    "floor, redrawn": "generated features", "choice": "traits", "choice of a coin": "traits",
    "CLIP score": "embeddings", "r": "embeddings",
}.items())  # fmt: skip
def test_what_is_refused_is_what_was_given(what, named):
    make, good = MADE[what]
    broken = good.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match=rf"^1 of {good.size} values of {named} are NaN or infinite, the first at \[3, 1\]"):
        make(broken)


@pytest.mark.parametrize("bad", (np.inf, -np.inf))
@pytest.mark.parametrize("make", [
    lambda x: stats.krippendorff_alpha(x, "ordinal"), stats.fleiss_kappa,
    lambda x: reward.taught(x.ravel(), ["Two dogs"] * 8, np.zeros(8), SPEC),
])  # fmt: skip
def test_a_missing_label_is_left_out_and_an_infinite_one_is_refused(make, bad):
    ratings = np.array([[1, 0], [1, 1], [0, 0], [np.nan, 0]])
    make(ratings)
    ratings[1, 1] = bad
    with pytest.raises(ValueError, match="infinite, the first at"):
        make(ratings)


def test_a_score_may_be_missing_where_nobody_ranked_or_labelled():
    scores, labels = np.array([0.9, np.nan, 0.1]), np.array([1, np.nan, 0])
    assert stats.grouped_pairwise_accuracy(scores, labels, list("aaa")).right.tolist() == [1]


def test_items_without_a_prompt_are_not_left_out():
    for lost in (None, np.nan):
        for ask in (lambda of: stats.grouped_pairwise_accuracy([3, 2, 1, 2], [1, 0, 0, 1], of),
                    lambda of: stats.cluster_bootstrap([3, 2, 1, 2], of)):  # fmt: skip
            with pytest.raises(ValueError, match="^1 of 4 items have no (group|cluster): every item needs its prompt$"):
                ask(["a", "a", lost, "b"])


# ---- numbers that overflow or divide by nothing --------------------------------------------------------------------


@pytest.mark.parametrize("large", [1e80, 1e200])
def test_features_too_large_for_a_distance_are_refused(large):
    with pytest.raises(ValueError, match="^the square of the features' variance is NaN or infinite: expected a finite"):
        metrics.frechet_distance(X, large * Y)


@pytest.mark.parametrize("large", [1e200, np.float32(1e30)])
def test_an_embedding_too_long_to_measure_is_refused(large):
    with pytest.raises(ValueError, match="^1 of 40 values of lengths of embeddings are NaN or infinite, the first at .7"):
        embedding.unit(np.concatenate([X[:7], large * X[7:8], X[8:]]).astype(np.asarray(large).dtype))


def test_a_reward_whose_layers_overflow_gives_no_r():
    network = reward.Reward(4, 8)
    for part in (network.first, network.second):
        torch.nn.init.constant_(part.weight, 3e38)
        part.weight.data[::2] *= -1
        part.weight.data[:, ::2] *= -1
    with pytest.raises(ValueError, match="values of r are NaN or infinite"):
        reward.score(network, 1e3 * X.astype(np.float32), X.astype(np.float32), replace(SPEC, normalise=False))


@pytest.mark.parametrize("found, kept", [(-1e-9, 0.0), (-0.0, 0.0), (0.25, 0.25)])
def test_only_rounding_below_zero_becomes_zero(monkeypatch, found, kept):
    from torchmetrics.image.fid import FrechetInceptionDistance

    monkeypatch.setattr(FrechetInceptionDistance, "compute", lambda self: torch.tensor(found, dtype=torch.float64))
    assert metrics.frechet_distance(X, Y) == kept
    for wrong, said in ((-0.5, "came out as -0.5, below 0"), (float("nan"), "is NaN or infinite"), (float("inf"), "is NaN")):
        monkeypatch.setattr(FrechetInceptionDistance, "compute", lambda self, wrong=wrong: torch.tensor(wrong))
        with pytest.raises(ValueError, match=f"^the Fréchet distance {said}"):
            metrics.frechet_distance(X, Y)


def test_a_distance_without_a_spread_is_refused():
    with pytest.raises(ValueError, match="^an interval needs at least 2 draws, got 1$"):
        metrics.distance_with_interval(X, Y, draws=1)  # the lower bound would be 0
    with pytest.raises(ValueError, match="^class probabilities must be in .0, 1., got -0.5$"):
        metrics.inception_score(np.array([[1.5, -0.5], [0.5, 0.5]]))


@pytest.mark.parametrize("nil", [np.zeros(4), np.full(4, 1e-200), np.zeros(4, np.float32)])
def test_an_embedding_without_a_direction_has_no_score(nil):
    broken = X.copy()
    broken[5] = nil
    scores = (lambda: embedding.clip_score(broken, Y), lambda: preference.hps(Y, broken), lambda: embedding.unit(broken))
    for score in scores:
        with pytest.raises(ValueError, match="^1 of 40 embeddings have length 0 .* no direction; the first is at index 5$"):
            score()


def test_a_share_is_of_what_is_true_or_false():
    assert stats.share_interval([True, False])[0] == stats.share_interval(np.array([1, 0.0]))[0] == 0.5
    for wrong in (0.5, 2, None):
        with pytest.raises(ValueError, match=f"^1 of 3 items are neither true nor false, such as {wrong}"):
            stats.share_interval([1, wrong, 0])


def test_rewards_of_nothing_have_no_ceiling_and_votes_are_for_a_side_or_a_tie():
    with pytest.raises(ValueError, match="^the rewards sum to 0"):
        finetune.ceiling(np.zeros(4), np.ones(4))
    for wrong in (2, 0.5):
        with pytest.raises(ValueError, match=rf"^1 of 18 votes, such as {wrong}.*, are not 1 \(A\), -1 \(B\) or 0 \(tie\)$"):
            tallies.tally(np.array([[wrong, 1]] + [[1, 1]] * 8), PROMPTS[3:5])


def test_a_bound_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="^2 of 2 values of the statistic's bounds are NaN or infinite"):
        stats.cluster_bootstrap(np.arange(8), np.arange(8), lambda i: 1.0 if len(set(i)) == 8 else np.inf)


# ---- networks whose weights broke ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_judge_or_a_feature_network_whose_weights_broke_says_nothing(bad):
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    judge = networks.Judge("a")
    torch.nn.init.constant_(judge.heads["colour"].bias, bad)
    with pytest.raises(ValueError, match=r"^(\d+) of \1 values of logits of colour are NaN or infinite, the first at "):
        judges.look(judge.eval(), pixels)
    network = networks.FeatureNet()
    torch.nn.init.constant_(network.features.bias, bad)
    with pytest.raises(ValueError, match="^128 of 128 values of features are NaN or infinite, the first at .0, 0.: "):
        metrics.features(network.eval(), pixels)


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("part", ["first.weight", "second.bias", "last.bias"])
def test_a_reward_whose_weights_broke_gives_no_r(part, bad):
    network = reward.Reward(4, 8)
    with torch.no_grad():
        network.get_parameter(part).view(-1)[0] = bad
    with pytest.raises(ValueError, match=f"^1 of [0-9]+ values of the reward's {part} are NaN or infinite"):
        reward.score(network, X.astype(np.float32), Y.astype(np.float32), SPEC)


def test_an_infinite_embedding_is_no_reward_of_one():
    network, image = reward.Reward(4, 8), np.ones((3, 4), np.float32)
    for p in network.parameters():
        torch.nn.init.constant_(p, 0.1)
    image[2, 1] = np.inf
    for normalise in (True, False):
        with pytest.raises(ValueError, match="^1 of 12 values of embeddings are NaN or infinite, the first at .2, 1."):
            reward.score(network, image, np.ones((3, 4), np.float32), replace(SPEC, normalise=normalise))


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_clip_whose_weights_broke_embeds_nothing(bad):
    weight = torch.nn.Parameter(torch.ones(1))
    clip = SimpleNamespace(parameters=lambda: iter([weight]), encode_image=lambda x: x.mean((2, 3)) * bad,
                           encode_text=lambda x: x * bad)  # fmt: skip
    with pytest.raises(ValueError, match="^6 of 6 values of image embeddings are NaN or infinite"):
        embedding.embed_images(clip, lambda image: torch.ones(3, 4, 4), np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="^4 of 4 values of text embeddings are NaN or infinite"):
        embedding.embed_texts(clip, lambda texts: torch.ones(len(texts), 2), ["a", "b", "a"])


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_generator_whose_weights_broke_draws_nothing(make_pipe, monkeypatch, bad):
    pipe = make_pipe(3)
    latents = torch.zeros(2, 16, 8, 8)
    latents[1, 3, 2, 1] = bad
    with pytest.raises(ValueError, match="^1 of 2,048 values of latents are NaN or infinite, the first at .1, 3, 2, 1.: "):
        sampling.decode(pipe, latents)
    torch.nn.init.constant_(pipe.unet.conv_out.bias, bad)
    with pytest.raises(ValueError, match="values of latents are NaN or infinite"):
        sampling.sample(pipe, ["Six cats"], [0], SamplerSpec(guidance_scale=3.0, steps=2, guided=2))
    out, seen = torch.zeros(1, 3, 64, 64), SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))
    out[0, 0, 0, 0] = bad
    monkeypatch.setattr(pipe.vae, "decode", lambda *a, **k: (out,))
    monkeypatch.setattr(pipe.vae, "encode", lambda x: seen)
    with pytest.raises(ValueError, match="^1 of 12,288 values of decoded pixels are NaN or infinite"):
        sampling.decode(pipe, torch.zeros(1, 16, 8, 8))
    with pytest.raises(ValueError, match="^1 of 2,048 values of latents are NaN or infinite"):
        sampling.encode(pipe, np.zeros((2, 64, 64, 3), np.uint8))
    monkeypatch.setattr(pipe, "text_encoder", lambda ids: SimpleNamespace(last_hidden_state=torch.full((1, 16, 128), bad)))
    with pytest.raises(ValueError, match="values of text states are NaN or infinite"):
        sampling.encode_texts(pipe, ["Six cats"])
