"""Prompts become the stock pipeline's images, whatever the batch; a killed stage goes on where it was."""

import copy

import numpy as np
import pytest
import torch

from lib.feedback import judges
from lib.ground import cache, precision
from lib.ground.cache import load_arrays
from lib.ground.sizes import EXACT, SamplerSpec
from lib.images import models, networks, sampling
from lib.world import prompts

PROMPTS = ["Two blue dogs in the forest", "A red colored apple", "Six cats", "An apple on the moon", "Six cats"]
SEEDS = [11, 12, 13, 14, 15]


def draw(pipe, prompts=PROMPTS, seeds=SEEDS, batch=None, **settings):
    """Images float in [0, 1] after four steps, all guided, in float32."""
    spec = SamplerSpec(**{"guidance_scale": 3.0, "steps": 4, "guided": 4, "full_precision": True, **settings})
    return sampling.sample(pipe, prompts, seeds, spec, batch=batch) / 255


@pytest.mark.parametrize("guidance, negative", [(1.0, ""), (3.0, ""), (3.0, "three green cars in the city")])
def test_the_same_latents_give_the_stock_pipelines_images(pipe, guidance, negative):
    stock = pipe(
        PROMPTS, latents=sampling.start_noise(pipe, SEEDS), num_inference_steps=4, guidance_scale=guidance,
        negative_prompt=[negative] * len(PROMPTS), output_type="np",
    ).images  # fmt: skip
    ours = draw(pipe, guidance_scale=guidance, negative_prompt=negative)
    assert ours.shape == stock.shape == (5, 64, 64, 3)
    np.testing.assert_allclose(ours, stock, atol=0.6 / 255)


def test_prompt_guidance_and_negative_prompt_all_count(pipe):
    def gap(**settings):
        return abs(draw(pipe) - draw(pipe, **settings)).max()

    assert gap(prompts=PROMPTS[::-1]) > 2 / 255
    assert gap(guidance_scale=1.0) > 2 / 255
    assert gap(negative_prompt="three green cars in the city") > 2 / 255


def test_the_later_steps_ask_once_and_take_over_what_guidance_last_changed_in_the_noise(pipe):
    """Against the rule written out for predictions of v, whose gap in units of noise is the gap of v times the signal."""
    spec, asked = SamplerSpec(guidance_scale=3.0, steps=4, guided=2, full_precision=True), []
    hook = pipe.unet.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    ours = sampling.sample(pipe, PROMPTS, SEEDS, spec) / 255
    hook.remove()
    assert asked == [10, 10, 5, 5] and sum(asked) == 5 * spec.calls
    text, empty = sampling.encode_texts(pipe, PROMPTS), sampling.encode_texts(pipe, [""] * 5)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(4)
    x, signal = sampling.start_noise(pipe, SEEDS), [float(scheduler.alphas_cumprod[t]) ** 0.5 for t in scheduler.timesteps]
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            given = pipe.unet(x, t, encoder_hidden_states=text).sample
            if i < 2:
                gap = given - pipe.unet(x, t, encoder_hidden_states=empty).sample
            x = scheduler.step(given + 2 * gap * (1 if i < 2 else signal[1] / signal[i]), t, x).prev_sample
    np.testing.assert_allclose(ours, sampling.decode(pipe, x) / 255, atol=1.001 / 255)
    assert abs(ours - draw(pipe)).max() > 2 / 255


def test_without_guidance_the_unet_is_asked_once_a_step(pipe):
    assert SamplerSpec(guidance_scale=1.0, steps=4, guided=2).calls == 4
    np.testing.assert_array_equal(draw(pipe, guidance_scale=1.0, guided=2), draw(pipe, guidance_scale=1.0))


@pytest.mark.parametrize(
    "change, said",
    [(dict(steps=0), "steps"), (dict(guided=0), "guided"), (dict(guided=9), "guided"),
     (dict(guidance_scale=-1.0), "guidance_scale")],
)  # fmt: skip
def test_a_way_to_draw_that_makes_no_sense_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        SamplerSpec(**change)


def test_the_study_draws_with_13_calls_and_holds_that_against_the_20_of_ten_guided_steps():
    assert (SamplerSpec().calls, EXACT.calls) == (13, 20) and EXACT.guidance_scale == SamplerSpec().guidance_scale


def test_where_bfloat16_is_fast_images_are_drawn_in_it_by_every_part_and_are_nearly_the_same(monkeypatch):
    pipe, texts, seen = models.load_generator(), prompts.evaluation_prompts()[::5], {}
    for name, part in (("unet", pipe.unet.conv_out), ("vae", pipe.vae.decoder.conv_out)):
        part.register_forward_hook(lambda _, args, out, name=name: seen.setdefault(name, set()).add(out.dtype))

    def drawn(fast: bool, **settings):
        monkeypatch.setattr(precision, "FAST_BFLOAT16", fast)
        seen.clear()
        return sampling.sample(pipe, texts, range(len(texts)), SamplerSpec(**settings)).astype(int)

    exact = drawn(False)
    assert seen == {"unet": {torch.float32}, "vae": {torch.float32}}
    np.testing.assert_array_equal(drawn(True, full_precision=True), exact)
    quick = drawn(True)
    assert seen == {"unet": {torch.bfloat16}, "vae": {torch.bfloat16}}
    far = abs(quick - exact).mean((1, 2, 3))
    assert 0 < np.median(far) < 1  # of 255
    of = [judges.verdicts(judges.look(models.load_judge("a"), x.astype(np.uint8)), texts) for x in (quick, exact)]
    assert (of[0] == of[1]).mean() >= 0.85  # 98 % of 480 images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_networks_group_normalisation_is_pytorchs(dtype):
    plain = torch.nn.GroupNorm(4, 8).to(dtype)
    with torch.no_grad():
        plain.weight.uniform_(), plain.bias.uniform_()
    ours = networks.channels_last(torch.nn.Sequential(copy.deepcopy(plain)))
    assert type(ours[0]) is networks.GroupNorm and type(copy.deepcopy(ours)[0]) is networks.GroupNorm
    x = torch.randn(3, 8, 5, 6, dtype=dtype).contiguous(memory_format=torch.channels_last)
    there, here = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = plain(there), ours(here)
    assert b.is_contiguous(memory_format=torch.channels_last)
    a.square().sum().backward(), b.square().sum().backward()
    near = dict(atol=2e-2, rtol=2e-2) if dtype == torch.bfloat16 else dict(atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(b, a, **near)
    torch.testing.assert_close(here.grad, there.grad, **near)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_image_does_not_depend_on_batch_or_order(pipe, batch):
    order = [3, 0, 4, 2, 1]
    moved = draw(pipe, [PROMPTS[i] for i in order], [SEEDS[i] for i in order], batch=batch)
    assert abs(moved - draw(pipe)[order]).max() <= 1.001 / 255


def test_start_noise_depends_on_the_seed_alone(pipe, make_pipe):
    noise = sampling.start_noise(pipe, [7, 8, 7])
    torch.manual_seed(99)
    again = sampling.start_noise(make_pipe(1), [8, 7])
    assert noise.shape == (3, 16, 8, 8) and noise.dtype == torch.float32
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[:2].flip(0), again)
    many = sampling.start_noise(pipe, range(50))
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02


def test_a_seed_depends_on_all_parts_and_on_their_borders():
    seeds = [sampling.seed_of(*p) for p in (("a", "b", 1), ("a", "b", 2), ("ab", "", 1), ("a", "b1"), ("b", "a", 1))]
    assert len(set(seeds)) == 5 and all(0 <= s < 2**63 for s in seeds)
    assert sampling.seed_of("labelled", "Six cats", 3) == 199843140501354708  # no seed may change with a release


def test_each_distinct_text_is_encoded_once(pipe):
    encoded = []
    hook = pipe.text_encoder.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    states = sampling.encode_texts(pipe, PROMPTS * 3, batch=3)
    hook.remove()
    assert encoded == [3, 1] and states.shape == (15, 16, 128)
    assert torch.equal(states[2], states[4])  # both "Six cats"
    for i in (0, 1, 3):
        alone = sampling.encode_texts(pipe, [PROMPTS[i]])[0]
        torch.testing.assert_close(states[i], alone, atol=1e-4, rtol=0)
        torch.testing.assert_close(states[i + 10], alone, atol=1e-4, rtol=0)


def test_images_and_latents_keep_order_and_shape(pipe):
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    latents = sampling.encode(pipe, images, batch=2)
    assert latents.shape == (5, 16, 8, 8) and latents.dtype == torch.float32 and not latents.requires_grad
    torch.testing.assert_close(sampling.encode(pipe, images[3:4])[0], latents[3], atol=1e-3, rtol=1e-3)
    back = sampling.decode(pipe, latents)
    assert back.shape == images.shape and back.dtype == np.uint8
    pixels = sampling.to_pixels(images)
    assert pixels.shape == (5, 3, 64, 64)
    assert pixels[1, 2, 3, 4] == pytest.approx(images[1, 3, 4, 2] / 127.5 - 1)


def test_bad_requests_are_refused_in_one_line(pipe):
    for ask in (lambda: draw(pipe, [], []), lambda: stage_of([], [])):
        with pytest.raises(ValueError, match="^no prompts: give at least one prompt to sample from$"):
            ask()
    with pytest.raises(ValueError, match="^need one seed per prompt, got 5 prompts and 4 seeds$"):
        draw(pipe, PROMPTS, SEEDS[:4])


# ---- the stage ----------------------------------------------------------------------------------------------------


def drawn_from(pipe, prompts, seeds, spec=None, **settings):
    """Stands for `sample`: 2 x 2 pixels that depend on prompt and seed alone, at no cost."""
    return np.stack([np.random.default_rng((len(p), s)).integers(0, 256, (2, 2, 3), dtype=np.uint8)
                     for p, s in zip(prompts, seeds, strict=True)])  # fmt: skip


def stage_of(prompts, numbers, stream="labelled", load=object):
    return sampling.sampled(load, {"base": "d1"}, prompts, numbers, stream, SamplerSpec(steps=4, guided=4))


def test_a_killed_stage_goes_on_to_the_images_of_an_undisturbed_one(tmp_path, monkeypatch, patched):
    prompts, numbers = PROMPTS * 220, list(range(1100))  # three parts: 512, 512, 76
    parts = []

    def sample(pipe, prompts, seeds, spec, **settings):
        parts.append(len(prompts))
        if parts == [512, 512]:
            raise KeyboardInterrupt
        return drawn_from(pipe, prompts, seeds)

    monkeypatch.setattr(cache, "CACHE", tmp_path / "killed")
    monkeypatch.setattr(sampling, "sample", sample)
    with pytest.raises(KeyboardInterrupt):
        stage_of(prompts, numbers)
    resumed = stage_of(prompts, numbers)
    assert parts == [512, 512, 512, 76]  # the first part was not drawn again
    monkeypatch.setattr(cache, "CACHE", tmp_path / "undisturbed")
    monkeypatch.setattr(sampling, "sample", drawn_from)
    whole = stage_of(prompts, numbers)
    assert resumed.digest == whole.digest and resumed.path != whole.path
    seeds = [sampling.seed_of("labelled", p, n) for p, n in zip(prompts, numbers, strict=True)]
    np.testing.assert_array_equal(sampling.load_images(whole).pixels, drawn_from(None, prompts, seeds))
    assert sorted(p.name for p in whole.path.iterdir()) == ["images.safetensors", "index.parquet", "manifest.json"]


def test_a_damaged_part_is_drawn_again(monkeypatch, patched, capfd):
    prompts, numbers, parts = PROMPTS * 220, list(range(1100)), []

    def sample(pipe, prompts, seeds, spec, **settings):
        parts.append(len(prompts))
        if parts == [512, 512, 76]:
            raise KeyboardInterrupt
        return drawn_from(pipe, prompts, seeds)

    monkeypatch.setattr(sampling, "sample", sample)
    with pytest.raises(KeyboardInterrupt):
        stage_of(prompts, numbers)
    (damaged,) = cache.CACHE.glob("work/images-*/_partial/000512-*")
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1  # one pixel, by one
    damaged.write_bytes(content)
    made = stage_of(prompts, numbers)
    assert parts == [512, 512, 76, 512, 76] and "is damaged" in capfd.readouterr().err
    seeds = [sampling.seed_of("labelled", p, n) for p, n in zip(prompts, numbers, strict=True)]
    np.testing.assert_array_equal(sampling.load_images(made).pixels, drawn_from(None, prompts, seeds))


def test_a_stage_knows_the_name_prompt_number_and_digest_of_each_image(empty_cache, monkeypatch, patched):
    monkeypatch.setattr(sampling, "sample", drawn_from)
    shown = sampling.load_images(stage_of(PROMPTS, [0, 0, 0, 0, 1]))
    assert shown.prompts == PROMPTS and shown.numbers == [0, 0, 0, 0, 1] and len(shown) == 5
    assert shown.digests == [sampling.image_digest(x) for x in shown.pixels] and len(set(shown.digests)) == 5
    pixels = drawn_from(None, PROMPTS[:1], [sampling.seed_of("labelled", PROMPTS[0], 0)])
    np.testing.assert_array_equal(shown.pixels[0], pixels[0])
    assert [sampling.seed_of(name) for name in shown.names] == [
        sampling.seed_of("labelled", p, n) for p, n in zip(shown.prompts, shown.numbers, strict=True)]  # fmt: skip
    assert len(set(shown.names)) == 5


def test_an_images_name_knows_nothing_of_its_pixels_nor_of_what_else_is_in_the_set(empty_cache, monkeypatch, patched):
    monkeypatch.setattr(sampling, "sample", drawn_from)
    shown = sampling.load_images(stage_of(PROMPTS, range(5)))
    monkeypatch.setattr(sampling, "sample", lambda *args, **how: drawn_from(*args) // 2)
    order = [3, 0, 4]
    again = sampling.load_images(sampling.sampled(object, {"base": "d2"}, [PROMPTS[i] for i in order], order, "labelled",
                                                  SamplerSpec(guidance_scale=2.0)))  # fmt: skip
    assert again.names == [shown.names[i] for i in order] and not set(again.digests) & set(shown.digests)
    part = shown.part(order)
    assert (part.names, part.digests) == (again.names, [shown.digests[i] for i in order])
    assert np.array_equal(part.pixels, shown.pixels[order]) and part.prompts == again.prompts and part.numbers == order
    assert not set(sampling.load_images(stage_of(PROMPTS, range(5), "unlabelled")).names) & set(shown.names)


def test_a_stage_made_before_loads_no_model(empty_cache, monkeypatch, patched):
    monkeypatch.setattr(sampling, "sample", drawn_from)
    loaded = []

    def load():
        loaded.append(1)

    first, again = (stage_of(PROMPTS, range(5), load=load) for _ in range(2))
    assert len(loaded) == 1
    other = stage_of(PROMPTS, range(5), stream="evaluation")
    assert again == first and other.digest != first.digest
    a, b = (load_arrays(x.path / "images.safetensors")["pixels"] for x in (first, other))
    assert (a != b).any(axis=(1, 2, 3)).all()  # another stream is other noise for every image


def test_a_part_holds_the_first_images_of_each_prompt_as_they_were_drawn(empty_cache, monkeypatch, patched):
    monkeypatch.setattr(sampling, "sample", drawn_from)
    made = stage_of(PROMPTS, [0, 1, 0, 0, 1])
    whole, part = sampling.load_images(made), sampling.load_images(sampling.numbered_below(made, 1))
    assert part.prompts == [PROMPTS[i] for i in (0, 2, 3)] and part.numbers == [0, 0, 0]
    assert np.array_equal(part.pixels, whole.pixels[[0, 2, 3]])
    assert part.digests == [sampling.image_digest(x) for x in part.pixels]
    assert part.names == [whole.names[i] for i in (0, 2, 3)]
