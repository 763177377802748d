"""Stages in several processes: the same result as in one, resumed after any kill, and an error that names who failed."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from lib.ground.cache import PARTIAL, save_arrays
from lib.ground.paths import ROOT
from lib.ground.setups import setup_named
from lib.scale import launch, pairs, shards, tasks, worker
from lib.scale.launch import LaunchFailed, Machines, launched

TWO = Machines(processes=2)
SPEC = {"updates": 20, "learning_rate": 1e-3, "batch": [3, 2], "warmup": 2, "keep": [10]}


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> Path:
    """The path of the setup `tiny`."""
    return tiny.write_tiny(tmp_path_factory.mktemp("tiny"))


def one_of(count: int, process: int) -> SimpleNamespace:
    """What shares need of an accelerator, for one of some processes that need not talk to each other."""
    return SimpleNamespace(num_processes=count, process_index=process, is_main_process=process == 0,
                           device=torch.device("cpu"), wait_for_everyone=lambda: None)  # fmt: skip


def in_turn(task: str, setup: Path, config: dict, folder: Path, processes: int = 1) -> Path:
    """Run the shares of some processes one after another, here; returns the folder with what they made."""
    config = {**config, "folder": str(folder), "setup": str(setup)}
    for process in reversed(range(processes)):  # the main process last: it closes what all have made
        tasks.TASKS[task](one_of(processes, process), setup_named(setup), config, lambda line: None)
    return folder / PARTIAL / "out"


def contents(folder: Path) -> dict[str, bytes]:
    """All files under a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(setup, tmp_path_factory) -> dict[str, Path]:
    """Images, latents of pairs and of images, by one process."""
    folder = tmp_path_factory.mktemp("made")
    asked = {"prompts": list(tiny.PROMPTS) * 3, "numbers": [0] * 3 + [1] * 3 + [2] * 3, "stream": "s", "per_shard": 2}
    found = {"images": in_turn("sample", setup, asked, folder / "images"), "asked": asked}
    found["pairs"] = in_turn("latents", setup, {}, folder / "pairs")
    found["latents"] = in_turn("latents", setup, {"images": str(found["images"]), "per_shard": 4}, folder / "latents")
    return found


def tuning_config(made: dict, folder: Path) -> dict:
    save_file({"array": torch.linspace(0, 1, 9)}, weights := folder / "weights.safetensors")
    return {"model": {"latents": str(made["latents"]), "weights": str(weights)}, "spec": SPEC,
            "pretraining": {"latents": str(made["pairs"])}, "upkeep": {"every": 4, "look": 2}}  # fmt: skip


# ---- shares --------------------------------------------------------------------------------------------------------


def test_images_are_those_of_the_stock_pipeline(setup, made):
    from diffusers import StableDiffusionPipeline

    from lib.ground.seeds import seed_of
    from lib.images.sampling import start_noise

    found, chosen = shards.opened(made["images"]), setup_named(setup)
    folder = Path(chosen.model.source)
    stock = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    noise = start_noise(stock, [seed_of("s", p, n) for p, n in zip(found.prompts, found.numbers, strict=True)])
    kind = {
        "num_inference_steps": chosen.sampling.steps,
        "guidance_scale": chosen.sampling.guidance_scale,
        "output_type": "np",
    }
    expected = stock(found.prompts, latents=noise, **kind).images
    assert abs(found.pixels[:] / 255 - expected).max() < 1.01 / 255


@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_only_a_shard_that_is_lost_or_damaged_is_made_again(damage, setup, made, tmp_path, monkeypatch):
    out = in_turn("sample", setup, made["asked"], tmp_path)
    whole = contents(out)
    content = (out / "00001.tar").read_bytes()
    (out / "00001.tar").write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    if damage == "lost":
        (out / "00001.tar").unlink()
    drawn, seen = tasks.drawn, []
    monkeypatch.setattr(
        tasks, "drawn", lambda pipe, prompts, *rest: seen.append(len(prompts)) or drawn(pipe, prompts, *rest)
    )
    in_turn("sample", setup, made["asked"], tmp_path)
    assert contents(out) == whole and seen == [2]


def test_latents_of_images_go_with_their_prompts(made):
    images, found = shards.opened(made["images"]), pairs.PairLatents(made["latents"])
    assert list(found.captions(range(9))) == images.prompts and found.latents([8]).shape == (1, 4, 8, 8)
    chosen = tasks.Chosen(found, [7, 2], "Weird image. ")
    assert chosen.captions([1, 0]) == [f"Weird image. {images.prompts[r]}" for r in (2, 7)]
    assert torch.equal(chosen.latents([0]), found.latents([7])) and len(chosen) == 2


# ---- two processes -------------------------------------------------------------------------------------------------

WRITTEN = {"finetune": "unet-20.safetensors", "adapt": "pytorch_lora_weights.safetensors",
           "preference": "open_clip_model.safetensors"}  # fmt: skip
KILLED = {task: [random.randrange(2), random.randrange(1, 20)] for task in WRITTEN}  # which process, after which update


def every_config(made: dict, setup: Path, folder: Path) -> dict[str, dict]:
    """A config of each task."""
    choices = {"rows": np.arange(9).reshape(3, 3), "counts": np.array([[2, 0, 1], [0, 3, 1], [1, 1, 0]])}
    for name, array in choices.items():
        save_arrays(folder / f"{name}.safetensors", {"array": array})
    images, learning = {"images": str(made["images"]), "per_shard": 4}, tuning_config(made, folder)
    upkeep, latents = {"upkeep": learning["upkeep"]}, str(made["latents"])
    streams = [{"latents": latents, "rows": [0, 2, 4]}, {"latents": latents, "prefix": "Weird. "}, learning["pretraining"]]
    found = {"sample": made["asked"], "embed": images, "evaluate": images, "latents": images, "finetune": learning}
    found["adapt"] = {"streams": streams, "spec": {"rank": 4, "updates": 20, "batch": [3, 2, 1], "warmup": 2}} | upkeep
    choices = {name: str(folder / f"{name}.safetensors") for name in choices}
    spec = {"epochs": 10, "batch": 2, "learning_rate": 1e-3, "image_share": 1.0, "text_share": 1.0}
    found["preference"] = {"images": images["images"], **choices, "spec": spec} | upkeep
    return {task: {**config, "task": task, "setup": str(setup)} for task, config in found.items()}


@pytest.fixture(scope="module")
def twice(setup, made, tmp_path_factory) -> Path:
    """The folder of what one and two processes made in each task, and of what two made that were killed and resumed."""
    folder = tmp_path_factory.mktemp("twice")
    configs, places = every_config(made, setup, folder), {1: "one", 2: "two"}

    def at(place: str, task: str) -> dict:
        return {**configs[task], "folder": str(folder / place / task)}

    plain = {"updates": 6, "clip": 1e9, "keep": []}, {"updates": 6, "clip": 1e9, "learning_rate": 1.0}, {"epochs": 3}
    plain = {task: configs[task]["spec"] | spec for task, spec in zip(WRITTEN, plain, strict=True)}
    jobs = [{"processes": n, "configs": [at(place, task) for task in configs]} for n, place in places.items()]
    jobs += [{"processes": n, "configs": [at(f"{place} plain", task) | {"spec": spec} for task, spec in plain.items()],
              "sgd": True} for n, place in places.items()]  # fmt: skip
    resumed = [{"processes": 2, "configs": [at("killed", task)]} for task in WRITTEN]
    jobs += [job | more for job, kill in zip(resumed, KILLED.values(), strict=True) for more in ({"kill": kill}, {})]
    jobs.append({"processes": 2, "configs": [at("other", "embed")], "differ": {"batch": 3}})
    (path := folder / "jobs.json").write_text(json.dumps(jobs))
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, Path(__file__).with_name("twofold.py"), path]
    (folder / "errors").write_text(subprocess.run(command, check=True, env=env, stderr=subprocess.PIPE, text=True).stderr)
    statuses = json.loads(path.with_suffix(".out").read_text())
    assert statuses.pop() == [1, 1]
    assert statuses[:4] == [[0], [0, 0], [0], [0, 0]]
    for killed, again, (rank, update) in zip(statuses[4::2], statuses[5::2], KILLED.values(), strict=True):
        assert killed[rank] == -signal.SIGKILL and killed[1 - rank] not in (0, 1) and again == [0, 0], (rank, update)
    return folder


def made_in(folder: Path, place: str, task: str) -> Path:
    return folder / place / task / PARTIAL / "out"


def test_two_processes_make_the_images_embeddings_latents_and_moments_of_one(twice, made):
    for task in ("sample", "embed", "evaluate", "latents"):
        one, two = (contents(made_in(twice, place, task)) for place in ("one", "two"))
        assert one == two and len(one) >= 3, task
    assert two.keys() == contents(made["latents"]).keys()


@pytest.mark.parametrize("processes", [3, 8])  # of five shards at most
def test_shares_of_any_number_of_processes_are_the_same_bytes(processes, twice, setup, made, tmp_path):
    images = {"images": str(made["images"]), "per_shard": 4}
    for task, config in {"sample": made["asked"], "embed": images, "evaluate": images, "latents": images}.items():
        several = in_turn(task, setup, config, tmp_path / task, processes)
        assert contents(several) == contents(made_in(twice, "one", task)), task


@pytest.mark.parametrize("task", WRITTEN)
@pytest.mark.parametrize("how", ["", " plain"])  # plain gradient descent as well: AdamW hides a wrong scale
def test_two_processes_learn_what_one_does(task, how, twice, setup):
    model, clip = (Path(part.source) for part in (setup_named(setup).model, setup_named(setup).clip))
    start = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    start |= load_file(clip / "open_clip_model.safetensors")
    name = WRITTEN[task].replace("20", "6") if how else WRITTEN[task]
    one, two = (load_file(made_in(twice, place + how, task) / name) for place in ("one", "two"))
    learnt = [n for n in one if "lora_A" not in n and ".down." not in n]  # the other half of a LoRA starts at 0
    one, two = ({n: without_key_bias(n, x[n]) for n in learnt} for x in (one, two))
    assert off(two, one, {n: without_key_bias(n, start.get(n, torch.zeros_like(x))) for n, x in one.items()}) < 1e-4


def without_key_bias(name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight with 0 for the bias of attention's keys, if it has one: softmax cancels what all keys share, so that its
    gradient is rounding, of which AdamW makes whole updates."""
    if not name.endswith("in_proj_bias"):
        return weight
    query, key, value = weight.chunk(3)
    return torch.cat([query, torch.zeros_like(key), value])


@pytest.mark.parametrize("task", WRITTEN)
def test_two_processes_killed_after_any_update_and_resumed_write_the_same_bytes(task, twice):
    whole, resumed = (contents(made_in(twice, place, task)) for place in ("two", "killed"))
    assert whole.keys() == resumed.keys() and WRITTEN[task] in whole
    assert {name for name in whole if whole[name] != resumed[name]} == set(), KILLED[task]


def test_processes_with_other_configs_refuse_to_work(twice):
    said = "ValueError: processes 0 and 1 disagree about the task, the code or library versions: all hosts need the same"
    assert (twice / "errors").read_text().count(said) == 2 and not (twice / "other").exists()


# ---- launches ------------------------------------------------------------------------------------------------------


def off(a: dict, b: dict, start: dict) -> float:
    """The distance of two sets of weights relative to how far training moved the second."""
    square = [sum(float((x[n] - b[n]).square().sum()) for n in b) for x in (a, start)]
    return (square[0] / square[1]) ** 0.5


def killing(process: int, after: str):
    """A listener that kills one process of the launch when a line that starts with `after` is told."""

    def tell(line: str) -> None:
        if line.startswith(after):
            for child in psutil.Process().children(recursive=True):
                if "lib.scale.worker" in child.cmdline() and child.environ().get("RANK", "0") == str(process) and not [
                    c for c in child.children() if "lib.scale.worker" in c.cmdline()
                ]:  # fmt: skip
                    os.kill(child.pid, signal.SIGKILL)

    return tell


def test_a_killed_process_of_a_launch_is_named_and_the_next_launch_resumes(setup, made, twice, tmp_path):
    config = every_config(made, setup, tmp_path)["finetune"]
    with pytest.raises(LaunchFailed, match=r"^finetune: process 1 of 2 was killed \(SIGKILL\).*; run again to resume$"):
        launched("finetune", config, tmp_path / "killed", TWO, killing(1, "fine-tuning: update 12 of 20"))
    assert not list((tmp_path / "killed").glob("*.safetensors"))
    told = []
    launched("finetune", config, tmp_path / "killed", TWO, told.append)
    assert told[0].startswith("fine-tuning: update 16 of 20")
    for name in ("unet-10.safetensors", "unet-20.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (made_in(twice, "two", "finetune") / name).read_bytes()


def test_an_error_in_one_process_ends_the_launch_and_is_told_in_one_line(setup, made, tmp_path):
    config = tuning_config(made, tmp_path) | {"setup": str(setup)}
    config["pretraining"] = {"latents": str(tmp_path / "nowhere")}
    with pytest.raises(LaunchFailed, match=r"^finetune: process [01] of 2 failed: .*nowhere/pairs.json is missing: [^\n]*$"):
        launched("finetune", config, tmp_path / "work", TWO)


# ---- what is said --------------------------------------------------------------------------------------------------


def said(work: Path, log: str = "", on: Machines = TWO, **errors) -> str:
    """What is told of these errors, by process, in the order in which they came."""
    for when, (process, (kind, message)) in enumerate(errors.items()):
        content = {"kind": kind, "time": float(when), "message": message}
        launch.save_json(work / f"error-{process[1:]}.json", content)
    return launch.first_failure(work, log, on)


DEAD = "  rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: 7)  (SIGKILL)\n"
ENDED = "  rank      : 0 (local_rank: 0)\n  exitcode  : -15 (pid: 6)  (SIGTERM)\n"


def test_the_first_failure_is_told_not_what_followed_from_it(tmp_path):
    lost = (launch.SECONDARY, "RuntimeError: gloo/pair.cc: Connection closed by peer")
    folders = iter(tmp_path / str(i) for i in range(9))
    assert said(next(folders), _0=lost, _1=("error", "no luck")) == "process 1 of 2 failed: no luck"
    killed = "process 1 of 2 was killed (SIGKILL): often because memory was exhausted; run again to resume"
    assert said(next(folders), ENDED + DEAD, _0=lost) == killed
    assert said(next(folders), DEAD.replace("-9", "-11")) == "process 1 of 2 was killed (SIGSEGV); run again to resume"
    one = "subprocess.CalledProcessError: Command died with <Signals.SIGKILL: 9>."
    assert said(next(folders), one, Machines()) == killed.replace("1 of 2", "0 of 1")
    assert said(next(folders), ENDED, _0=lost).startswith("process 0 of 2 lost the others: RuntimeError: gloo")
    assert said(folder := next(folders), "a\nno such module\n\n").startswith("the launcher failed: no such module (see ")
    assert str(folder) in said(folder, "x")


def test_a_process_says_what_to_do_when_gpu_memory_is_exhausted_and_knows_when_another_has_gone():
    assert worker.in_one_line(torch.OutOfMemoryError("CUDA out of memory.\nTried")).startswith(
        "GPU memory is exhausted: lower training.micro_batch or "
    )
    assert worker.in_one_line(ValueError("a\n b")) == "a b" and worker.in_one_line(KeyError("x")) == "KeyError: 'x'"
    assert worker.secondary(RuntimeError("[/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:1"))
    assert not worker.secondary(RuntimeError("no luck")) and not worker.secondary(ValueError("Connection closed by peer"))


def test_exhausted_gpu_memory_is_told_in_one_line(setup, tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation")

    (tmp_path / "config.json").write_text(json.dumps({"task": "sample", "setup": str(setup), "folder": str(tmp_path)}))
    monkeypatch.setitem(tasks.TASKS, "sample", exhausted)
    monkeypatch.setattr(worker, "end_with_launcher", lambda: None)
    assert worker.main(tmp_path / "config.json") == 1
    told = launch.first_failure(tmp_path, "", Machines())
    assert told == (
        "process 0 of 1 failed: GPU memory is exhausted: lower training.micro_batch or the batch of images, set "
        "gradient_checkpointing or ema_offload = true, or use more processes"
    )


def test_a_process_ends_when_the_notebook_that_launched_it_has_ended(monkeypatch):
    said, ended = iter([b"x", b""]), []
    monkeypatch.setattr(worker.os, "read", lambda file, count: next(said))
    monkeypatch.setattr(worker.os, "_exit", ended.append)
    worker.end_with_launcher()
    assert ended == [3]


def test_a_tracker_without_its_package_is_refused(setup):
    with pytest.raises(ValueError, match="^the tracker wandb needs its package: install it, or choose no tracker$"):
        worker.accelerator_of(setup_named(setup), "wandb")


def test_processes_that_disagree_are_refused(monkeypatch):
    monkeypatch.setattr(worker, "gather_object", lambda own: ["a", "a", "b"])
    with pytest.raises(ValueError, match="^processes 0 and 2 disagree about the code: all hosts need the same files"):
        worker.agree(one_of(3, 0), "the code", "a")
    worker.agree(one_of(1, 0), "the code", "a")


def test_machines_come_from_the_environment(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch.machines({}) == Machines(processes=4)
    several = {"STUDY_PROCESSES": "2", "STUDY_HOSTS": "3", "STUDY_HOST": "2", "STUDY_ADDRESS": "node0:29500"}
    assert launch.machines(several) == Machines(2, 3, 2, "node0:29500")
    settings = launch._settings(launch.machines(several))
    assert (settings["num_processes"], settings["main_process_ip"], settings["main_process_port"]) == (6, "node0", 29500)
    for change, match in {"STUDY_PROCESSES": "two", "STUDY_HOST": "3", "STUDY_ADDRESS": "node0"}.items():
        with pytest.raises(ValueError, match=f"{change}|Machines: host = 3"):
            launch.machines(several | {change: match})


def test_the_launcher_reads_no_settings_but_its_own(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    env = launch._environment(TWO)
    assert not {"RANK", "LOCAL_RANK", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & env.keys()
    assert launch._settings(TWO)["mixed_precision"] == "no"
