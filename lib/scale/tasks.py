"""The tasks that run in several processes, by name. Each takes the accelerator, the setup, the config's plain values and a
function that shows a line. Images, embeddings, latents and moments are made shard by shard; a shard is the same whichever
process makes it, and those that are there already are not made again.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from lib.ground.cache import PARTIAL, file_digest, load_arrays, save_arrays, save_json
from lib.ground.seeds import seed_of
from lib.ground.setups import Setup
from lib.images.embedding import embed_images, embed_texts
from lib.images.sampling import encode
from lib.methods.adaptation import AdaptationSpec
from lib.methods.finetune import FinetuneSpec
from lib.methods.preference import PreferenceSpec
from lib.scale import fidelity, hub, inception, pairs, preferring, shards, unets
from lib.scale.drawing import Drawing, drawn
from lib.scale.grid import Grid
from lib.scale.halves import DTYPES, halve_frozen
from lib.scale.streams import Tally
from lib.scale.tuning import Upkeep
from lib.scale.unets import Stream

# ---- shares --------------------------------------------------------------------------------------------------------


def mine(accelerator, out: Path, count: int, tell: Callable[[str], None], what: str) -> Iterator[int]:
    """Numbers of the shards, of `count`, that this process is to make in `out`: every so manieth. One that an earlier run
    made is left, if its files are as they were then."""
    for number in range(accelerator.process_index, count, accelerator.num_processes):
        sums = out.with_name("sums") / f"{number:05d}.json"
        files = sorted(out.glob(f"{number:05d}.*"))
        if not sums.exists() or json.loads(sums.read_text()) != {p.name: file_digest(p) for p in files}:
            for left in files:
                left.unlink()
            yield number
            save_json(sums, {p.name: file_digest(p) for p in sorted(out.glob(f"{number:05d}.*"))})
            tell(f"{what}: shard {number + 1} of {count}")


def base(accelerator, setup: Setup, weights: str = "", lora: str = ""):
    """The setup's pipeline on this process's device, with a tuned U-Net or a LoRA if there is one."""
    pipe = hub.load_base(setup.model, accelerator.device, sampler=setup.sampling.sampler)
    side = setup.sampling.resolution // 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    pipe.unet.register_to_config(sample_size=side)
    if weights:
        pipe.unet.load_state_dict(load_file(weights))
    if lora:
        pipe.load_lora_weights(lora)
        pipe.fuse_lora(components=["unet"])
    return pipe


def halved(accelerator, setup: Setup, config: dict):
    """A pipeline that only draws, in the setup's precision."""
    pipe = base(accelerator, setup, config.get("weights", ""), config.get("lora", ""))
    halve_frozen(pipe, DTYPES[setup.training.precision], unet=True)
    return pipe


# ---- images and what is measured in them ---------------------------------------------------------------------------


def sample(accelerator, setup: Setup, config: dict, tell) -> None:
    """Images of `prompts` and `numbers` on a `stream`, in `shards`; initial noise depends on these names alone."""
    out, prompts, numbers, stream = _out(config), config["prompts"], config["numbers"], config["stream"]
    size, pipe = config.get("per_shard", shards.PER_SHARD), halved(accelerator, setup, config)
    count = -(-len(prompts) // size)
    for k in mine(accelerator, out, count, tell, f"{stream}: images"):
        here = slice(k * size, (k + 1) * size)
        seeds = [seed_of(stream, p, n) for p, n in zip(prompts[here], numbers[here], strict=True)]
        images = list(drawn(pipe, prompts[here], seeds, Drawing.of(setup, config), config.get("batch", 16)))
        shards.write_shard(out, k, images, stream, prompts[here], numbers[here])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shards.finish(out)


def embed(accelerator, setup: Setup, config: dict, tell) -> None:
    """CLIP embeddings of the images in a folder of shards and of their prompts: `image` and `text`, by shard."""
    out, images = _out(config), shards.opened(Path(config["images"]))
    clip, preprocess, tokenizer = hub.load_clip(setup.clip)
    if config.get("clip"):  # a folder of tuned weights
        clip.load_state_dict(load_file(Path(config["clip"]) / "open_clip_model.safetensors"))
    for _, path, here in _parts(accelerator, images, config, out, "embeddings", tell):
        arrays = {"image": embed_images(clip, preprocess, images.pixels[here], config.get("batch", 64))}
        save_arrays(path, arrays | {"text": embed_texts(clip, tokenizer, images.prompts[here])})


def latents(accelerator, setup: Setup, config: dict, tell) -> None:
    """Latents (the posterior's mode) of the setup's pre-training pairs or of a folder of `images` in shards with prompts."""
    out, pipe = _out(config), halved(accelerator, setup, config)
    if config.get("images"):
        images = shards.opened(Path(config["images"]))
        for k, _, here in _parts(accelerator, images, config, out, "latents", tell):
            texts = images.prompts[here]
            pairs.write_latents(out, k, encode(pipe, images.pixels[here], 8), texts, Tally(good=len(texts)))
        if accelerator.is_main_process:
            save_json(out / "pairs.json", asdict(Tally(good=len(images))))
        return
    paths = pairs.shard_paths(setup.pairs)
    for k in mine(accelerator, out, len(paths), tell, "latents"):
        pairs.encode_shard(paths[k], k, setup.pairs, setup.sampling.resolution, lambda x: encode(pipe, x, 8), out)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        pairs.close_latents(setup.pairs, out)


def evaluate(accelerator, setup: Setup, config: dict, tell) -> None:
    """Moments of the Inception features of the images in a folder of shards, for the Fréchet distance, by shard."""
    out, images = _out(config), shards.opened(Path(config["images"]))
    card = fidelity.card_of(setup.fidelity, fidelity.coco_pairs(setup.fidelity))
    network = inception.load_inception(Path(setup.fidelity.weights), setup.fidelity.sha256, accelerator.device)
    config = {"per_shard": 80 * card.batch} | config  # the sum of products takes 34 MB
    for _, path, here in _parts(accelerator, images, config, out, "moments", tell):
        save_arrays(path, fidelity.moments((Image.fromarray(x) for x in images.pixels[here]), card, network))


def _parts(accelerator, images, config: dict, out: Path, what: str, tell):
    """Number, path and slice of the parts of an image set that this process is to make."""
    size = config.get("per_shard", shards.PER_SHARD)
    for k in mine(accelerator, out, -(-len(images) // size), tell, what):
        yield k, out / f"{k:05d}.safetensors", slice(k * size, min((k + 1) * size, len(images)))
    accelerator.wait_for_everyone()


def _out(config: dict) -> Path:
    """Where shards are made: they survive a kill there."""
    folder = Path(config["folder"]) / PARTIAL / "out"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ---- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """Some rows of a data set, with a prefix before their captions."""

    data: unets.Latents
    rows: Sequence[int]
    prefix: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def latents(self, rows: Sequence[int]) -> torch.Tensor:
        """Latents of some of them."""
        return self.data.latents([self.rows[r] for r in rows])

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Their captions, prefixed."""
        return [self.prefix + c for c in self.data.captions([self.rows[r] for r in rows])]


def stream_of(config: dict) -> Stream:
    """A stream from plain values: folders of `latents` and, if given, `rows`, `prefix`, and `weights` (a file of them)."""
    folders = config["latents"]
    data = pairs.PairLatents(*map(Path, folders if isinstance(folders, list) else [folders]))
    if "rows" in config or config.get("prefix"):
        data = Chosen(data, config.get("rows", range(len(data))), config.get("prefix", ""))
    weights = config.get("weights")
    return Stream(data, torch.from_numpy(load_arrays(Path(weights))["array"]).float() if weights else None)


def finetune(accelerator, setup: Setup, config: dict, tell) -> None:
    """Lee et al.'s fine-tuning of the whole U-Net, from the base's weights or those in `start`, on the streams `model` and
    `pretraining`."""
    spec = FinetuneSpec(**_tuples(config["spec"]))
    streams = stream_of(config["model"]), stream_of(config["pretraining"])
    upkeep, blanks = Upkeep(**config.get("upkeep", {})), config.get("blanks", unets.EMPTY)
    pipe = base(accelerator, setup, config.get("start", ""))
    unets.finetune(accelerator, pipe, *streams, spec, setup.training, Path(config["folder"]), upkeep, blanks,
                   _grid(setup, config), tell)  # fmt: skip


def adapt(accelerator, setup: Setup, config: dict, tell) -> None:
    """Wu et al.'s LoRA on the `streams` preferred, non-preferred and real."""
    spec, streams = AdaptationSpec(**_tuples(config["spec"])), [stream_of(s) for s in config["streams"]]
    unets.adapt(accelerator, base(accelerator, setup), streams, spec, setup.training, Path(config["folder"]),
                Upkeep(**config.get("upkeep", {})), _grid(setup, config), tell)  # fmt: skip


def preference(accelerator, setup: Setup, config: dict, tell) -> None:
    """Wu et al.'s preference classifier on choices (files of `rows` and `counts`) among the images in a folder."""
    images = shards.opened(Path(config["images"]))
    choices = [load_arrays(Path(config[name]))["array"] for name in ("rows", "counts")]
    spec, clip = PreferenceSpec(**config["spec"]), hub.load_clip(setup.clip)
    preferring.tune(accelerator, *clip, images.pixels, images.prompts, *choices, spec,
                    setup.training, Path(config["folder"]), Upkeep(**config.get("upkeep", {})), tell)  # fmt: skip


def _grid(setup: Setup, config: dict) -> Grid | None:
    prompts = config.get("validation", [])
    return Grid(tuple(prompts), Drawing.of(setup, {})) if prompts else None


def _tuples(spec: dict) -> dict:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}


TASKS = {f.__name__: f for f in (sample, embed, latents, evaluate, finetune, adapt, preference)}
