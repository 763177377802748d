"""A trained model as a folder that other tools load: `python -m lib.desk.export MODEL FOLDER --size SIZE`.

MODEL is a fine-tuned arm (a whole diffusers pipeline), an adaptation (a LoRA for the shipped base), `reward`, or `hps` (an
open_clip model); without MODEL, all are listed. Nothing is trained: what is not in the cache is refused, with the notebooks
to run. `card.json` says what the model is, its inputs and how to load it. Exit code 2: the request cannot be met.
"""

import argparse
import difflib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from lib.desk import report
from lib.ground.cache import Artifact, NotMade, digest_of, file_digests, if_found, save_arrays, save_json
from lib.ground.paths import MODELS
from lib.ground.sizes import EXACT, SIZES, size_named
from lib.methods.reward import Reward, RewardSpec
from lib.study.common import Study
from lib.study.lee import ARMS, OTHER_WEIGHTINGS, SETTINGS, LeeStudy
from lib.study.wu import ADAPTATIONS, CHOSEN, WuStudy

NAMES = (*ARMS, *OTHER_WEIGHTINGS, *ADAPTATIONS, "reward", "hps")


def main(argv: list[str] | None = None) -> int:
    """Export one model and say how to load it, or list the models."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may not be printable in the terminal
    try:
        options = arguments(argv)
        if options.model:
            study = study_of(options.model, options.size)
            to, card = export(study, options.model, options.folder)
            lines = [re.sub(r'"([^"]*)FOLDER"', lambda m: repr(f"{m[1]}{to}"), line) for line in card["load"]]
            print(f"exported {card['model']!r} of size {study.name} to {to}; to load it:", card["import"], *lines, sep="\n")
        else:
            for name in NAMES:
                print(f"{name:<24} {state(study_of(name, options.size), name)}")
    except (OSError, ValueError, RuntimeError, NotMade) as error:
        print(f"export: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    return 0


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; raises ValueError on an error in it, before anything is looked up or written."""

    def refuse(reason: str) -> None:
        raise ValueError(reason)

    parser = argparse.ArgumentParser(prog="python -m lib.desk.export", description=main.__doc__)
    parser.error = refuse
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--size", default="laptop", help=f"one of {', '.join(SIZES)} (default: laptop)")
    options = parser.parse_args(argv)
    size_named(options.size)
    if options.model and options.model not in NAMES:
        hint = "".join(f", perhaps {near!r}" for near in difflib.get_close_matches(options.model.lower(), NAMES, 1, 0.5))
        refuse(f"unknown model {options.model!r}{hint}: expected one of {', '.join(NAMES)}")
    if options.model and not options.folder:
        refuse(f'name a folder, as in: python -m lib.desk.export "{options.model}" exported --size {options.size}')
    return options


def vacant(folder: str) -> Path:
    """The folder's real path, with `~` and links resolved; raises ValueError unless it is empty or does not exist."""
    path = Path(os.path.realpath(os.path.expanduser(folder)))
    if os.path.lexists(path) and not path.is_dir():
        raise ValueError(f"{path} is a file: name a new or empty folder")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{path} is not empty, and nothing is overwritten: name a new or empty folder")
    return path


# ---- trained models ----------------------------------------------------------------------------------------------


def chosen(size: str, of: str = "settings", what: Sequence[str] = SETTINGS) -> dict:
    """The settings chosen by notebook 05, or by 09 as `adaptation_selection`; raises NotMade if it has not run yet."""
    try:
        (best,) = [row for row in np.atleast_1d(report.read(of, size)) if of == "settings" or row["chosen"]]
        return {name: best[name] for name in what}
    except FileNotFoundError as error:
        raise NotMade(str(error)) from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{of}.json of size {size} is not as {report.maker(of)} writes it: run that again") from None


def study_of(name: str, size: str) -> Study:
    """The study to which a model belongs."""
    return WuStudy(size) if name in (*ADAPTATIONS, "hps") else LeeStudy(size)


def tuned(study: LeeStudy, arm: str) -> tuple[Artifact, int]:
    """A fine-tuned U-Net and the number of updates after which it is taken, as in notebooks 05 to 09."""
    spec = study.finetune_spec(**chosen(study.name))
    return study.finetuned(arm, spec), spec.updates


def adapted(study: WuStudy, arm: str) -> Artifact:
    """The LoRA of an adaptation's first run, as in notebook 09."""
    return study.adapted(arm, study.adaptation_spec(arm, **chosen(study.name, "adaptation_selection", CHOSEN)))


def makers(name: str) -> list[tuple[str, Callable[[Study], object]]]:
    """The notebooks that lead to a model, in order, each with what it produces; the last produces the model itself."""
    images = ("01_images_to_judge", lambda study: (study.labelled_images, study.unlabelled_images))
    rewards = ("03_reward_learning", lambda study: study.rewards(seeds=1))
    selection = ("05_fine_tuning", lambda study: chosen(study.name))
    score = ("08_preference_score", lambda study: study.tuned_clip())
    if name in ADAPTATIONS:
        return [images, selection, score, ("09_preference_adaptation", lambda study: adapted(study, name))]
    if name in ("reward", "hps"):
        return [images, rewards] if name == "reward" else [score]
    last = "10_side_effects" if name in OTHER_WEIGHTINGS else "05_fine_tuning"
    return [images, rewards, selection, (last, lambda study: tuned(study, name))]


def find(study: Study, name: str):
    """A trained model; raises NotMade that names the notebooks still to run, in order."""
    steps = makers(name)
    if (found := if_found(lambda: steps[-1][1](study))) is not None:
        return found
    wanted = list(dict.fromkeys(notebook for notebook, ask in steps if if_found(lambda ask=ask: ask(study)) is None))
    command = f"python -m lib.desk.run {' '.join(f'notebooks/{n}.ipynb' for n in wanted)} --size {study.name} --force"
    asked = f", with {name!r} among its ablations" if name in ADAPTATIONS and name not in study.arms() else ""
    raise NotMade(f"{name!r} is not trained yet at size {study.name}: run {', '.join(wanted)} first ({command}){asked}")


def state(study: Study, name: str) -> str:
    """Whether a model is trained, in a few words."""
    try:
        return "not trained yet" if if_found(lambda: makers(name)[-1][1](study)) is None else "trained"
    except ValueError as error:
        return f"cannot be exported: {error}"


# ---- folders -----------------------------------------------------------------------------------------------------


def export(study: Study, name: str, folder: str) -> tuple[Path, dict]:
    """Write a trained model, completely or not at all, to a new or empty folder; returns its real path and the card."""
    to, found = vacant(folder), find(study, name)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(dir=to.parent, prefix=".export-")
    except OSError as error:
        raise ValueError(f"cannot write to {to.parent} ({error.strerror}): name a folder elsewhere") from None
    with beside:
        (new := Path(beside.name) / "model").mkdir()  # with the usual permissions, unlike the temporary folder
        write = {"reward": write_reward, "hps": write_hps}.get(name, write_lora if name in ADAPTATIONS else write_pipeline)
        card = {"model": name, "size": study.name} | write(study, name, found, new)
        save_json(new / "card.json", card | {"files": file_digests(new)})
        os.rename(new, vacant(folder))  # checked again
    return to, card


def write_pipeline(study: LeeStudy, name: str, found: tuple[Artifact, int], folder: Path) -> dict:
    """The base's parts with the tuned U-Net, in float16, as it is cached and the base is shipped; both load as float32."""
    artifact, updates = found
    copy(MODELS / "mini-sd", folder, lambda path: path.parent.name != "unet" or path.name == "config.json")
    shutil.copyfile(artifact.path / f"unet-{updates}.safetensors", folder / "unet/diffusion_pytorch_model.safetensors")
    return made_of(artifact) | {
        "what": f"the shipped base with the U-Net of the arm {name!r} after {updates} updates",
        "import": "from diffusers import StableDiffusionPipeline",
        "load": ['pipe = StableDiffusionPipeline.from_pretrained("FOLDER")', drawn()],
    }


def write_lora(study: WuStudy, arm: str, artifact: Artifact, folder: Path) -> dict:
    """The LoRA alone; its prefix is the negative prompt."""
    copy(artifact.path, folder, lambda path: path.suffix == ".safetensors")
    return made_of(artifact) | {
        "what": f"a LoRA for the shipped base: the adaptation {arm!r}",
        "import": "from diffusers import StableDiffusionPipeline",
        "load": ['pipe = StableDiffusionPipeline.from_pretrained("data/models/mini-sd")',
                 'pipe.load_lora_weights("FOLDER")'],
        "draw": drawn(negative_prompt=study.adaptation_spec(arm).prefix),
    }  # fmt: skip


def write_hps(study: WuStudy, name: str, artifact: Artifact, folder: Path) -> dict:
    """The tuned CLIP in open_clip's layout."""
    copy(artifact.path, folder, lambda path: path.name != "manifest.json")
    return made_of(artifact) | {
        "what": "CLIP tuned on choices: Human Preference Score is 100 x cosine of the embeddings of image and prompt",
        "import": "import open_clip",
        "load": ['model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")',
                 'model, tokenizer = model.eval(), open_clip.get_tokenizer("local-dir:FOLDER")'],
    }  # fmt: skip


def write_reward(study: LeeStudy, name: str, rewards: list, folder: Path) -> dict:
    """The reward of seed 0, float32; `load_reward` reads it."""
    network, spec = rewards[0]
    save_arrays(folder / "reward.safetensors", {name: weight.cpu().numpy() for name, weight in network.state_dict().items()})
    labels = [None if np.isnan(label) else float(label) for label in study.feedback[0]]
    return {
        "what": "the reward r(x, z) in [0, 1] on embeddings of the shipped mini-clip (lib.images.embedding)",
        "spec": asdict(spec),
        "inputs": {"images": study.labelled_images.digest, "clip": study.clip_digest, "labels": digest_of(labels)},
        "import": "from lib.methods import reward\nfrom lib.desk import export",
        "load": ['network, spec = export.load_reward("FOLDER")', "r = reward.score(network, image, text, spec)"],
    }


def load_reward(folder: str | Path) -> tuple[Reward, RewardSpec]:
    """An exported reward with its spec, in the form that `lib.methods.reward.score` takes."""
    spec = RewardSpec(**json.loads((Path(folder) / "card.json").read_text("utf-8"))["spec"])
    weights = load_file(Path(folder) / "reward.safetensors")
    with torch.device("meta"):  # avoids drawing weights only to overwrite them
        network = Reward(weights["first.weight"].shape[1] // (3 if spec.product else 2), spec.width, spec.product)
    network.load_state_dict(weights, assign=True)
    return network.eval(), spec


def made_of(artifact: Artifact) -> dict:
    """The spec and the digests of the inputs of a stage, from its manifest."""
    manifest = json.loads((artifact.path / "manifest.json").read_text("utf-8"))
    return {"spec": manifest["spec"], "inputs": manifest["inputs"]}


def copy(source: Path, folder: Path, wanted: Callable[[Path], bool]) -> None:
    """Copy the files whose path below `source` is wanted, but not their permissions, which may forbid writing."""
    for path in sorted(p.relative_to(source) for p in source.rglob("*") if p.is_file()):
        if wanted(path):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, folder / path)


def drawn(**settings) -> str:
    """A line of code that draws an image nearly as the study does; a stock pipeline guides every step (`SamplerSpec`)."""
    settings = {"guidance_scale": EXACT.guidance_scale, "num_inference_steps": EXACT.steps} | settings
    return f'image = pipe("Two blue dogs in the forest", {", ".join(f"{k}={v!r}" for k, v in settings.items())}).images[0]'


if __name__ == "__main__":
    sys.exit(main())
