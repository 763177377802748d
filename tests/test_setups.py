"""A setup is read whole, or refused in one line that names the file and the key."""

import re

import pytest

from lib.ground import setups
from lib.ground.setups import Setup, setup_named


@pytest.fixture
def refused(tmp_path):
    """The one-line refusal of a setup with this text, without the file's name."""

    def refusal(text: str) -> str:
        (path := tmp_path / "own.toml").write_text(text)
        with pytest.raises(ValueError) as error:
            setup_named(path)
        assert "\n" not in str(error.value) and str(error.value).startswith(str(path))
        return str(error.value).removeprefix(str(path)).removeprefix(": ")

    return refusal


def test_mini_is_the_default():
    mini = setup_named()
    assert mini == setup_named("mini") and mini == Setup(about=mini.about) and not mini.model.on_hub


def test_minis_sampling_is_the_studys():
    from lib.ground.sizes import SamplerSpec

    mine = Setup().sampling
    spec = SamplerSpec()
    assert (mine.guidance_scale, mine.steps, mine.guided) == (spec.guidance_scale, spec.steps, spec.guided)


def test_every_shipped_setup_is_sound():
    assert {p.stem for p in setups.FOLDER.glob("*.toml")} == {"mini", "tiny", "lee-sd15", "wu-sd14"}
    for path in setups.FOLDER.glob("*.toml"):
        setup = setup_named(path.stem)
        assert setup.name == path.stem and setup.about.endswith(".")


def test_the_papers_models_are_pinned():
    lee, wu = setup_named("lee-sd15"), setup_named("wu-sd14")
    assert lee.model.on_hub and wu.model.on_hub and len(lee.model.sha256) == 3
    assert (lee.fidelity.count, lee.fidelity.resolution) == (40_504, 256)
    assert wu.raters.choices.endswith("wu/choices.parquet") and not wu.raters.labels
    assert (lee.training.timesteps, wu.training.lora_rank, lee.training.lora_rank) == ("even", 32, None)


def test_paths_are_relative_to_the_file_or_to_study_data(tmp_path, monkeypatch):
    (path := tmp_path / "own.toml").write_text(
        '[model]\nsource = "./a"\n[pairs]\nkind = "tar"\npaths = ["b/*.tar", "/c.tar"]'
    )
    own = setup_named(path)
    assert own.model.source == str(tmp_path / "a") and not own.model.on_hub
    assert own.pairs.paths == (str(tmp_path / "b" / "*.tar"), "/c.tar") and own.raters.labels == ""
    monkeypatch.setenv("STUDY_DATA", "/data")
    assert setup_named(path).model.source == "/data/a"


def test_names_stay_names(monkeypatch):
    monkeypatch.setenv("STUDY_DATA", "/data")
    lee = setup_named("lee-sd15")
    assert lee.model.source == "stable-diffusion-v1-5/stable-diffusion-v1-5" and lee.clip.source == "ViT-L-14"
    assert lee.raters.labels == "/data/lee/labels.parquet"


SHA = "f" * 64
WRONG = {
    "sampler = 1": r"sampler is unknown: expected one of about, model, .*, training, size",
    "model = 1": r"model = 1 is not a table: expected \[model\]",
    "[model]\nname = 'x'": r"model.name is unknown: expected one of source, revision, variant, sha256",
    "[model]\nsource = 1": r"model.source = 1 is wrong: expected a string",
    "[model]\nsource = 'a/b'": r"model.revision = '' is wrong: expected the commit of a/b, 40 hexadecimal digits \(.*\)",
    "[model]\nsource = 'a/b'\nrevision = 'main'": r"model.revision = 'main' is wrong: .*",
    "[model]\nvariant = 'half'": r"model.variant = 'half' is wrong: expected one of '', 'fp16', 'non_ema'",
    "[model.sha256]\n'a' = 'b'": r"model.sha256\['a'\] = 'b' is wrong: expected 64 hexadecimal digits",
    "[model.sha256]\n'a' = 1": r"model.sha256 = \{'a': 1\} is wrong: expected a table of strings",
    "[model]\nsha256 = 'a'": r"model.sha256 = 'a' is wrong: expected a table of strings",
    "[clip]\nsource = 'ViT-L-14'": r"clip.pretrained = '' is wrong: expected the name of weights for ViT-L-14, .*",
    "[raters]\nkind = 'people'": r"raters.kind = 'people' is wrong: expected one of 'panel', 'labels'",
    "[raters]\nkind = 'labels'": r"raters.labels = '' is wrong: expected a file \(Parquet\), unless there are choices",
    "[raters]\nkind = 'labels'\nlabels = 'a'": r"raters.images = '' is wrong: expected a folder of image shards",
    "[pairs]\nkind = 'tar'": r"pairs.paths = \(\) is wrong: expected one or more paths of shards",
    "[pairs]\npaths = 'a.tar'": r"pairs.paths = 'a.tar' is wrong: expected a list of strings",
    "[pairs]\npaths = [1]": r"pairs.paths = \(1,\) is wrong: expected a list of strings",
    "[pairs]\ncorrupt_limit = 1": r"pairs.corrupt_limit = 1 is wrong: expected a number in \[0, 1\)",
    "[fidelity]\nkind = 'coco'": r"fidelity.images = '' is wrong: expected a path",
    "[fidelity]\nsha256 = 'x'": r"fidelity.sha256 = 'x' is wrong: expected 64 hexadecimal digits, or nothing",
    "[sampling]\nresolution = 100": r"sampling.resolution = 100 is wrong: expected a multiple of 8",
    "[sampling]\nsteps = 4.5": r"sampling.steps = 4.5 is wrong: expected a whole number of at least 1",
    "[sampling]\nguidance_scale = nan": r"sampling.guidance_scale = nan is wrong: expected a number in \[0, inf\)",
    "[training]\nprecision = 'half'": r"training.precision = 'half' is wrong: expected one of 'fp32', 'bf16', 'fp16'",
    "[training]\ngradient_checkpointing = 1": r"training.gradient_checkpointing = 1 is wrong: expected True or False",
    "[training]\nlearning_rate = 0": r"training.learning_rate = 0 is wrong: expected a number in \(0, 1\], or None",
    "[training": r" is not TOML: .*",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_key_type_or_value_is_refused(refused, text):
    assert re.fullmatch(WRONG[text], refused(text))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        FileNotFoundError, match=r"there is no setup .*/sdxl.toml: expected one of lee-sd15, mini, tiny, wu-"
    ):
        setup_named("sdxl")
