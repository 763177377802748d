"""A trained model leaves as a folder that the stock tools load, whole or not at all; what cannot is refused in one line."""

import io
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from lib.desk import export, report
from lib.ground.cache import Artifact, NotMade
from lib.ground.paths import MODELS, ROOT
from lib.ground.sizes import EXACT
from lib.images import models, sampling
from lib.methods import preference, reward
from lib.methods.adaptation import AdaptationSpec, adapt
from lib.methods.denoising import Pairs
from lib.methods.preference import PreferenceSpec
from lib.methods.reward import Reward, RewardSpec
from lib.study.common import Study
from lib.study.lee import ARMS, FULL_METHOD, OTHER_WEIGHTINGS, LeeStudy
from lib.study.wu import ADAPTATIONS, WuStudy

ARM_NAMES = [*ARMS, *OTHER_WEIGHTINGS]
TEXTS = ["Two blue dogs in the forest", "Six cats"]


@pytest.fixture(autouse=True)
def elsewhere(empty_cache, tmp_path, monkeypatch):
    """An empty cache and no results."""
    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path / "reports"))


@pytest.fixture
def command(capsys):
    """A function of arguments: exit code, stdout and own lines on stderr of `python -m lib.desk.export --size smoke`."""

    def run(*arguments, size="smoke"):
        capsys.readouterr()
        code = export.main([*map(str, arguments), "--size", size])
        said = capsys.readouterr()
        return code, said.out, "".join(line + "\n" for line in said.err.splitlines() if line.startswith("export:"))

    return run


def refused(result, *words) -> bool:
    """One line on stderr with these words, exit code 2."""
    code, out, err = result
    return code == 2 and out == "" and err.count("\n") == 1 and all(str(word) in err for word in words)


def select(updates: int = 6) -> None:
    """What notebook 05 stores of its choice."""
    best = dict(learning_rate=3e-4, schedule="falling", beta=0.25, updates=updates, drawn_at=EXACT.guidance_scale)
    report.write("settings", best, "smoke", "05_fine_tuning")


def settle(updates: int = 3) -> None:
    """What notebook 09 stores of its choice."""
    row = dict(learning_rate=0.03, updates=updates, chosen=True)
    report.write("adaptation_selection", [row | dict(updates=9, chosen=False), row], "smoke", "09_preference_adaptation")


def shifted(path: Path, by: float) -> dict:
    """Weights of a safetensors file, moved a little: another model of the same form."""
    return {k: (v.float() * (1 + by)).half() if v.dtype.is_floating_point else v for k, v in load_file(path).items()}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A function of names of models: they are trained then, in form and not in earnest, and no other is."""
    select(), settle()
    known, unet, clip = {}, MODELS / "mini-sd/unet/diffusion_pytorch_model.safetensors", MODELS / "mini-clip"

    def found(name, spec, make) -> Artifact:
        """What `make` fills for a spec, if trained; else what the cache says."""
        key = name, str(spec)
        if key not in known and not training:
            raise NotMade(f"stage {name} is not in the cache")
        if key not in known:
            path = tmp_path / "cache" / str(len(known))
            path.mkdir(parents=True)
            make(path)
            manifest = {"spec": spec, "inputs": {"base": Study("smoke").base_digest}, "seconds": 1.5}
            (path / "manifest.json").write_text(json.dumps(manifest))
            known[key] = Artifact(name, str(len(known)), path, f"digest {len(known)}", 1.5)
        return known[key]

    def finetuned(self, arm, spec):
        def make(folder):
            for updates in (*spec.keep, spec.updates):
                by = 0.001 * updates * (1 + list(ARMS | OTHER_WEIGHTINGS).index(arm))
                save_file(shifted(unet, by), folder / f"unet-{updates}.safetensors")

        return found("unet", asdict(spec) | {"arm": arm}, make)

    def adapted(self, arm, spec):
        def make(folder):
            g = torch.Generator().manual_seed(1)
            few = Pairs(torch.randn(4, 16, 8, 8, generator=g), torch.randn(1, 16, 128, generator=g),
                        torch.zeros(4, dtype=torch.long), torch.ones(4))  # fmt: skip
            adapt(models.load_generator(), [few] * 3, AdaptationSpec(rank=4, updates=2, batch=(2, 1, 1), warmup=1), folder)

        return found("lora", asdict(spec) | {"coin": arm == "coin choices"}, make)

    def tuned_clip(self, spec=PreferenceSpec()):
        def make(folder):
            tuned = models.load_clip.__wrapped__()[0]
            tuned.load_state_dict(shifted(clip / "open_clip_model.safetensors", 0.01))
            preference.save_clip(tuned, folder, clip)

        return found("preference", asdict(spec), make)

    def rewards(self, spec=None, seeds=None):
        if not training and "reward" not in known:
            raise NotMade("stage reward is not in the cache")
        torch.manual_seed(0)
        spec = RewardSpec(width=16, product=True, epochs=3)
        return known.setdefault("reward", [(Reward(128, spec.width, spec.product), spec)])

    monkeypatch.setattr(LeeStudy, "finetuned", finetuned)
    monkeypatch.setattr(LeeStudy, "rewards", rewards)
    monkeypatch.setattr(WuStudy, "adapted", adapted)
    monkeypatch.setattr(WuStudy, "tuned_clip", tuned_clip)
    monkeypatch.setattr(LeeStudy, "feedback", (np.array([1, 0, 0.5, np.nan]), [], []))
    for name in ("labelled_images", "unlabelled_images"):
        monkeypatch.setattr(Study, name, Artifact("images", name, tmp_path / name, f"digest of {name}", 0.0))
    training = False

    def train(*names):
        nonlocal training
        training = True
        for name in names:
            export.makers(name)[-1][1](export.study_of(name, "smoke"))
        training = False

    return train


# ---- what a folder holds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm, updates", [("full method", 6), ("constant reward", 3), ("exponential r", 1)])
def test_an_arm_loads_in_the_stock_pipeline_and_draws_the_studys_images(trained, command, tmp_path, arm, updates):
    select(updates)
    trained(arm)
    folder = tmp_path / "mit Leerzeichen" / "Bär 'é' 模型"
    code, out, err = command(arm, folder)
    assert (code, err) == (0, "") and str(folder) in out
    study = LeeStudy("smoke")
    spec = study.finetune_spec(**export.chosen("smoke"))
    unet = study.finetuned(arm, spec).path / f"unet-{updates}.safetensors"
    own = sampling.sample(models.load_generator("mini", unet), TEXTS, [5, 6], EXACT)
    stock = StableDiffusionPipeline.from_pretrained(folder)
    assert {p.dtype for p in stock.unet.parameters()} == {torch.float32}
    settings = dict(guidance_scale=EXACT.guidance_scale, num_inference_steps=EXACT.steps, output_type="np")
    base = StableDiffusionPipeline.from_pretrained(MODELS / "mini-sd")
    for text, seed, image in zip(TEXTS, (5, 6), own, strict=True):
        a, b = (255 * p(text, generator=torch.Generator().manual_seed(seed), **settings).images[0] for p in (stock, base))
        assert np.abs(a - image).max() <= 1 < 3 < np.abs(b - image).max()
    card = json.loads((folder / "card.json").read_text("utf-8"))
    assert (card["model"], card["size"], card["inputs"]["base"]) == (arm, "smoke", study.base_digest)
    assert card["spec"]["learning_rate"] == 3e-4 and f"after {updates} updates" in card["what"]
    assert not (folder / "unet" / "card.json").exists()  # it tells how the base's was trained


def test_a_lora_loads_on_the_stock_base_and_its_card_holds_the_prefix(trained, command, tmp_path):
    for arm, prefix in (("adapted", "Weird image. "), ("another prefix", "Strange picture. "), ("no prefix", "")):
        trained(arm)
        assert command(arm, tmp_path / arm)[0] == 0
        assert sorted(p.name for p in (tmp_path / arm).iterdir()) == ["card.json", "pytorch_lora_weights.safetensors"]
        card = json.loads((tmp_path / arm / "card.json").read_text("utf-8"))
        assert f"negative_prompt={prefix!r}" in card["draw"] and card["spec"]["prefix"] == prefix
        assert [card["spec"][k] for k in ("learning_rate", "updates", "seed")] == [0.03, 3, 0]
    pipe = StableDiffusionPipeline.from_pretrained(MODELS / "mini-sd")
    pipe.load_lora_weights(tmp_path / "adapted")
    assert pipe.get_active_adapters()
    study = WuStudy("smoke")
    own = study.adapted("adapted", study.adaptation_spec("adapted", learning_rate=0.03, updates=3)).path
    weights = load_file(tmp_path / "adapted" / "pytorch_lora_weights.safetensors")
    trained_weights = load_file(own / "pytorch_lora_weights.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in trained_weights.items()) and len(weights) == len(trained_weights) > 8


def test_a_reward_loads_again_and_scores_as_before(trained, command, tmp_path):
    trained("reward")
    assert command("reward", tmp_path / "r 1")[0] == 0
    network, spec = export.load_reward(str(tmp_path / "r 1"))
    own, own_spec = LeeStudy("smoke").rewards()[0]
    x, z = np.random.default_rng(3).random((2, 5, 128), np.float32)
    assert spec == own_spec and not network.training
    np.testing.assert_array_equal(reward.score(network, x, z, spec), reward.score(own, x, z, own_spec))
    card = json.loads((tmp_path / "r 1" / "card.json").read_text("utf-8"))
    assert card["spec"] == asdict(spec) and set(card["inputs"]) == {"images", "clip", "labels"}


def test_hps_loads_in_open_clip_and_its_lines_run_as_printed(trained, command, tmp_path):
    trained("hps")
    code, out, _ = command("hps", tmp_path / "öffne \"mich\"")
    names = {}
    exec("\n".join(out.splitlines()[1:]), names)
    own, _, tokenizer = models.load_clip.__wrapped__(f"local-dir:{WuStudy('smoke').tuned_clip().path}")
    assert code == 0 and not names["model"].training
    with torch.no_grad():
        found, wanted = names["model"].encode_text(names["tokenizer"](TEXTS)), own.encode_text(tokenizer(TEXTS))
    torch.testing.assert_close(found, wanted)
    shipped = open_clip.create_model_and_transforms(f"local-dir:{MODELS / 'mini-clip'}")[0].eval()
    assert (shipped.encode_text(tokenizer(TEXTS)) - found).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["pre-training loss alone", "rank 4", "reward", "hps"])
def test_an_export_is_the_same_bytes_wherever_it_lies_and_names_each_of_them(trained, command, tmp_path, name):
    trained(name)
    a, b = tmp_path / "a", tmp_path / "b" / "c"
    assert command(name, a)[0] == command(name, b)[0] == 0
    files = {p.relative_to(a).as_posix(): p.read_bytes() for p in a.rglob("*") if p.is_file()}
    assert files == {p.relative_to(b).as_posix(): p.read_bytes() for p in b.rglob("*") if p.is_file()}
    card = json.loads(files["card.json"])
    assert card["files"] == {k: export.file_digests(a)[k] for k in files if k != "card.json"} and len(card["load"]) <= 2
    assert str(tmp_path) not in files["card.json"].decode() and "seconds" not in card
    assert {p.stat().st_mode & 0o444 for p in a.rglob("*")} == {0o444} and "manifest.json" not in files


# ---- what is trained ----------------------------------------------------------------------------------------------


def states(command) -> dict:
    """What the list says, by model."""
    code, out, err = command()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == len(export.NAMES)
    return {name: line.removeprefix(name).strip() for name, line in zip(export.NAMES, lines, strict=True)}


def test_without_a_model_each_is_listed_with_whether_it_is_trained(trained, command):
    assert set(export.NAMES) == {*ARM_NAMES, *ADAPTATIONS, "reward", "hps"} and len(export.NAMES) == len(set(export.NAMES))
    assert set(states(command).values()) == {"not trained yet"}
    trained("full method", "no prefix", "reward")
    found = {name for name, state in states(command).items() if state == "trained"}
    assert found == {FULL_METHOD, "no prefix", "reward"}


def test_what_is_not_trained_is_refused_with_the_notebooks_to_run_in_their_order(trained, command, tmp_path):
    trained("reward")
    for name, notebooks in {
        "full method": ["05_fine_tuning"], "constant reward": ["05_fine_tuning"],
        "random r": ["10_side_effects"], "hps": ["08_preference_score"],
        "swapped labels": ["08_preference_score", "09_preference_adaptation"],
    }.items():  # fmt: skip
        paths = " ".join(f"notebooks/{n}.ipynb" for n in notebooks)
        words = f"run {', '.join(notebooks)} first", f"python -m lib.desk.run {paths} --size smoke"
        also = [f"with {name!r} among its ablations"] if name == "swapped labels" else []  # smoke leaves it out
        assert refused(command(name, tmp_path / "x"), "not trained yet at size smoke", *words, *also), name
        assert all((ROOT / "notebooks" / f"{n}.ipynb").exists() for n in notebooks)
    assert not (tmp_path / "x").exists()


def test_missing_results_of_notebook_05_are_refused_by_its_name_and_broken_ones_too(trained, command, tmp_path):
    trained("full method", "adapted")
    path = tmp_path / "reports/smoke/results/settings.json"
    path.unlink()
    for arm in ("full method", "random r"):
        assert refused(command(arm, tmp_path / "x"), repr(arm), "05_fine_tuning"), arm
    assert command("adapted", tmp_path / "needs no settings")[0] == 0
    for broken in ("{", '{"rows": []}', '{"rows": [{"chosen": true}]}', '{"rows": null}'):
        path.write_text(broken)
        assert refused(command("full method", tmp_path / "x"), "settings.json", "05_fine_tuning"), broken
    select(), settle(4)
    assert refused(command("adapted", tmp_path / "x"), "not trained yet", ", 09_preference_adaptation first")
    path.with_name("adaptation_selection.json").write_text("{")
    assert refused(command("adapted", tmp_path / "x"), "adaptation_selection.json", "09_preference_adaptation")


def test_a_choice_of_other_updates_is_another_model(trained, command, tmp_path):
    trained("full method")
    select(5)
    assert refused(command("full method", tmp_path / "x"), "'full method' is not trained yet", "05_fine_tuning")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "reports"]


def test_from_the_first_image_to_an_exported_arm_it_says_what_comes_next(tmp_path):
    study, other, to = LeeStudy("smoke"), WuStudy("smoke"), tmp_path / "arm"
    study.size = other.size = replace(
        study.size, prompts=(2, 2, 2, 2), images=(4, 4, 4, 4), unlabelled=4, held_out=10**9, reward_epochs=1, updates=4,
        batch=(2, 1), pretraining=2,
    )  # fmt: skip
    study.rewards = lambda seeds: LeeStudy.rewards(study, RewardSpec(auxiliary_weight=0.0), seeds)  # faster
    study.run_reward = lambda run, labels: study.rewards(seeds=1)

    def wanted(name) -> str:
        with pytest.raises(NotMade) as refusal:
            export.export(other if name in (*ADAPTATIONS, "hps") else study, name, str(to))
        return str(refusal.value).split(" first ")[0].split(": run ")[1]

    assert wanted("full method") == "01_images_to_judge, 03_reward_learning, 05_fine_tuning"
    assert wanted("no prefix") == "01_images_to_judge, 05_fine_tuning, 08_preference_score, 09_preference_adaptation"
    assert wanted("reward") == "01_images_to_judge, 03_reward_learning" and wanted("hps") == "08_preference_score"
    study.labelled_images, study.unlabelled_images  # noqa: B018
    assert wanted("full method") == "03_reward_learning, 05_fine_tuning" and wanted("reward") == "03_reward_learning"
    study.rewards(seeds=1)
    select(4)
    assert wanted("full method") == "05_fine_tuning"
    assert wanted("random r") == "10_side_effects"
    artifact, updates = export.tuned(study, FULL_METHOD)
    for name, folder in (("full method", to), ("reward", tmp_path / "reward")):
        export.export(study, name, str(folder))
    weights = load_file(artifact.path / f"unet-{updates}.safetensors")
    loaded = StableDiffusionPipeline.from_pretrained(to).unet.state_dict()
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[k], v.float()) for k, v in weights.items())
    card = json.loads((to / "card.json").read_text("utf-8"))
    assert card["inputs"]["images 0"] == study.labelled_images.digest and card["spec"]["beta"] == 0.25
    assert export.load_reward(tmp_path / "reward")[1] == study.rewards(seeds=1)[0][1]
    to = tmp_path / "again"
    (artifact.path / "unet-1.safetensors").write_bytes(b"damaged")
    assert wanted("full method") == "05_fine_tuning" and not to.exists()


# ---- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said, meant", [("Adapted", "adapted"), ("HPS", "hps"), ("full metod", "full method"),
                                         ("constant rewrd", "constant reward"), ("rewards", "reward")])  # fmt: skip
def test_an_unknown_model_is_refused_with_the_nearest_and_all_names(command, tmp_path, said, meant):
    assert refused(command(said, tmp_path / "x"), f"unknown model {said!r}, perhaps {meant!r}", *export.NAMES)
    assert refused(command("zzzz", tmp_path / "x"), "unknown model 'zzzz': expected one of", *export.NAMES)


def test_other_wrong_requests_are_refused(command, tmp_path):
    assert refused(command("adapted"), "name a folder, as in", '"adapted" exported --size smoke')
    assert refused(command("adapted", ""), "name a folder, as in")
    said = "unknown size 'huge': expected one of smoke, laptop, evening, gpu, full"
    assert refused(command("adapted", tmp_path / "x", size="huge"), said)
    assert refused(command("adapted", tmp_path / "x", tmp_path / "y"), "unrecognized")
    assert refused(command("adapted", tmp_path / "x", "--force"), "--force")


def test_what_is_in_the_way_is_never_overwritten(trained, command, tmp_path):
    trained("reward")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to(full)
    for there in (full, tmp_path / "link", full / "thesis.txt"):
        assert refused(command("reward", there), str(there.resolve()), "name a new or empty folder"), there
    assert refused(command("reward", full / "thesis.txt" / "below"), "thesis.txt", "name a folder elsewhere")
    assert [p.name for p in full.iterdir()] == ["thesis.txt"] and (full / "thesis.txt").read_text("utf-8") == "mine"


def test_an_empty_folder_a_link_to_a_new_one_and_a_home_are_taken(trained, command, tmp_path, monkeypatch):
    trained("reward")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "new")
    monkeypatch.setenv("HOME", str(tmp_path))
    for said, to in ((tmp_path / "empty", "empty"), (tmp_path / "link", "new"), ("~/mine", "mine")):
        assert command("reward", said)[0] == 0 and (tmp_path / to / "reward.safetensors").exists()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("why", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_parent_that_cannot_be_written_is_refused_by_name(trained, command, tmp_path, monkeypatch, why):
    trained("reward")
    monkeypatch.setattr(export.tempfile, "TemporaryDirectory", lambda **_: (_ for _ in ()).throw(why))
    assert refused(command("reward", tmp_path / "x"), f"cannot write to {tmp_path} ({why.strerror})")


@pytest.mark.parametrize("last", ["save_json", "file_digests"])
def test_an_export_that_fails_or_is_killed_leaves_nothing(trained, command, tmp_path, monkeypatch, last):
    trained("hps")
    before = sorted(p.name for p in tmp_path.iterdir())

    def failing(error):
        def fail(*_):
            raise error

        monkeypatch.setattr(export, last, fail)

    failing(OSError(28, "No space left on device"))
    assert refused(command("hps", tmp_path / "x"), "No space left on device")
    failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        command("hps", tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_read_only_models_make_folders_that_can_be_written(trained, command, tmp_path, monkeypatch):
    trained("full method")
    export.copy(MODELS / "mini-sd", (locked := tmp_path / "locked") / "mini-sd", lambda path: True)
    for path in locked.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(export, "MODELS", locked)
    assert command("full method", tmp_path / "x")[0] == 0
    for path in locked.rglob("*"):
        path.chmod(0o755)
    assert all(path.stat().st_mode & 0o200 for path in [tmp_path / "x", *(tmp_path / "x").rglob("*")])


def test_a_folder_whose_name_the_terminal_cannot_show_is_exported_all_the_same(trained, tmp_path, monkeypatch):
    trained("reward")
    monkeypatch.setattr(sys, "stdout", terminal := io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert export.main(["reward", str(tmp_path / "模型"), "--size", "smoke"]) == 0
    terminal.flush()
    assert rb"\u6a21\u578b" in terminal.buffer.getvalue() and (tmp_path / "模型" / "card.json").exists()


def test_the_module_is_a_command(tmp_path):
    run = [sys.executable, "-m", "lib.desk.export", "Bär", "x"]
    wrong = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "export: unknown model" in wrong.stderr
