"""judge-a, judge-b and two feature networks, trained on renders, decoded or regenerated renders, and spoiled scenes."""

import argparse
import json
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from lib.feedback.judges import look, truth
from lib.ground.paths import CACHE, MODELS
from lib.ground.precision import DEVICE, autocast
from lib.images.networks import COLOUR_CLASSES, HEADS, FeatureNet, Judge, StridedTrunk
from lib.images.sampling import decode, encode, encode_texts, to_pixels
from lib.world.prompts import Attributes, write
from lib.world.scenes import NATURAL, Scene, render
from pretrain.common import halve, spent, train, write_card
from pretrain.spoiled import BAD_KINDS, render_bad, render_flawed
from pretrain.vae import HELD_OUT, random_scene

BATCH = 128
UNKNOWN = -100  # a class that the loss ignores
FLAWED = 0.3  # share of flawed scenes in a judge's second run
WORN_PARTS, MORE_PARTS = 16, 8  # of 500 images, in the first run and in one that goes on from the shipped weights
MORE_UPDATES = 1_000_000  # the number of the second run's first update, by which its renders are drawn
# Seed of each network that looks at images: each learns from its own renders and worn images, which no other network sees.
OWN_SEED = {"judge-a": 31, "judge-b": 32, "features": 33, "features-votes": 34, "mini-clip": 51}


def labelled(
    rng: np.random.Generator, count: int, bad_share: float = 0.3, flawed_share: float = 0.0
) -> tuple[np.ndarray, np.ndarray, list[Scene]]:
    """Renders, uint8 [count, 64, 64, 3], classes int64 [count, head] in the order of HEADS, and the intended scenes."""
    images, classes, scenes = [], [], []
    for _ in range(count):
        scene, pixels = random_scene(rng)
        scene = Scene(scene.count, scene.colour, scene.object, scene.background)
        right = truth(scene)
        drawn = rng.random()
        if drawn < bad_share:
            kind = str(rng.choice(BAD_KINDS))
            images.append(render_bad(kind, scene, rng))
            if kind == "none":
                right |= {"count": 0, "colour": HEADS["colour"] - 1, "object": HEADS["object"] - 1}
            elif kind == "more than six":
                right |= {"count": 7}
            else:
                right |= {"count": UNKNOWN, "colour": UNKNOWN, "object": HEADS["object"] - 1}
        elif drawn < bad_share + flawed_share:
            images.append(render_flawed(scene, rng, pixels))
        else:
            images.append(render(scene, rng, pixels))
        classes.append([right[h] for h in HEADS])
        scenes.append(scene)
    return np.stack(images), np.array(classes), scenes


@torch.no_grad()
def regenerate(pipe, images: np.ndarray, scenes: list[Scene], strength: np.ndarray, seed: int) -> np.ndarray:
    """Images noised to `strength` in [0, 1) of the schedule and denoised by the generator in four DDIM steps."""
    g = torch.Generator().manual_seed(seed)
    prompts = [write(Attributes(s.object, s.count, s.colour, s.background)) for s in scenes]
    states = encode_texts(pipe, prompts)
    x = encode(pipe, images)
    alphas = pipe.scheduler.alphas_cumprod.to(pipe.device)
    t = torch.as_tensor((strength * 999).astype(int)).to(pipe.device)
    a, s = (alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None])
    x = a * x + s * torch.randn(x.shape, generator=g).to(pipe.device)
    for share in (0.75, 0.5, 0.25, 0.0):
        v = pipe.unet(x, t, encoder_hidden_states=states).sample
        clean, noise = a * x - s * v, s * x + a * v
        t = torch.as_tensor((strength * share * 999).astype(int)).to(pipe.device)
        a, s = (alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None])
        if share == 0:
            return decode(pipe, clean)
        x = a * clean + s * noise


def worn(pipe, network: str, part: int, count: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """A network's own decoded and regenerated scenes, which look like the generator's images: uint8 [count, 64, 64, 3] and
    classes int64 [count, head], cached.

    Two in five are decoded from slightly perturbed latents; the others are noised to 10-45 % of the schedule and denoised,
    too weakly to change what they show. Parts of a judge's second run have flawed scenes, too; noised to 10-55 %, but
    spoiled ones to 5-20 % only, beyond which the generator repairs them.
    """
    seed, path = OWN_SEED[network], CACHE / "pretrain" / "worn" / network / f"{part:03d}.safetensors"
    if not path.exists():
        rng, more = np.random.default_rng((13, seed, part)), part >= WORN_PARTS
        images, classes, scenes = labelled(rng, count, flawed_share=FLAWED if more else 0.0)
        n = 2 * count // 5
        with torch.no_grad():
            z = encode(pipe, images[:n])
            disturbed = torch.as_tensor(rng.uniform(0, 0.35, (n, 1, 1, 1)), dtype=torch.float32).to(DEVICE)
            g = torch.Generator().manual_seed(1_000 * seed + part)
            first = decode(pipe, z + disturbed * torch.randn(z.shape, generator=g).to(DEVICE))
        strength = rng.uniform(0.1, 0.55 if more else 0.45, count - n)
        if more:
            spoiled = classes[n:, list(HEADS).index("object")] == HEADS["object"] - 1
            strength = np.where(spoiled, rng.uniform(0.05, 0.2, count - n), strength)
        second = regenerate(pipe, images[n:], scenes[n:], strength, 1_000 * seed + part)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".partial")
        shown = torch.from_numpy(np.ascontiguousarray(np.concatenate([first, second])))
        save_file({"images": shown, "classes": torch.from_numpy(classes)}, new)
        new.replace(path)
    tensors = load_file(path)
    return tensors["images"], tensors["classes"]


def right(seen: dict[str, np.ndarray], scenes: list[Scene]) -> dict[str, np.ndarray]:
    """Whether a judge's most likely class is right, by head: bool [image].

    A natural rose and a red one look alike, so for colour any class that satisfies the same words as the scene is right.
    """
    best = {head: p.argmax(1) for head, p in seen.items()}
    out = {head: np.array([best[head][i] == truth(s)[head] for i, s in enumerate(scenes)]) for head in HEADS}
    for i, s in enumerate(scenes):
        alike = {None, *NATURAL.get(s.object, ())}
        shown = COLOUR_CLASSES[best["colour"][i]] if best["colour"][i] < len(COLOUR_CLASSES) else "mixed"
        out["colour"][i] |= s.colour in alike and shown in alike
    return out


def quality(judge: Judge, pipe, count: int = 2_000) -> dict[str, float]:
    """Accuracy by head on held-out clean renders and on the same renders passed through the autoencoder."""
    images, _, scenes = labelled(np.random.default_rng(HELD_OUT + 5), count, bad_share=0.0)
    decoded = np.concatenate([decode(pipe, encode(pipe, images[i : i + 200])) for i in range(0, count, 200)])
    out = {}
    for name, shown in (("renders", images), ("decoded", decoded)):
        for head, share in right(look(judge, shown), scenes).items():
            out[f"{head} {name}"] = round(float(share.mean()), 4)
    return out


def lessons(pipe, network: str, more: bool = False) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """A function of the update, giving pixels float [BATCH, 3, 64, 64] and classes int64 [BATCH, head]: half fresh renders
    and half worn images, all the network's own; `more` gives others than the first run had."""
    parts = range(WORN_PARTS, WORN_PARTS + MORE_PARTS) if more else range(WORN_PARTS)
    images, classes = (torch.cat(p) for p in zip(*(worn(pipe, network, i) for i in parts), strict=True))
    first = MORE_UPDATES if more else 0

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((17, OWN_SEED[network], first + step))
        fresh, right, _ = labelled(rng, BATCH // 2, flawed_share=FLAWED if more else 0.0)
        pick = torch.from_numpy(rng.integers(len(images), size=BATCH // 2))
        pixels = to_pixels(np.concatenate([fresh, images[pick].numpy()]))
        pixels = pixels + torch.as_tensor(rng.normal(0, 0.02, (BATCH, 3, 1, 1)), dtype=torch.float32)
        return pixels, torch.cat([torch.from_numpy(right), classes[pick]])

    return draw


def own(network: str, more: bool = False) -> dict:
    """Entries for a model card: a network's training data and their seeds."""
    seed = OWN_SEED[network]
    return {
        "data": "renders of uniform attributes and independent sizes, three in ten spoiled"
        f"{', three in ten flawed' * more}; half of each batch decoded, or noised and denoised by the generator "
        f"({500 * (MORE_PARTS if more else WORN_PARTS)} images); no other network saw any of them",
        "seeds of its renders, worn images": [[17, seed, "update"], [13, seed, "part"]],
    }  # fmt: skip


def fit(name: str, network, forward, pipe, minutes: float | None, steps: int, more: bool = False) -> None:
    """Train a network whose `forward(pixels)` gives logits by head; `more` goes on from trained weights, at a lower rate."""

    def loss(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with autocast():
            logits = forward(pixels.contiguous(memory_format=torch.channels_last))
        return sum(F.cross_entropy(logits[h].float(), target[:, j], ignore_index=UNKNOWN) for j, h in enumerate(HEADS))

    run, lr = (f"{name}-more", 0.006) if more else (name, 0.01)
    train(run, network, lessons(pipe, name, more), loss, steps, minutes=minutes, lr=lr, adam_lr=lr / 10, every=100)


def main(which: str, minutes: float | None = None, updates: int = 4_000, more: bool = False) -> None:
    """Train one of `a`, `b`, `features`, `votes`; save it as float16 with its card. `more` goes on from the shipped one."""
    name = {"features": "features", "votes": "features-votes"}.get(which, f"judge-{which}")
    pipe = StableDiffusionPipeline.from_pretrained(MODELS / "mini-sd").to(DEVICE)
    pipe.vae.to(memory_format=torch.channels_last)
    torch.manual_seed(OWN_SEED[name])
    if which in ("features", "votes"):
        network = FeatureNet(StridedTrunk() if which == "votes" else None)
        network = network.to(DEVICE, memory_format=torch.channels_last)

        def forward(x):
            features = network(x)
            return {h: head(F.relu(features)) for h, head in network.heads.items()}
    else:
        network = forward = Judge(which).to(DEVICE, memory_format=torch.channels_last)
    folder = MODELS / name
    if more:
        network.load_state_dict(
            before := {k: v.float().to(DEVICE) for k, v in load_file(folder / "model.safetensors").items()}
        )
    fit(name, network, forward, pipe, minutes, updates, more)
    if more:  # the average of both is better than either (Wortsman et al. 2022, Robust fine-tuning of zero-shot models)
        network.load_state_dict({k: (v + before[k]) / 2 for k, v in network.state_dict().items()})
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    halve(folder / "model.safetensors")
    card = {
        "model": {
            "a": "convolutional", "b": "transformer", "features": "convolutional, 64 features",
            "votes": "plain strided convolutions, 64 features",
        }[which],
        **own(name, more), "batch": BATCH, "seed": OWN_SEED[name],
        **spent(name + "-more" * more),
    }  # fmt: skip
    if more:
        first = json.loads((folder / "card.json").read_text("utf-8"))
        card |= {"weights": "the average of those before and after this run, half and half"}
        card |= {"run before": {k: first[k] for k in ("data", "updates", "minutes", "machine", "precision")}}
    if which in ("a", "b"):
        card["held-out accuracy"] = quality(network, pipe)
    write_card(folder, card)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pretrain.judges", description=__doc__.split("\n")[0])
    parser.add_argument("which", choices=("a", "b", "features", "votes"))
    parser.add_argument("minutes", type=float, nargs="?")
    parser.add_argument("--updates", type=int, default=4_000)
    parser.add_argument("--more", action="store_true", help="go on from the shipped weights, on new data")
    given = parser.parse_intermixed_args()
    main(given.which, given.minutes, given.updates, given.more)
