"""Training at scale is the training of the miniature, whatever the micro-batches, the number of processes and the memory."""

import copy
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from lib.ground.setups import Training
from lib.methods import adaptation, denoising, finetune, preference
from lib.methods.adaptation import AdaptationSpec
from lib.methods.denoising import NO_CAPTION
from lib.methods.finetune import FinetuneSpec
from lib.methods.preference import PreferenceSpec
from lib.scale import draws, preferring, tuning, unets
from lib.scale.drawing import Drawing, drawn
from lib.scale.grid import Grid
from lib.scale.halves import halve_frozen
from lib.scale.tuning import Upkeep
from lib.scale.unets import Stream

TEXTS = ["a red dog", "two cats", "six apples in the forest", "a lion"]
SPEC = FinetuneSpec(updates=3, batch=(4, 3), beta=0.5, warmup=2, caption_dropout=0.3, learning_rate=1e-3)
TRAINING = Training()
QUIET = Upkeep(every=2)


class Held:
    """Latents with captions, in memory."""

    def __init__(self, count: int, seed: int):
        self.x = torch.randn((count, 16, 8, 8), generator=torch.Generator().manual_seed(seed))
        self.texts = [TEXTS[(i + seed) % len(TEXTS)] for i in range(count)]

    def __len__(self):
        return len(self.x)

    def latents(self, rows):
        return self.x[rows]

    def captions(self, rows):
        return [self.texts[r] for r in rows]


MODEL, WEB = Held(9, 1), Held(7, 2)
WEIGHT = torch.rand(9, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setattr(denoising, "autocast", nullcontext)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def tune(make_pipe, tmp_path, accelerator):
    """A function that tunes a new tiny pipeline, and gives back its U-Net's weights."""

    def run(spec=SPEC, training=TRAINING, upkeep=QUIET, folder=tmp_path / "scale", weight=WEIGHT, **others):
        pipe = make_pipe()
        streams = Stream(MODEL, weight), Stream(WEB)
        others = {"tell": lambda line: None, "blanks": NO_CAPTION} | others
        unets.finetune(accelerator, pipe, *streams, spec, training, folder, upkeep, **others)
        return weights(pipe)

    return run


def weights(pipe) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in pipe.unet.named_parameters()}


def off(a: dict, b: dict, start: dict) -> float:
    """The distance of two sets of weights relative to how far training moved the second."""
    assert a.keys() == b.keys() == start.keys()
    square = [sum(float((x[n].float() - b[n].float()).square().sum()) for n in b) for x in (a, start)]
    return (square[0] / square[1]) ** 0.5


@pytest.fixture
def start(make_pipe):
    return weights(make_pipe())


@pytest.mark.parametrize("change", [{}, {"use_model": False}, {"beta": 0.0, "schedule": "constant"}])
def test_fine_tuning_at_scale_is_that_of_the_miniature(change, make_pipe, tune, start, tmp_path):
    spec, pipe = replace(SPEC, **change), make_pipe()
    (tmp_path / "mini").mkdir()
    pairs = denoising.encoded(pipe, MODEL.x, MODEL.texts, WEIGHT), denoising.encoded(pipe, WEB.x, WEB.texts)
    finetune.finetune(pipe, *pairs, spec, tmp_path / "mini", tell=lambda line: None)
    assert off(tune(spec), weights(pipe), start) < 1e-3


@pytest.mark.parametrize("change", [{"micro_batch": 1}, {"micro_batch": 2, "gradient_checkpointing": True}])
def test_micro_batches_and_gradient_checkpointing_change_nothing(change, tune, start, tmp_path):
    assert off(tune(training=replace(TRAINING, **change), folder=tmp_path / "other"), tune(), start) < 5e-3


def test_a_lora_at_scale_is_that_of_the_miniature(make_pipe, accelerator, tmp_path):
    spec = AdaptationSpec(rank=4, updates=3, batch=(3, 2, 1), warmup=2)
    data, found = [MODEL, WEB, Held(5, 4)], []
    for folder in (tmp_path / "scale", tmp_path / "mini"):
        folder.mkdir()
        pipe = make_pipe()
        if folder.name == "scale":
            unets.adapt(accelerator, pipe, [Stream(d) for d in data], spec, TRAINING, folder, QUIET, tell=lambda line: None)
            folder = folder / "_partial" / "out"
        else:
            adaptation.adapt(pipe, [denoising.encoded(pipe, d.x, d.texts) for d in data], spec, folder)
        found.append(load_file(folder / "pytorch_lora_weights.safetensors"))
    up = {n for n in found[1] if ".lora.up." in n or "lora_B" in n}
    at_zero = {n: torch.zeros_like(found[1][n]) for n in up}
    assert found[0].keys() == found[1].keys() and up
    assert off({n: found[0][n] for n in up}, {n: found[1][n] for n in up}, at_zero) < 5e-3


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_resumed_run_gives_the_same_bytes_and_draws_only_what_was_left(average, tune, tmp_path, monkeypatch):
    spec = replace(SPEC, updates=5, keep=(1, 4), average=average)
    tune(spec, folder=tmp_path / "whole")
    save, seen, items = tuning.Tuning.save, [], draws.items

    def killed(self):
        save(self)
        if self.done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tuning.Tuning, "save", killed)
        tune(spec)
    monkeypatch.setattr(unets, "items", lambda *args: seen.append(1) or items(*args))
    tune(spec)
    names = ["unet-1.safetensors", "unet-4.safetensors", "unet-5.safetensors"]
    out, whole = (tmp_path / name / "_partial" / "out" for name in ("scale", "whole"))
    assert sorted(p.name for p in out.iterdir()) == names and len(seen) == 2  # the size of a batch, the last update
    for name in names:
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_damaged_checkpoint_is_left_for_the_one_before_and_few_are_kept(tune, tmp_path, capsys):
    spec, upkeep = replace(SPEC, updates=5), Upkeep(every=1, most=2)
    tune(spec, upkeep=upkeep, folder=tmp_path / "whole")
    tune(spec, upkeep=upkeep)
    folder = tmp_path / "scale" / "_partial"
    assert sorted(p.name for p in folder.iterdir()) == ["00000003", "00000004", "out"]
    path = folder / "00000004" / "optimiser.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (folder / "out" / "unet-5.safetensors").unlink()
    tune(spec, upkeep=upkeep)
    assert "00000004 is damaged" in capsys.readouterr().err
    again, whole = (tmp_path / n / "_partial" / "out" / "unet-5.safetensors" for n in ("scale", "whole"))
    assert again.read_bytes() == whole.read_bytes()


def test_the_moving_average_is_the_miniature_s_and_may_lie_in_the_cpu_s_memory(make_pipe, tune, start, tmp_path):
    spec, pipe = replace(SPEC, average=0.9), make_pipe()
    (tmp_path / "mini").mkdir()
    pairs = denoising.encoded(pipe, MODEL.x, MODEL.texts, WEIGHT), denoising.encoded(pipe, WEB.x, WEB.texts)
    finetune.finetune(pipe, *pairs, spec, tmp_path / "mini", tell=lambda line: None)
    mini = load_file(tmp_path / "mini" / "unet-3.safetensors")
    files = []
    for offload in (False, True):
        tune(spec, replace(TRAINING, ema_offload=offload), folder=tmp_path / str(offload))
        files.append((tmp_path / str(offload) / "_partial" / "out" / "unet-3.safetensors").read_bytes())
    found = load_file(tmp_path / "True" / "_partial" / "out" / "unet-3.safetensors")
    assert files[0] == files[1] and off(found, mini, start) < 0.1  # the miniature's file is float16
    assert all(x.dtype == torch.float32 for x in found.values())


def test_validation_images_depend_on_their_prompt_alone_and_training_goes_on_as_without(tune, tmp_path):
    how = Drawing(guidance_scale=3.0, steps=2, guided=2)
    grids = {"none": (), "two": ("a red dog", "two cats"), "other order": ("two cats",)}
    found = {}
    for name, prompts in grids.items():
        upkeep, grid = Upkeep(every=2, validate=2 if prompts else 0), Grid(prompts, how) if prompts else None
        found[name] = tune(replace(SPEC, average=0.9), upkeep=upkeep, grid=grid, folder=tmp_path / name)
    for name in ("two", "other order"):
        assert all(torch.equal(found[name][n], x) for n, x in found["none"].items())
    images = [tmp_path / n / "_partial" / "out" / "validation" for n in ("two", "other order")]
    assert sorted(p.name for p in images[0].iterdir()) == ["00000002-00.png", "00000002-01.png"]
    assert (images[0] / "00000002-01.png").read_bytes() == (images[1] / "00000002-00.png").read_bytes()


def random_clip(seed=0):
    """An open_clip model of tiny shape, a preprocessing for 32 px and a tokenizer."""
    import open_clip

    text = {"context_length": 16, "vocab_size": 49_408, "width": 16, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text)
    preprocess = open_clip.image_transform(32, is_train=False)
    return clip, preprocess, lambda texts: open_clip.SimpleTokenizer(context_length=16)(texts)


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_a_preference_classifier_at_scale_is_that_of_the_miniature(micro_batch, accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr(preference, "autocast", nullcontext)
    rng = np.random.default_rng(0)
    pixels, prompts = rng.integers(0, 256, (20, 32, 32, 3), np.uint8), [TEXTS[i // 4 % 4] for i in range(20)]
    rows = np.arange(20).reshape(5, 4)
    rows[1, 3], counts = -1, rng.integers(1, 4, (5, 4)) * (rows >= 0)
    spec = PreferenceSpec(epochs=3, batch=3, learning_rate=1e-3, image_share=0.5, text_share=0.5)
    mini = preference.train_preference(*random_clip(), pixels, prompts, rows, counts, spec).state_dict()
    training = replace(TRAINING, micro_batch=micro_batch)
    preferring.tune(accelerator, *random_clip(), pixels, prompts, rows, counts, spec, training, tmp_path, QUIET)
    found = load_file(tmp_path / "_partial" / "out" / "open_clip_model.safetensors")
    assert off(found, mini, random_clip()[0].state_dict()) < 5e-3


def test_networks_in_half_precision_look_like_float32_from_outside(make_pipe):
    from lib.images import sampling

    whole, half = make_pipe(), copy.deepcopy(make_pipe())
    halve_frozen(half, torch.bfloat16, unet=True)
    assert {p.dtype for m in (half.unet, half.vae, half.text_encoder) for p in m.parameters()} == {torch.bfloat16}
    images = [next(drawn(pipe, ["a red dog"], [3], Drawing(3.0, 2, 2), 1)).astype(float) for pipe in (whole, half)]
    latents = [sampling.encode(pipe, images[0][None].astype(np.uint8)) for pipe in (whole, half)]
    assert latents[1].dtype == torch.float32 and 0 < (latents[0] - latents[1]).abs().mean() < 0.1 * latents[0].std()
    assert 0 < abs(images[0] - images[1]).mean() < 5


def test_trained_weights_stay_float32_where_the_rest_is_half(make_pipe, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    bf16 = replace(TRAINING, precision="bf16")
    own = Accelerator(cpu=True, mixed_precision="bf16")
    try:
        pipe = copy.deepcopy(make_pipe())
        unets.adapt(own, pipe, [Stream(MODEL)] * 3, AdaptationSpec(rank=2, updates=2, batch=(2, 1, 0), warmup=0), bf16,
                    tmp_path, QUIET, tell=lambda line: None)  # fmt: skip
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    kinds = {p.requires_grad: p.dtype for p in pipe.unet.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    written = load_file(tmp_path / "_partial" / "out" / "pytorch_lora_weights.safetensors")
    assert any(x.abs().max() > 0 for n, x in written.items() if ".up." in n or "lora_B" in n)


def test_min_snr_limits_the_weight_of_clean_images_and_nothing_else(pipe):
    loss = unets.Loss(pipe, [], [], NO_CAPTION, replace(TRAINING, min_snr=5.0))
    t = torch.tensor([0, 400, 999])
    alpha = pipe.scheduler.alphas_cumprod[t]
    snr = alpha / (1 - alpha)
    assert pipe.scheduler.config.prediction_type == "v_prediction" and snr[0] > 5 > snr[1]
    torch.testing.assert_close(loss.level(t), torch.minimum(snr, torch.tensor(5.0)) / (snr + 1))
    loss.kind = "epsilon"
    torch.testing.assert_close(loss.level(t)[1:], torch.ones(2))
    assert unets.Loss(pipe, [], [], NO_CAPTION, TRAINING).level(t) == 1


def test_bad_input_is_refused_in_one_line(tune, make_pipe, accelerator, tmp_path):
    with pytest.raises(ValueError, match="^the fine-tuning loss is nan by update 1: lower the learning rate$"):
        MODEL.x[0], kept = float("nan"), MODEL.x[0].clone()
        try:
            tune(replace(SPEC, batch=(40, 3)), upkeep=Upkeep(look=1))
        finally:
            MODEL.x[0] = kept
    with pytest.raises(ValueError, match="^nothing to learn from: use_model is False and beta is 0$"):
        tune(replace(SPEC, use_model=False, beta=0.0))
    with pytest.raises(ValueError, match="^9 latents and 8 weights: need the same number of each$"):
        tune(weight=WEIGHT[:8])
    with pytest.raises(ValueError, match="^weights must be finite and at least 0$"):
        tune(weight=-WEIGHT)
    with pytest.raises(ValueError, match="^eight_bit_adam needs the package bitsandbytes: install it, or set it to false$"):
        tune(training=replace(TRAINING, eight_bit_adam=True))
    with pytest.raises(ValueError, match="^trained weights must be float32: updates of a half would be rounded away$"):
        tuning.optimiser_of([torch.nn.Parameter(torch.zeros(2).half())], 1e-3, TRAINING)
    with pytest.raises(ValueError, match="^unknown law of timesteps 'odd': expected one of even, scene$"):
        draws.law_named("odd")
    with pytest.raises(ValueError, match="^unknown tracker 'pen': expected one of tensorboard, "):
        Upkeep(tracker="pen")
    with pytest.raises(ValueError, match="^9 processes share out 7 items of a batch: use 7 at most$"):
        many = SimpleNamespace(num_processes=9, process_index=0)
        unets.finetune(many, make_pipe(), Stream(MODEL), Stream(WEB), SPEC, TRAINING, tmp_path, QUIET)
