"""The best and the worst of a prompt are chosen by the paper's rule, and a LoRA alone learns from them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lib.feedback import choices
from lib.feedback.taste import TasteSpec
from lib.ground.cache import Artifact
from lib.ground.sizes import SIZES, SamplerSpec
from lib.images import sampling
from lib.methods import adaptation, denoising
from lib.methods.adaptation import AdaptationSpec, adapt, near_uniform, select
from lib.methods.denoising import Pairs
from lib.methods.preference import PreferenceSpec
from lib.methods.training import Updates
from lib.study import users, wu
from lib.study.wu import ADAPTATIONS, WuStudy
from lib.world import prompts
from lib.world.scenes import SEEN

SPEC = AdaptationSpec(rank=4, updates=5, batch=(6, 4, 6), warmup=1)


# ---- selection ----------------------------------------------------------------------------------------------------


def by_hand(scores, threshold):
    """The paper's rule for one group: (preferred, non-preferred), None where nothing is sure enough."""
    n, p, q = len(scores), np.exp(scores) / np.exp(scores).sum(), np.exp(-scores) / np.exp(-scores).sum()
    return (p.argmax() if p.max() > threshold / n else None), (q.argmax() if q.max() > threshold / n else None)


@pytest.mark.parametrize("threshold", [1.3, 2.0, 3.0])
def test_the_best_and_the_worst_are_taken_where_they_are_surer_than_the_threshold(threshold):
    rng = np.random.default_rng(1)
    sizes = rng.integers(4, 9, 60)
    texts, scores = np.repeat(np.arange(60), sizes), rng.standard_normal(sizes.sum())
    expected = [[], []]
    for g in range(60):
        rows = np.flatnonzero(texts == g)
        for kept, i in zip(expected, by_hand(scores[rows], threshold), strict=True):
            kept += [] if i is None else [rows[i]]
    best, worst = select(scores, texts.astype(str), np.ones(len(texts), bool), threshold)
    assert best.tolist() == expected[0] and worst.tolist() == expected[1]
    assert 0 < len(best) and scores[best].mean() > 1 > -1 > scores[worst].mean()


def test_small_groups_and_images_that_are_not_usable_are_left_out():
    scores, texts = np.array([9.0, 0, 0, 0, 9, 0, 0, 0, 0]), list("aaaabbbbb")
    usable = np.ones(9, bool)
    assert select(scores, texts, usable, 2.0, (2, 2))[0].tolist() == [0, 4]
    usable[4] = False
    assert 4 not in select(scores, texts, usable, 1.0, (2, 2))[0]
    usable[[4, 5]] = False
    assert select(scores, texts, usable, 1.2)[0].tolist() == [0]  # three images of b are too few


def test_a_budget_takes_the_surest_prompts_and_no_difference_at_all_is_refused():
    scores, texts = np.array([0.3, 0, 0, 0, 0.2, 0, 0, 0, -0.9, 0, 0, 0]), list("aaaabbbbcccc")
    best, worst = select(scores, texts, np.ones(12, bool), budget=(1, 2))
    assert best.tolist() == [0] and 8 in worst and len(worst) == 2
    with pytest.raises(ValueError, match="^no prompt passes the threshold of 2 / n: "):
        select(np.zeros(12), texts, np.ones(12, bool))


def test_where_few_prompts_pass_the_surest_are_taken_and_where_few_are_there_it_is_said_what_to_raise(capsys):
    scores = np.array([0.3, 0, 0, 0, 0.2, 0, 0, 0, 0.1, 0, 0, 0, 3.0, 0, 0, 0])
    texts, usable = list("aaaabbbbccccdddd"), np.ones(16, bool)
    one = select(scores, texts, usable, fewest=1)
    assert one[0].tolist() == [12] and "\npreferred" not in "\n" + capsys.readouterr().out
    best, worst = select(scores, texts, usable, fewest=2)
    assert best.tolist() == [0, 12] and len(worst) == 2 and not set(best) & set(worst)
    said = capsys.readouterr().out
    assert "preferred: only 1 of 4 prompts pass the threshold of 2 / n, so the 2 with the clearest scores are used\n" in said
    assert select(scores, texts, usable, threshold=3.9, fewest=3)[0].tolist() == [0, 4, 12]
    assert select(scores, texts, usable, threshold=1.0, fewest=2)[0].tolist() == [0, 4, 8, 12]
    with pytest.raises(ValueError, match="^4 prompts have at least 4 usable images whose scores differ, but 5 are needed: "):
        select(scores, texts, usable, fewest=5)
    same = np.where(np.array(texts) == "d", 1.0, scores)  # a prompt whose images score alike has no best
    with pytest.raises(ValueError, match="^3 prompts have at least 4 usable"):
        select(same, texts, usable, fewest=4)


def test_an_image_of_one_colour_is_near_uniform_and_a_picture_is_not():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    images[1] = 128 + images[1] // 64
    images[2, ..., 1:] = 0  # one channel alone is enough of a picture
    assert near_uniform(images).tolist() == [False, True, False]


def test_hps_selects_as_it_was_learnt_a_coin_as_many_and_swapped_labels_change_places(monkeypatch):
    rng = np.random.default_rng(2)
    texts = np.repeat([f"prompt {i}" for i in range(40)], 6)
    score, toss = 3 * rng.standard_normal((2, 240))  # HPS, so 100 x cosine
    shown = SimpleNamespace(prompts=texts.tolist(), pixels=rng.integers(0, 256, (240, 8, 8, 3)).astype(np.uint8))
    monkeypatch.setattr(wu.sampling, "load_images", lambda images: images)
    monkeypatch.setattr(WuStudy, "pool", [shown])
    monkeypatch.setattr(WuStudy, "hps", lambda self, images, spec: toss if spec.coin else score)
    stages, spec = WuStudy("smoke"), AdaptationSpec(threshold=1.5)
    best, worst = stages.selection(spec)
    logits = score * PreferenceSpec().scale / 100
    for ours, rule in zip((best, worst), select(logits, texts, np.ones(240, bool), 1.5), strict=True):
        assert ours.tolist() == rule.tolist()
    swapped, coin = stages.selection(replace(spec, swapped=True)), stages.selection(spec, coin=True)
    assert swapped[0].tolist() == worst.tolist() and swapped[1].tolist() == best.tolist()
    assert [len(c) for c in coin] == [len(best), len(worst)] and coin[0].tolist() != best.tolist()
    assert len(best) < len(select(score, texts, np.ones(240, bool), 1.5)[0])  # at the scale of cosines more would pass


def test_each_run_selects_by_a_classifier_of_its_own_and_its_coin_by_that_runs(monkeypatch):
    texts = [f"prompt {i // 6}" for i in range(240)]
    shown = SimpleNamespace(prompts=texts, pixels=np.random.default_rng(0).integers(0, 256, (240, 8, 8, 3)).astype(np.uint8))
    monkeypatch.setattr(wu.sampling, "load_images", lambda images: images)
    monkeypatch.setattr(WuStudy, "pool", [shown])
    score = {(s, c): 3 * np.random.default_rng((s, c)).standard_normal(240) for s in (0, 1) for c in (0, 1)}
    asked = []

    def hps(self, images, by):
        asked.append((by.seed, by.coin))
        return score[by.seed, by.coin]

    monkeypatch.setattr(WuStudy, "hps", hps)
    stages = WuStudy("smoke")
    found = {}
    for run in (0, 1):
        asked.clear()
        found[run] = [stages.selection(AdaptationSpec(threshold=1.5, seed=run), coin) for coin in (False, True)]
        assert asked == [(run, False), (run, False), (run, True)]
        assert [len(part) for part in found[run][0]] == [len(part) for part in found[run][1]]
    assert all(found[0][k][0].tolist() != found[1][k][0].tolist() for k in (0, 1))


# ---- training -----------------------------------------------------------------------------------------------------


def pairs(seed: int, items: int = 12) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    return Pairs(torch.randn(items, 16, 8, 8, generator=g), torch.randn(3, 16, 128, generator=g),
                 torch.randint(3, (items,), generator=g), torch.ones(items))  # fmt: skip


STREAMS = [pairs(1), pairs(2), pairs(3)]


def lora(make_pipe, folder, spec=SPEC, streams=STREAMS):
    folder.mkdir(exist_ok=True)
    pipe = make_pipe()
    adapt(pipe, streams, spec, folder)
    return pipe, load_file(folder / "pytorch_lora_weights.safetensors")


def test_every_attention_projection_learns_and_nothing_else_moves(make_pipe, tmp_path):
    before = {n: p.clone() for n, p in make_pipe().unet.named_parameters()}
    pipe, weights = lora(make_pipe, tmp_path)
    after = {n.replace(".base_layer", ""): p for n, p in pipe.unet.named_parameters() if "lora" not in n}
    assert after.keys() == before.keys() and all(torch.equal(after[n], p) for n, p in before.items())
    wanted = {n.rsplit(".", 1)[0] for n in before if any(f".{k}." in n for k in adaptation.PROJECTIONS)}
    learnt = {k.split(".lora")[0].removeprefix("unet.") for k in weights}
    assert learnt == wanted and len(weights) == 2 * len(wanted)
    ups = [v for k, v in weights.items() if ".lora.up." in k or "lora_B" in k]
    assert ups and all(u.abs().max() > 0 for u in ups) and {min(v.shape) for v in weights.values()} == {4}


def test_the_weights_load_in_the_stock_pipeline_and_draw_what_was_trained(make_pipe, tmp_path):
    pipe, _ = lora(make_pipe, tmp_path, replace(SPEC, learning_rate=0.02))
    spec = SamplerSpec(guidance_scale=2.5, steps=3, guided=3, full_precision=True)
    trained = sampling.sample(pipe, ["One dog"] * 2, [1, 2], spec)
    fresh = make_pipe()
    plain = sampling.sample(fresh, ["One dog"] * 2, [1, 2], spec).astype(int)
    fresh.load_lora_weights(tmp_path)
    loaded = sampling.sample(fresh, ["One dog"] * 2, [1, 2], spec)
    fresh.fuse_lora(components=["unet"])
    fused = sampling.sample(fresh, ["One dog"] * 2, [1, 2], spec)
    assert np.abs(plain - trained).max() > 3
    assert np.abs(loaded.astype(int) - trained).max() <= 1 and np.abs(fused.astype(int) - trained).max() <= 1


def test_it_lowers_the_loss_on_its_streams(make_pipe, tmp_path):
    few = [pairs(1, 4), pairs(2, 4), pairs(3, 4)]
    t, g = torch.arange(50, 1000, 80).repeat(4)[:48], torch.Generator().manual_seed(9)

    def loss(pipe):
        both = torch.cat([s.latents for s in few]).repeat(4, 1, 1, 1)
        states = torch.cat([s.states[s.text] for s in few]).repeat(4, 1, 1)
        noise = torch.randn(both.shape, generator=g.manual_seed(9))
        with torch.no_grad():
            return denoising.denoising_loss(pipe, both, states, t, noise).mean().item()

    before = loss(make_pipe())
    pipe, _ = lora(make_pipe, tmp_path, replace(SPEC, updates=40, learning_rate=0.01), few)
    assert loss(pipe) < 0.97 * before


def test_an_adaptation_repeats_and_goes_on_after_a_kill(make_pipe, tmp_path, monkeypatch):
    spec = replace(SPEC, updates=8)
    monkeypatch.setattr(adaptation, "EVERY", 5)
    _, whole = lora(make_pipe, tmp_path / "a", spec)
    real = denoising.denoising_loss

    def killed(pipe, latents, *rest):
        killed.calls += 1
        if killed.calls > 6:
            raise KeyboardInterrupt
        return real(pipe, latents, *rest)

    killed.calls = 0
    monkeypatch.setattr(adaptation, "denoising_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        lora(make_pipe, tmp_path / "b", spec)
    monkeypatch.setattr(adaptation, "denoising_loss", real)
    _, resumed = lora(make_pipe, tmp_path / "b", spec)
    assert all(torch.allclose(resumed[k], whole[k], atol=1e-6) for k in whole)


def test_what_a_stream_draws_does_not_depend_on_the_other_streams(make_pipe, tmp_path, monkeypatch):
    seen = []

    def noted(pipe, x, states, t, noise):
        seen.append((x, noise))
        return sum(p.sum() for p in pipe.unet.parameters()) + x[:, 0, 0, 0]

    monkeypatch.setattr(adaptation, "denoising_loss", noted)
    lora(make_pipe, tmp_path / "a", replace(SPEC, updates=1))
    lora(make_pipe, tmp_path / "b", replace(SPEC, updates=1, batch=(0, 0, 6)))
    (x, noise), (alone, alone_noise) = seen
    assert x.shape[0] == 16 and torch.equal(x[10:], alone) and torch.equal(noise[10:], alone_noise)
    assert any(torch.equal(x[0], row) for row in STREAMS[0].latents)
    assert any(torch.equal(x[6], row) for row in STREAMS[1].latents)


def test_the_rate_falls_to_nothing_in_even_steps(make_pipe, tmp_path, monkeypatch):
    rates = []

    class Noted(Updates):
        def __call__(self, *args):
            super().__call__(*args)
            rates.append(float(self.optimiser.param_groups[0]["lr"]))

    monkeypatch.setattr(adaptation, "Updates", Noted)
    lora(make_pipe, tmp_path, replace(SPEC, updates=4, warmup=0, learning_rate=0.4))
    np.testing.assert_allclose(rates, [0.4, 0.3, 0.2, 0.1])


def test_a_loss_that_is_not_finite_is_refused(make_pipe, tmp_path):
    broken = replace(STREAMS[0], latents=STREAMS[0].latents * float("nan"))
    with pytest.raises(ValueError, match="^the adaptation loss is nan at update 0: lower the learning rate$"):
        lora(make_pipe, tmp_path, streams=[broken, *STREAMS[1:]])


# ---- images -------------------------------------------------------------------------------------------------------


def test_a_negative_prompt_stands_in_the_place_of_the_empty_one(make_pipe, empty_cache):
    def drawn(negative):
        made = sampling.sampled(
            make_pipe, {"base": "x"}, ["One dog", "Two cats"], [0, 3], "s",
            SamplerSpec(guidance_scale=2.5, steps=3, guided=2, negative_prompt=negative),
        )
        return sampling.load_images(made)

    plain, without = drawn(""), drawn("Weird image. ")
    assert plain.prompts == without.prompts and plain.numbers == without.numbers == [0, 3]
    assert np.abs(plain.pixels.astype(int) - without.pixels).max() > 3
    seeds = [sampling.seed_of("s", "One dog", 0), sampling.seed_of("s", "Two cats", 3)]
    direct = sampling.sample(make_pipe(), plain.prompts, seeds, SamplerSpec(2.5, 3, 2, "Weird image. "))
    assert np.abs(direct.astype(int) - without.pixels).max() <= 1
    assert without.digests == [sampling.image_digest(x) for x in without.pixels]


# ---- the user study -----------------------------------------------------------------------------------------------

VOTERS = [f"voter-{i}" for i in range(20)]


def sides(gap: float, count: int = 400):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((count, 5))
    return a + gap * np.array([1, 0, 0, 0, 0]), a, [(f"a{i}", f"b{i}") for i in range(count)]


def test_swapping_the_sides_swaps_every_vote():
    for gap in (0.3, 1e-9):
        a, b, names = sides(gap)
        found = adaptation.votes(a, b, names, VOTERS, TasteSpec())
        swapped = adaptation.votes(b, a, [pair[::-1] for pair in names], VOTERS, TasteSpec())
        assert np.array_equal(found, ~swapped)


def test_a_vote_depends_on_the_user_and_the_names_of_the_images_alone():
    a, b, names = sides(0.3)
    found = adaptation.votes(a, b, names, VOTERS, TasteSpec())
    order = np.random.default_rng(1).permutation(400)[:90]
    some = adaptation.votes(a[order], b[order], [names[i] for i in order], VOTERS[::-1], TasteSpec())
    assert np.array_equal(some[::-1], found[:, order])
    renamed = adaptation.votes(a, b, names[::-1], VOTERS, TasteSpec())
    assert 0.2 < (renamed != found).mean() < 0.6


def test_two_images_that_are_liked_almost_alike_keep_their_votes_when_the_other_one_gets_ahead():
    a, b, names = sides(1e-9)
    ahead = adaptation.votes(a, b, names, VOTERS, TasteSpec(spread=0))
    behind = adaptation.votes(a - [2e-9, 0, 0, 0, 0], b, names, VOTERS, TasteSpec(spread=0))
    assert np.array_equal(ahead, behind) and ahead.mean() == pytest.approx(0.5, abs=0.03)


def test_equal_images_halve_the_votes_and_better_ones_win_as_often_as_users_like_them():
    taste = TasteSpec(spread=0.0)
    assert adaptation.votes(*sides(1e-9), VOTERS, taste).mean() == pytest.approx(0.5, abs=0.02)
    expected = (1 - taste.last) / (1 + np.exp(-taste.match * 0.8 / taste.noise)) + taste.last / 2
    assert adaptation.votes(*sides(0.8), VOTERS, taste).mean() == pytest.approx(expected, abs=0.02)
    assert adaptation.votes(*sides(-0.8), VOTERS, taste).mean() == pytest.approx(1 - expected, abs=0.02)


def test_images_that_are_the_same_pixel_for_pixel_share_the_votes():
    found = adaptation.votes(*sides(0.0, 30), VOTERS, TasteSpec())
    assert (found.sum(0) == 10).all() and not adaptation.majorities(found).any()


def test_a_pair_is_won_by_more_than_ten_of_twenty():
    found = np.zeros((20, 3), bool)
    found[:11, 0] = found[:10, 1] = found[:9, 2] = True
    assert adaptation.majorities(found).tolist() == [1, 0, -1]
    assert adaptation.majorities(np.stack([found, ~found])).tolist() == [[1, 0, -1], [-1, 0, 1]]  # by run


# ---- the study's stages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_no_prompt_of_choices_is_in_training_and_test_and_all_are_about_seen_objects(size):
    made = WuStudy(size)
    train, test = (made.choice_prompts(part) for part in ("train", "test"))
    assert (len(train), len(test)) == SIZES[size].choice_prompts == (len(set(train)), len(set(test)))
    assert not set(train) & set(test)
    assert {prompts.parse(p).object for p in train + test} <= set(SEEN)


@pytest.fixture
def adapted(monkeypatch):
    """A function of an arm: what its LoRA would be made of; the pool has eight images of each of three prompts."""
    texts, rng = [f"prompt {i // 8}" for i in range(24)], np.random.default_rng(3)
    pixels = rng.integers(0, 256, (24, 64, 64, 3)).astype(np.uint8)
    scores = {False: 3 * rng.standard_normal(24), True: 0.01 * rng.standard_normal(24)}
    shown = sampling.ImageSet(pixels, "pool", texts, list(range(24)), [f"d{i}" for i in range(24)])
    made = WuStudy("smoke")
    monkeypatch.setattr(WuStudy, "pool", [Artifact("images", "pool", None, "digest of pool", 0.0)])
    monkeypatch.setattr(WuStudy, "base_digest", "digest of base")
    monkeypatch.setattr(WuStudy, "web_captions", lambda self, n, first: {1: ["a dog"] * n}[first])  # as `web_latents`
    monkeypatch.setattr(WuStudy, "latents", lambda self, made: torch.arange(24.0)[:, None, None, None].expand(24, 16, 8, 8))
    monkeypatch.setattr(WuStudy, "web_latents", lambda self: torch.zeros(self.size.pretraining, 16, 8, 8))
    monkeypatch.setattr(WuStudy, "hps", lambda self, images, spec: 100 / spec.scale * scores[spec.coin])
    monkeypatch.setattr(sampling, "load_images", lambda made: shown)
    monkeypatch.setattr(denoising, "encoded", lambda pipe, latents, texts: (latents[:, 0, 0, 0].int().tolist(), texts))
    monkeypatch.setattr(
        adaptation, "adapted", lambda load, streams, spec, inputs: SimpleNamespace(
            streams=streams(None), spec=spec, inputs=inputs)
    )  # fmt: skip
    return lambda arm, **how: made.adapted(arm, made.adaptation_spec(arm, **how)), scores[False]


def test_the_worst_images_keep_their_prompt_behind_the_prefix(adapted):
    arm, scores = adapted
    preferred, worst, real = arm("adapted").streams
    assert all(t == f"prompt {i // 8}" for i, t in zip(*preferred, strict=True))
    assert all(t == f"Weird image. prompt {i // 8}" for i, t in zip(*worst, strict=True))
    assert set(preferred[0]) <= {int(8 * g + scores[8 * g : 8 * g + 8].argmax()) for g in range(3)}
    assert set(worst[0]) <= {int(8 * g + scores[8 * g : 8 * g + 8].argmin()) for g in range(3)}
    assert len(real[1]) == SIZES["smoke"].pretraining
    assert arm("another prefix").streams[1][1][0].startswith("Strange picture. prompt")
    assert arm("no prefix").streams[1][1][0].startswith("prompt")


def test_swapped_labels_change_places_and_a_coin_selects_as_many(adapted):
    arm, _ = adapted
    full, swapped, coin = arm("adapted"), arm("swapped labels"), arm("coin choices")
    assert [full.streams[i][0] for i in (0, 1)] == [swapped.streams[i][0] for i in (1, 0)]
    assert swapped.streams[1][1][0].startswith("Weird image. ")
    assert [len(s[0]) for s in coin.streams[:2]] == [len(s[0]) for s in full.streams[:2]]
    assert coin.streams[0][0] != full.streams[0][0] and coin.spec == full.spec
    assert len({str(a.inputs["selected"]) for a in (full, swapped, coin)}) == 3


def test_arms_differ_from_the_adapted_model_in_what_their_names_say(adapted):
    arm, _ = adapted
    full = arm("adapted").spec
    for name, change in ADAPTATIONS.items():
        assert arm(name).spec == replace(full, **change)
        assert sum(arm(name).spec.batch) == sum(full.batch)
    with pytest.raises(ValueError, match="^unknown adaptation 'rank 5': expected one of adapted, regularisation only, "):
        arm("rank 5")
    chosen = dict(learning_rate=0.03, updates=9, seed=1)
    assert arm("rank 4", **chosen).spec == replace(full, rank=4, **chosen)


def test_small_sizes_leave_out_arms_unless_they_are_asked_for_and_the_arms_of_a_test_have_runs():
    every, named = list(ADAPTATIONS), {"adapted", "regularisation only", *adaptation.TESTED}
    assert WuStudy("gpu").arms() == WuStudy("full").arms() == every
    assert set(WuStudy("laptop").arms()) == set(WuStudy("smoke").arms()) == named
    assert set(WuStudy("evening").arms()) == named | {"swapped labels", "no prefix"}
    assert WuStudy("laptop").arms(["rank 4"]) == [a for a in every if a in named | {"rank 4"}]
    for size, runs in (("laptop", 1), ("evening", 2), ("gpu", 3), ("full", 5)):
        made = WuStudy(size)
        for arm in every:
            specs = made.adaptation_runs(arm, learning_rate=0.5)
            assert len(specs) == (runs if arm in wu.RUNS else 1) and {s.learning_rate for s in specs} == {0.5}
            assert [s.seed for s in specs] == list(range(len(specs)))
        assert made.size.preference_seeds >= max(2, runs)  # of each run there are others to measure by


def test_the_user_study_asks_about_a_hundred_prompts(monkeypatch):
    texts = [p for p in prompts.evaluation_prompts() for _ in range(2)]
    rng, same = np.random.default_rng(0), [f"image {i}" for i in range(240)]  # two models from one start noise
    shown = {f"made {x}": SimpleNamespace(prompts=texts, names=same, traits=rng.normal(size=(240, 5))) for x in "ab"}
    monkeypatch.setattr(sampling, "load_images", shown.get)
    monkeypatch.setattr(WuStudy, "traits", lambda self, made: shown[made].traits)
    made = WuStudy("laptop")
    made.taste = TasteSpec()
    images = {"adapted": ["made a"], "base": ["made b"]}
    found, asked = made.study_votes(images, "adapted", "base")
    assert found.shape == (1, 20, 200) and len(set(asked)) == 100
    assert {prompts.parse(p).category for p in asked} == {"count", "colour", "background"}
    assert np.array_equal(made.study_votes(images, "base", "adapted")[0], ~found) and 0.3 < found.mean() < 0.7
    runs = {"adapted": ["made a", "made a"], "base": ["made b"]}  # the second is voted on anew, by the same users
    again = made.study_votes(runs, "adapted", "base")[0]
    assert np.array_equal(again[0], found[0]) and 0.2 < (again[1] != again[0]).mean() < 0.6
    assert np.array_equal(made.study_votes(runs, "base", "adapted")[0], ~again)
    others, on = made.study_votes(images, "adapted", "base", adaptation.SELECTOR)
    assert len(set(on)) == 120 and (others[0][:, np.isin(on, asked)] != found[0]).mean() > 0.2  # by other users
    shown["made b"].prompts = texts[::-1]
    with pytest.raises(ValueError, match="^a user study must compare images of the same prompts in the same order$"):
        made.study_votes(images, "adapted", "base")


@pytest.fixture
def judged(monkeypatch):
    """A study in which an image's name says how much users like it: 240 images of the 120 prompts, judge-b as users."""
    texts = [p for p in prompts.evaluation_prompts() for _ in range(2)]
    shown = SimpleNamespace(prompts=texts, names=[f"image {i}" for i in range(240)])
    monkeypatch.setattr(sampling, "load_images", lambda made: shown)
    monkeypatch.setattr(WuStudy, "traits", lambda self, made: made[:, None] * [1.0, 0, 0, 0, 0])
    monkeypatch.setattr(WuStudy, "verdicts", lambda self, made, judge: made > {"b": 2.0}[judge])
    made = WuStudy("laptop")
    made.taste = TasteSpec(spread=0.0)
    return made


def test_a_row_of_the_user_study_is_of_pairs_drawn_by_prompt_and_run(judged):
    better = np.where(np.arange(240) % 24 < 6, 9.0, -9.0)  # three prompts of twelve are surely won
    row = judged.user_study({"x": [better, better], "y": [np.zeros(240)]}, "x", "y")
    asked = np.array([i for i in range(240) if (i // 2) % 6 < 5])
    won = (better[asked] > 0).mean()
    assert (row["a"], row["b"], row["net_pairs"], row["net_prompts"], row["seeds"]) == ("x", "y", 200, 100, 2)
    assert (row["judge_b_pairs"], row["judge_b_prompts"]) == (240, 120)  # judge-b sees all
    assert row["win"] == pytest.approx(won) and row["lose"] == pytest.approx(1 - won)
    assert row["net"] == pytest.approx(2 * won - 1) and row["net_low"] < row["net"] < row["net_high"]
    assert row["judge_b"] == pytest.approx((better > 0).mean()) and row["judge_b_low"] > 0
    single = judged.user_study({"x": [better[::-1], better], "y": [np.zeros(240)]}, "x", "y")  # runs that disagree
    assert single["net_high"] - single["net_low"] > row["net_high"] - row["net_low"]


def test_settings_are_compared_with_the_centre_on_the_same_pairs_by_users_who_vote_nowhere_else(judged, monkeypatch):
    made, who, votes = {}, [], adaptation.votes
    monkeypatch.setattr(WuStudy, "adapted", lambda self, arm, spec: (arm, spec))
    monkeypatch.setattr(adaptation, "votes", lambda a, b, names, users, taste: (who.extend(users),
                                                                                votes(a, b, names, users, taste))[1])

    def adapted_images(self, kind, lora, negative_prompt):
        made[lora] = kind, negative_prompt
        return np.zeros(240) if lora is None else np.full(240, {1: 0.0, 2: 0.5, 3: 9.0, 4: -9.0}[lora[1].updates])

    monkeypatch.setattr(WuStudy, "adapted_images", adapted_images)
    grid = [AdaptationSpec(updates=n) for n in (2, 1, 3, 4)]
    rows = judged.compared_settings(grid)
    assert set(made.values()) == {("selection", adaptation.PREFIX)} and {lora[0] for lora in made if lora} == {"adapted"}
    assert [r["updates"] for r in rows] == [2, 1, 3, 4] and {r["learning_rate"] for r in rows} == {grid[0].learning_rate}
    assert rows[0]["ahead"] == rows[0]["ahead_low"] == rows[0]["ahead_high"] == 0 < rows[0]["low"]
    assert [r["gain"] for r in rows[1:]] == [0, 1, -1] and rows[0]["prompts"] == 120
    assert all(r["ahead"] == pytest.approx(r["gain"] - rows[0]["gain"]) for r in rows)
    assert rows[1]["ahead_high"] < 0 < rows[2]["ahead_low"]
    assert {u.split("-")[0] for u in who} == {adaptation.SELECTOR} != {adaptation.VOTER}


def test_hps_is_measured_by_every_classifier_but_the_one_that_selected(monkeypatch):
    made = WuStudy("evening")
    asked = []
    monkeypatch.setattr(WuStudy, "hps", lambda self, images, by: (asked.append(by), np.full(4, 10.0**by.seed))[1])
    for run, expected in ((0, (10 + 100) / 2), (1, (1 + 100) / 2), (2, (1 + 10) / 2)):
        np.testing.assert_allclose(made.hps_of_others(None, run), np.full(4, expected))
    assert not any(by.coin or by.choices < 1 for by in asked)
    made.size = replace(made.size, preference_seeds=1)
    with pytest.raises(ValueError, match="^HPS must be measured by a classifier that did not select: set "):
        made.hps_of_others(None)


def test_table_4_measures_each_run_by_the_classifiers_that_did_not_select_for_it(monkeypatch):
    """Of a model of one run too, so that both sides of a difference are measured by the same ones."""
    made = WuStudy("evening")
    monkeypatch.setattr(WuStudy, "hps", lambda self, images, by: np.full(3, images + 10.0**by.seed))
    for name in ("aesthetic", "panel_shares"):
        monkeypatch.setattr(WuStudy, name, lambda self, images: np.full(3, float(images)))
    monkeypatch.setattr(WuStudy, "verdicts", lambda self, images, judge: np.full(3, judge == "b"))
    monkeypatch.setattr(WuStudy, "embeddings", lambda self, images: (np.full((3, 2), images), np.ones((3, 2))))
    two, one = made.scored([1000, 2000]), made.scored([1000])
    assert made.size.finetune_seeds == 2 and made.size.preference_seeds == 3
    powers = 10.0 ** np.arange(3)
    others = np.array([powers[[1, 2]].mean(), powers[[0, 2]].mean()])
    np.testing.assert_allclose(two["hps"], np.tile((others + [1000, 2000])[:, None] / 100, 3))
    np.testing.assert_allclose(one["hps"], np.tile((others + 1000)[:, None] / 100, 3))
    assert two["aesthetic"].tolist() == two["panel"].tolist() == [[1000.0] * 3, [2000.0] * 3]
    assert two["judge_b"].tolist() == [[1.0] * 3] * 2 and one["clip_score"].shape == (1, 3)


def test_differences_of_models_are_paired_by_image_and_run_and_shares_of_what_may_be_nothing_are_left_out():
    rng, texts = np.random.default_rng(0), [f"prompt {i // 4}" for i in range(80)]
    b = rng.uniform(5, 9, (1, 80))
    values = {"a": {"good": np.concatenate([1.1 * b, 1.3 * b]), "near 0": b - b.mean()},
              "b": {"good": b, "near 0": b - b.mean() - 1e-3}}  # fmt: skip
    good, near = adaptation.differences(values, "a", "b", texts)
    assert (good["a"], good["b"], good["measure"], good["prompts"], good["seeds"]) == ("a", "b", "good", 20, 2)
    assert good["value"] == pytest.approx(0.2 * b.mean()) and good["low"] < good["value"] < good["high"]
    assert good["relative"] == pytest.approx(0.2)
    assert (good["relative_low"], good["relative_high"]) == pytest.approx((0.1, 0.3))  # either run twice
    assert near["value"] == pytest.approx(1e-3) and near["high"] - near["low"] < 1e-9
    assert near["relative"] is near["relative_low"] is near["relative_high"] is None


def test_what_is_said_of_the_prefix_follows_the_verdicts():
    no, other, coin = adaptation.TESTED
    assert (no, other, coin) == ("no non-preferred", "another prefix", "coin choices")
    said = {v: adaptation.mechanism({no: v, other: "no difference shown", coin: "better"}, 1)
            for v in ("better", "worse", "no difference shown")}  # fmt: skip
    assert len(set(said.values())) == 3
    assert " holds here; " in said["better"] and "Users like the images less" in said["better"]
    assert " does not hold here; " in said["worse"] and " is not shown here; " in said["no difference shown"]
    both = "; another prefix makes no detectable difference and choosing by coin toss does worse."
    assert all(both in s for s in said.values())
    assert all(s.endswith("Intervals are over prompts only, with one run per arm.") for s in said.values())
    two = adaptation.mechanism({no: "better", other: "worse", coin: "no difference shown"}, 2)
    assert "; another prefix does better and choosing by coin toss makes no detectable difference. " in two
    assert two.endswith("Intervals are over prompts and 2 runs per arm.")


def test_traits_are_in_spreads_of_training_images_of_one_prompt(monkeypatch):
    raw = {"train": np.array([[0.0, 100], [2, 104], [0, 500], [2, 504]]) * np.ones((1, 2)), "shown": np.array([[6.0, 40]])}
    monkeypatch.setattr(WuStudy, "choice_images", lambda self, part: part)
    monkeypatch.setattr(WuStudy, "_traits", lambda self, images: raw[images])
    monkeypatch.setattr(sampling, "load_images", lambda images: SimpleNamespace(prompts=list("aabb")))
    made = WuStudy("smoke")
    np.testing.assert_allclose(made.trait_units, [2**0.5, 2 * 2**0.5])
    np.testing.assert_allclose(made.traits("shown"), [[6 / 2**0.5, 40 / 2**1.5]])


def test_liking_is_the_sum_of_what_each_trait_adds_at_the_mean_users_weight(monkeypatch):
    monkeypatch.setattr(WuStudy, "traits", lambda self, images: 2 * np.eye(5))
    made = WuStudy("smoke")
    made.taste = TasteSpec(match=1.0, realism=2.0, size=3.0, placement=4.0, vividness=5.0)
    np.testing.assert_allclose(made.liking_by_trait(None), np.diag([2.0, 4, 6, 8, 10]))
    np.testing.assert_allclose(made.liking(None), [2, 4, 6, 8, 10])


def test_critics_rate_an_image_by_its_name_and_not_by_its_pixels(monkeypatch):
    rng = np.random.default_rng(0)
    shown = [sampling.ImageSet(np.zeros((60, 0)), stream, ["Two dogs"] * 60, list(range(60)),
                                [f"{d} {i}" for i in range(60)])
             for stream, d in (("labelled", "digest"), ("labelled", "another"), ("unlabelled", "digest"))]  # fmt: skip
    values, embeddings = rng.normal(size=(60, 5)), rng.normal(size=(60, 4))
    monkeypatch.setattr(WuStudy, "traits", lambda self, images: values)
    monkeypatch.setattr(WuStudy, "embeddings", lambda self, images: (embeddings, None))
    learnt = []
    for one in shown:
        made = WuStudy("smoke")
        made.taste, made.labelled_images = TasteSpec(), None
        monkeypatch.setattr(sampling, "load_images", lambda images, one=one: one)
        learnt.append(made.aesthetic_weights)
    assert np.array_equal(learnt[0], learnt[1]) and not np.allclose(learnt[0], learnt[2])


def test_a_choosers_guess_is_made_by_somebody_else(monkeypatch):
    made, texts = WuStudy("smoke"), [f"prompt {i // 4}" for i in range(40)]
    digests = [f"d{i}" for i in range(40)]
    shown = sampling.ImageSet(np.zeros((40, 0)), "choices", texts, list(range(40)), digests)
    monkeypatch.setattr(sampling, "load_images", lambda images: shown)
    monkeypatch.setattr(WuStudy, "traits", lambda self, images: np.zeros((40, 5)))
    made.taste = TasteSpec()
    chosen, guessed = made.choices(None), made.guesses(None)
    assert chosen[["prompt"]].equals(guessed[["prompt"]]) and len(chosen) == 10 * SIZES["smoke"].choosers
    assert not set(chosen.user) & set(guessed.user)
    assert not chosen.duplicated(["prompt", "user"]).any()
    made.taste = TasteSpec(last=0.9)  # people who choose mostly take the last; who guesses does not know which that was
    assert (made.choices(None).chosen == 3).mean() > 0.7 and (made.guesses(None).chosen == 3).mean() < 0.6
    made.taste = TasteSpec()
    monkeypatch.setattr(WuStudy, "choice_images", lambda self, part: None)
    for learnt, coin in zip(made.training_choices, (False, True), strict=True):
        wanted = choices.groups_of(made.choices(None, coin), shown.digests, shown.prompts)
        assert all(np.array_equal(a, b) for a, b in zip(learnt, wanted, strict=True))
    assert not np.array_equal(*(picked for _, picked in made.training_choices))
    assert isinstance(chosen, pd.DataFrame) and set(users.PARTS) == {"train", "test"}
    assert choices.checked(chosen).equals(chosen)
