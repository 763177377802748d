"""The second generator, to test whether a score transfers to another model's images: the U-Net after the exact captions.

It shares the autoencoder and text encoder with the generator but has not yet learned from web captions, so it follows
prompts more closely and errs differently. Run it between the two phases of `pretrain.unet`.
"""

import json
import shutil

from lib.ground.paths import MODELS
from pretrain.common import write_card

FOLDER = MODELS / "mini-second"


def main() -> None:
    """Copy the U-Net of `mini-sd`, just trained on exact captions, to `mini-second`."""
    source = MODELS / "mini-sd" / "unet"
    card = json.loads((source / "card.json").read_text("utf-8"))
    last = card["runs, one after the other"][-1]
    if last["captions"] != "exact":
        raise ValueError(f"mini-sd's U-Net was last trained on {last['captions']} captions: run its exact phase first")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copyfile(source / name, FOLDER / name)
    made_of = "an earlier checkpoint of mini-sd's, last trained on exact captions"
    write_card(FOLDER, card | {"model": f"{card['model']}, {made_of}"})


if __name__ == "__main__":
    main()
