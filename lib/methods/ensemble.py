"""Training of rewards together: those of one shape form one network, with a weight dimension over rewards.

Lee et al. 2023, section 3.2.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.ground.cache import Artifact, load_arrays, save_arrays, stage
from lib.ground.functions import written_digest
from lib.ground.precision import DEVICE
from lib.ground.seeds import torch_seed
from lib.images.embedding import embed_texts
from lib.methods.lessons import Lesson, Plan, lesson_of
from lib.methods.reward import Reward, RewardSpec, prompt_classification_loss, scaled
from lib.world.perturbed import all_perturbed

# Never bfloat16, which changes r by 0.005 on average and is no faster here. Even in float32, the order of summation may
# decide when a rarely active unit wakes, which changes r by up to 0.01. Trained one at a time, rewards always sum in the
# same order; several at once, on a GPU, are trained in float64, so that r does not depend on which ones they are.
TOGETHER, DTYPE = (1, torch.float32) if DEVICE.type == "cpu" else (32, torch.float64)


def shape_of(spec: RewardSpec) -> tuple:
    """What rewards trained together must have in common; labels, loss weights, learning rates and updates may differ."""
    auxiliary = (spec.perturbed, spec.perturbed_form, spec.auxiliary_on) if spec.auxiliary_weight else None
    return spec.width, spec.product, spec.normalise, spec.batch, auxiliary


# ---- training -----------------------------------------------------------------------------------------------------


def train(
    image: np.ndarray, text: np.ndarray, pool: np.ndarray, lessons: Sequence[Lesson], dtype: torch.dtype = DTYPE,
    auxiliary: Callable[[Tensor, Tensor], Tensor] = prompt_classification_loss,
) -> list[Reward]:  # fmt: skip
    """Minimise L_MSE + lambda L_pc for each lesson with AdamW and cosine decay; one reward per lesson, all of one shape.

    `image`, `text` float [image, dimension]; `pool` [prompt, dimension], the perturbed prompts; `auxiliary` is L_pc. Raises
    ValueError if the lessons have different shapes, if there is no good or no bad label, if `auxiliary` does not return a
    number per image, or if a loss stops being finite.
    """
    if len({shape_of(lesson.spec) for lesson in lessons}) != 1:
        raise ValueError("rewards of different shapes cannot be trained together")
    spec = lessons[0].spec
    plan = Plan.of(lessons, dtype)
    x, z, bank = (scaled(a, spec).to(DEVICE, dtype) for a in (image, text, pool))
    networks = [_first(lesson.spec, image.shape[1]).state_dict() for lesson in lessons]
    weights = {k: _stacked([n[k] for n in networks], dtype) for k in networks[0]}
    own = [[w.detach()[k] for w in weights.values()] for k in range(len(lessons))]  # views of each reward's weights
    groups = [dict(params=w, weight_decay=lesson.spec.weight_decay) for w, lesson in zip(own, lessons, strict=True)]
    optimiser, losses = torch.optim.AdamW(groups, fused=True), []
    for update, some in enumerate(plan.some):
        rows, others = plan.rows[update], plan.others[update, :, :some]
        r, theirs = rewards_of(weights, x[rows], z[rows], bank[others])
        loss = (plan.of_label[update] * (r - plan.labels[update]) ** 2).sum(1)
        if some:
            said = auxiliary(torch.cat([r[:, :some, None], theirs], 2), plan.temperature)
            if getattr(said, "shape", None) != (wanted := r[:, :some].shape):
                got = tuple(getattr(said, "shape", ())) or said
                raise ValueError(f"the auxiliary loss gave {got}: expected a tensor [reward, image] = {tuple(wanted)}")
            loss = loss + (plan.of_prompt[update, :, :some] * said).sum(1)
        losses.append(loss.detach())
        gradients = torch.autograd.grad(loss.sum(), list(weights.values()))
        for k, group in enumerate(optimiser.param_groups):
            group["lr"] = plan.rates[update][k]
            for w, gradient in zip(group["params"], gradients, strict=True):
                w.grad = gradient[k].contiguous()  # the fused kernel ignores strides
        optimiser.step()
    _refuse_infinite(torch.stack(losses, 1), lessons)  # once: on a GPU, reading a loss means waiting for it
    return [
        _reward({n: w.detach()[k].swapaxes(0, -1).float().contiguous() for n, w in weights.items()}, lesson.spec)
        for k, lesson in enumerate(lessons)
    ]


def rewards_of(weights: Mapping[str, Tensor], image: Tensor, text: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """r of images and their prompts [reward, item], and of the first images and other prompts [reward, some, prompt].

    `weights` [reward, in, out] by name; `image`, `text` [reward, item, dimension]; `others` [reward, some, prompt,
    dimension]. Computes the same as `Reward.forward`.
    """
    (items, dimension), (some, each) = image.shape[1:], others.shape[1:3]
    of_image, of_text, *of_product = weights["first.weight"].split(dimension, 1)

    def layer(name: str, hidden: Tensor) -> Tensor:
        return torch.baddbmm(weights[f"{name}.bias"][:, None], hidden, weights[f"{name}.weight"])

    shown = torch.baddbmm(weights["first.bias"][:, None], image, of_image)
    hidden = torch.cat([shown, shown[:, :some].repeat_interleave(each, 1)], 1)
    hidden = hidden + torch.cat([text, others.flatten(1, 2)], 1) @ of_text
    if of_product:
        met = torch.cat([image * text, (image[:, :some, None] * others).flatten(1, 2)], 1)
        hidden = hidden + met @ of_product[0]
    r = torch.sigmoid(layer("last", layer("second", hidden.relu_()).relu_())).squeeze(-1)
    return r[:, :items], r[:, items:].unflatten(1, (some, each))


def _first(spec: RewardSpec, dimension: int) -> Reward:
    """The initial network of a seed."""
    torch.manual_seed(torch_seed(spec.seed))
    return Reward(dimension, spec.width, spec.product)


def _stacked(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Weights [out, in] stacked as [reward, in, out], the layout in which matrix products give their gradients."""
    return torch.stack([w.swapaxes(0, -1).contiguous() for w in weights]).to(DEVICE, dtype).requires_grad_()


def _reward(weights: Mapping[str, Tensor], spec: RewardSpec) -> Reward:
    dimension = weights["first.weight"].shape[1] // (3 if spec.product else 2)
    with torch.device("meta"):  # avoids drawing weights only to overwrite them
        network = Reward(dimension, spec.width, spec.product)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _refuse_infinite(losses: Tensor, lessons: Sequence[Lesson]) -> None:
    """Raise ValueError if a loss [reward, update] is not finite."""
    if len(bad := (~losses.isfinite()).nonzero()):
        k, update = bad[0].tolist()
        epoch = update // lessons[k].updates_an_epoch
        raise ValueError(f"the reward's loss is {losses[k, update].item()} in epoch {epoch}: lower the learning rate")


# ---- stages -------------------------------------------------------------------------------------------------------


def perturbed_embeddings(form: str, load: Callable, digest: str) -> np.ndarray:
    """The stage of CLIP embeddings of `all_perturbed(form)`, float32 [prompt, dimension]."""

    def make(folder: Path) -> None:
        clip, _, tokenizer = load()
        save_arrays(folder / "texts.safetensors", {"text": embed_texts(clip, tokenizer, all_perturbed(form))})

    found = stage("perturbed", {"form": form}, {"clip": digest}, make, ("lib.images.models", load))
    return load_arrays(found.path / "texts.safetensors")["text"]


def trained(
    specs: Sequence[RewardSpec], image: np.ndarray, text: np.ndarray, prompts: Sequence[str], labels: np.ndarray,
    raters: np.ndarray, load: Callable, inputs: Mapping[str, Artifact | str],
    auxiliary: Callable[[Tensor, Tensor], Tensor] = prompt_classification_loss,
) -> list[Reward]:
    """The stages of rewards, one per spec, each trained on its `lesson_of`. A missing one is trained together with the
    others of its shape, as many as the device takes, whether those are missing or not, so that a killed and restarted run
    gives the same result as an uninterrupted one.

    `inputs` are the digests of the images, the labels with their raters, and (`clip`) the weights behind the embeddings.
    Another `auxiliary` loss, handed to `train`, is part of the key by what it does.
    """
    if auxiliary is not prompt_classification_loss:
        inputs = dict(inputs) | {"auxiliary": written_digest(auxiliary)}

    def group_trained(group: Sequence[RewardSpec]) -> dict[RewardSpec, Reward]:
        pool = perturbed_embeddings(group[0].perturbed_form, load, inputs["clip"]) if group[0].auxiliary_weight else text[:1]
        lessons = [lesson_of(spec, prompts, labels, raters) for spec in group]
        return dict(zip(group, train(image, text, pool, lessons, auxiliary=auxiliary), strict=True))

    def found(spec: RewardSpec, rewards: Callable[[], dict[RewardSpec, Reward]]) -> Reward:
        def make(folder: Path) -> None:
            save_file({n: w.cpu() for n, w in rewards()[spec].state_dict().items()}, folder / "reward.safetensors")

        path = stage("reward", asdict(spec), inputs, make, ("lib.images.models", load)).path
        return _reward(load_file(path / "reward.safetensors", str(DEVICE)), spec)

    shapes: dict[tuple, list[RewardSpec]] = {}
    for spec in dict.fromkeys(specs):
        shapes.setdefault(shape_of(spec), []).append(spec)
    rewards = {}
    for same in shapes.values():
        for i in range(0, len(same), TOGETHER):
            once = functools.cache(functools.partial(group_trained, same[i : i + TOGETHER]))
            rewards |= {spec: found(spec, once) for spec in same[i : i + TOGETHER]}
    return [rewards[spec] for spec in specs]
