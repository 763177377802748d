"""The study of a setup other than `mini`: its images, embeddings, latents and trained models are launched stages.

What only the emoji world has (judges, simulated raters and users, renders) raises `NotServed`. Images that people judged
come from their archive and are never redrawn; until there is one, the images to label are drawn.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from lib.ground.cache import Artifact, file_digest, load_arrays
from lib.ground.precision import DEVICE
from lib.ground.setups import NotServed, setup_named
from lib.ground.sizes import SamplerSpec
from lib.scale import fidelity, hub, inception, shards
from lib.scale.stages import File, launched_stage
from lib.world.prompts import UNSEEN, parse

WORLD = "judges, simulated raters and renders know the emoji world only"


class Scaled:
    """What both papers' studies of a setup share; goes before `LeeStudy` or `WuStudy` among a class's bases."""

    def __init__(self, size: str, setup: str):
        self.path = str(Path(setup).expanduser().absolute()) if str(setup).endswith(".toml") else setup
        self.setup = setup_named(setup)
        super().__init__(size, self.setup.raters.labels)
        self.size = self.setup.sized(size)

    def ahead(self, *wanted: tuple) -> None:
        """Nothing: stages are launched when they are asked for, on all GPUs."""

    def launched(self, task: str, config: dict) -> Artifact:
        """The stage of a task of `lib.scale.tasks`."""
        return launched_stage(task, self.path, config)

    # ---- models ---------------------------------------------------------------------------------------------------

    @cached_property
    def base_digest(self) -> str:
        return hub.model_digest(self.setup.model)

    @cached_property
    def clip_digest(self) -> str:
        return hub.weights_digest(hub.load_clip(self.setup.clip)[0])

    def generator(self, unet: Path | None = None):
        raise NotServed("the generator runs in processes of its own")

    # ---- images ---------------------------------------------------------------------------------------------------

    def sample(
        self, texts: list[str], numbers: list[int], stream: str, unet: tuple[Artifact, int] | None = None,
        spec: SamplerSpec = SamplerSpec(), lora: Artifact | None = None,
    ) -> Artifact:  # fmt: skip
        """Images of the base, of a U-Net (stage, updates), or of the base with a LoRA, drawn as the setup says."""
        if replace(spec, negative_prompt="") != SamplerSpec():
            raise NotServed("images are drawn at the setup's own guidance scale and steps")
        config = {"prompts": list(texts), "numbers": [int(n) for n in numbers], "stream": stream}
        config |= {"weights": weights_of(unet)} if unet else {}
        config |= {"lora": lora} if lora else {}
        return self.launched("sample", config | {"negative_prompt": spec.negative_prompt})

    def fidelity_images(self, unet=None, spec: SamplerSpec = SamplerSpec()) -> Artifact:
        """One image for the caption of each real image of the setup's fidelity set."""
        captions = [p.caption for p in self.coco]
        return self.sample(captions, list(range(len(captions))), "fidelity", unet, spec)

    def few_images(self, kind: str, unet=None, whole: bool = True, spec: SamplerSpec = SamplerSpec()) -> Artifact:
        """As many of a model's images of the `evaluation` prompts as an adapted model draws, or the `fidelity` set."""
        if kind == "evaluation":
            return self.evaluation_images(unet, self.size.adapted_images, spec)
        return self.fidelity_images(unet, spec)

    def web_pairs(self, count: int, stream: int):
        raise NotServed(WORLD)

    def web_captions(self, count: int, stream: int):
        raise NotServed("the web corpus is the emoji world's")

    # ---- what people judged ---------------------------------------------------------------------------------------

    @cached_property
    def archive(self) -> shards.ShardedSet | None:
        """The images that people judged, if there are any yet."""
        folder = Path(self.setup.raters.images)
        return shards.opened(folder) if self.setup.raters.images and (folder / "shards.json").exists() else None

    def judged(self, rows: Sequence[int]) -> Artifact:
        """The stage with some of the images of the archive."""
        folder = Path(self.setup.raters.images)
        return shards.part_of(folder, rows, file_digest(folder / "shards.json"))

    def _labelled(self, unseen: bool) -> list[int]:
        """The images of the archive whose prompts are about unseen objects, or not."""
        if not self.archive or not self.setup.raters.labels:
            return []
        return [i for i, p in enumerate(self.archive.prompts) if (parse(p).object in UNSEEN) == unseen]

    @cached_property
    def labelled_images(self) -> Artifact:
        """The images that people labelled, of objects in the training labels; drawn if there is no archive yet."""
        return self.judged(rows) if (rows := self._labelled(False)) else super().labelled_images

    @cached_property
    def unseen_images(self) -> Artifact:
        """The images that people labelled, of other objects; drawn if the archive has none."""
        return self.judged(rows) if (rows := self._labelled(True)) else super().unseen_images

    # ---- what is measured in images ----------------------------------------------------------------------------------

    def embeddings(self, images: Artifact, clip: Artifact | None = None) -> tuple[np.ndarray, np.ndarray]:
        """CLIP embeddings of images and prompts, by the setup's CLIP or a tuned one."""
        found = self.launched("embed", {"images": images} | ({"clip": clip} if clip else {}))
        parts = [load_arrays(p) for p in sorted(found.path.glob("[0-9]*.safetensors"))]
        return tuple(np.concatenate([part[side] for part in parts]) for side in ("image", "text"))

    @cached_property
    def coco(self) -> list[fidelity.CocoPair]:
        """The real images of the setup's fidelity set, with their captions."""
        if self.setup.fidelity.kind != "coco":
            raise NotServed("the setup names no real images: see its table fidelity")
        return fidelity.coco_pairs(self.setup.fidelity)

    def fid(self, images: Artifact) -> tuple[float, fidelity.Card]:
        """Fréchet Inception distance of `fidelity_images`, with its card."""
        source = self.setup.fidelity
        card = fidelity.card_of(source, self.coco)
        load = partial(inception.load_inception, Path(source.weights), source.sha256, DEVICE)
        real = load_arrays(fidelity.real_moments(source, self.coco, card, load).path / "moments.safetensors")
        found = self.launched("evaluate", {"images": images})
        parts = [load_arrays(p) for p in sorted(found.path.glob("[0-9]*.safetensors"))]
        return fidelity.distance(real, fidelity.merged(parts)), card

    def looks(self, images: Artifact, judge: str):
        raise NotServed(WORLD)

    def panel_shares(self, images: Artifact, *_):
        return self.looks(images, "a")

    def realism(self, pixels):
        raise NotServed(WORLD)

    # ---- training data --------------------------------------------------------------------------------------------

    def latents(self, images: Artifact) -> Artifact:
        """The stage with the latents of images, in shards."""
        return self.launched("latents", {"images": images})

    def web_latents(self) -> Artifact:
        """The stage with the latents of the setup's pre-training pairs, in shards."""
        return self.launched("latents", {})


def weights_of(unet: tuple[Artifact, int]) -> File:
    return File(unet[0], f"unet-{unet[1]}.safetensors")
