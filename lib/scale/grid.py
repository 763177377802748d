"""A fixed grid of validation images. Each prompt has its own seed: neither order nor processes change its image."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from lib.ground.seeds import seed_of
from lib.scale.drawing import Drawing, drawn


@dataclass(frozen=True)
class Grid:
    """Prompts and how they are drawn during training."""

    prompts: tuple[str, ...]
    how: Drawing

    def draw(self, accelerator, pipe, tuning, folder: Path) -> None:
        """Write `<update>-<prompt's number>.png` with the moving average of the weights if there is one; each process draws
        some prompts, one at a time. Training goes on as if nothing had happened: its randomness is not touched."""
        folder.mkdir(parents=True, exist_ok=True)
        pipe.unet.eval()
        with tuning.averaged(), torch.no_grad(), accelerator.autocast():
            for i in range(accelerator.process_index, len(self.prompts), accelerator.num_processes):
                (image,) = drawn(pipe, [self.prompts[i]], [seed_of("validation", self.prompts[i])], self.how, 1)
                Image.fromarray(image).save(folder / f"{tuning.done:08d}-{i:02d}.png")
        pipe.unet.train()
