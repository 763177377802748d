"""What the study is made of: models, raters, data and options, read from a TOML file in data/setups or from a path.

`mini`, the default, is what this repository ships; `tiny` is for tests, `lee-sd15` and `wu-sd14` are the papers' own scale.
A relative path in a setup is relative to the folder STUDY_DATA if that is set, else to the setup's own file.
"""

import os
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path

from lib.ground.cache import digest_of
from lib.ground.domains import fits, wanted
from lib.ground.paths import DATA
from lib.ground.sizes import Size, size_named

FOLDER = DATA / "setups"


class NotServed(LookupError):
    """What a setup cannot serve, and why, in one line: judges, for instance, know the emoji world only."""


def check_fields(part, **domains: str | tuple[str, ...]) -> None:
    """Refuse a field not of its type, not in its domain, or not among its choices; names it as `part.field`."""
    for f in fields(part):
        value, domain = getattr(part, f.name), domains.get(f.name, "")
        if isinstance(domain, tuple):
            choices = ", ".join(repr(d) for d in domain)
            _must(part, f.name, value, isinstance(value, str) and value in domain, f"one of {choices}")
        elif f.type == dict[str, str]:
            good = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
            _must(part, f.name, value, good, "a table of strings")
        else:
            right = wanted(f.type, domain).replace("tuple", "list")
            _must(part, f.name, value, fits(value, f.type, domain or "may be empty"), right)


def _must(part, name: str, value, good, right: str) -> None:
    if not good:
        where = next(f.name for f in fields(Setup) if f.type is type(part))
        raise ValueError(f"{where}.{name} = {value!r} is wrong: expected {right}")


@dataclass(frozen=True)
class ModelSource:
    """The text-to-image model: `mini`, a hub name with its commit, or a folder (a path that starts with `.`, `/` or `~`)."""

    source: str = "mini"
    revision: str = ""  # of a hub name: 40 hexadecimal digits, because a branch can move
    variant: str = ""  # fp16, or non_ema: the U-Net's weights without moving average; empty: with it, as published
    sha256: dict[str, str] = field(default_factory=dict)  # of files, by path in the folder

    def __post_init__(self):
        check_fields(self, variant=("", "fp16", "non_ema"))
        for name, digest in self.sha256.items():
            _must(self, f"sha256[{name!r}]", digest, re.fullmatch("[0-9a-f]{64}", digest), "64 hexadecimal digits")
        if self.on_hub:
            _must(self, "revision", self.revision, re.fullmatch("[0-9a-f]{40}", self.revision),
                  f"the commit of {self.source}, 40 hexadecimal digits (a branch can move)")  # fmt: skip

    @property
    def on_hub(self) -> bool:
        """Whether the source is a hub name."""
        return self.source != "mini" and not is_path(self.source)


@dataclass(frozen=True)
class ClipSource:
    """The CLIP model: `mini`, open_clip's name of an architecture and of its weights, or a folder with open_clip's files."""

    source: str = "mini"
    pretrained: str = ""

    def __post_init__(self):
        check_fields(self)
        if self.source != "mini" and not is_path(self.source):
            right = f"the name of weights for {self.source}, such as openai"
            _must(self, "pretrained", self.pretrained, self.pretrained, right)


@dataclass(frozen=True)
class RaterSource:
    """Who judges: the simulated `panel`, or people: their `labels` in a file, and an archive of the `images` they saw."""

    kind: str = "panel"
    labels: str = ""  # good, bad or skip
    choices: str = ""  # of one image among several
    images: str = ""

    def __post_init__(self):
        check_fields(self, kind=("panel", "labels"))
        if self.kind == "labels":
            given = self.labels or self.choices
            _must(self, "labels", self.labels, given, "a file (Parquet), unless there are choices")
            _must(self, "images", self.images, self.images, "a folder of image shards")


@dataclass(frozen=True)
class PairSource:
    """Images with captions for the pre-training loss: rendered `scenes`, or `paths` (with * and ?) of `tar` or `parquet`."""

    kind: str = "scenes"
    paths: tuple[str, ...] = ()
    image_column: str = "image"  # Parquet only: bytes, or a struct with `bytes`
    caption_column: str = "caption"
    corrupt_limit: float = 0.01  # share of pairs that may be unusable; more end the stage

    def __post_init__(self):
        check_fields(self, kind=("scenes", "tar", "parquet"), paths="may be empty", corrupt_limit="in [0, 1)")
        if self.kind != "scenes":
            _must(self, "paths", self.paths, self.paths, "one or more paths of shards")


@dataclass(frozen=True)
class FidelitySource:
    """Real images for the Fréchet distance: rendered `scenes`, or `coco`: a folder, its captions and a network's weights."""

    kind: str = "scenes"
    images: str = ""
    captions: str = ""
    count: int = 0  # images, each with one caption
    resolution: int = 256  # pixels to which both sides are brought
    shape: str = "stretch"  # how images that are not square become so
    jpeg_quality: int = 0  # of the files that are compared; 0: no JPEG
    implementation: str = "pytorch-fid"  # whose resize to 299 px
    weights: str = ""  # Inception-v3, a TorchScript file or the state that pytorch-fid and torch-fidelity load
    sha256: str = ""  # of `weights`

    def __post_init__(self):
        check_fields(
            self, kind=("scenes", "coco"), count="at least 0", resolution="at least 8", shape=("stretch", "crop"),
            jpeg_quality="in [0, 100]", implementation=("pytorch-fid", "torch-fidelity", "torchmetrics", "clean-fid"),
        )  # fmt: skip
        for name in ("images", "captions", "weights") if self.kind == "coco" else ():
            _must(self, name, getattr(self, name), getattr(self, name), "a path")
        _must(self, "sha256", self.sha256, re.fullmatch("([0-9a-f]{64})?", self.sha256), "64 hexadecimal digits, or nothing")


@dataclass(frozen=True)
class Sampling:
    """How images are drawn: size, guidance and scheduler (`own`: the one in the model's folder)."""

    resolution: int = 64
    guidance_scale: float = 3.0
    sampler: str = "own"
    steps: int = 8
    guided: int = 5  # the first steps, which run the U-Net twice; later ones reuse the last gap

    def __post_init__(self):
        check_fields(self, resolution="at least 8", guidance_scale="in [0, inf)", steps="at least 1",
                     sampler=("own", "pndm", "ddim", "dpm-solver++"), guided=f"in [1, {self.steps}]")  # fmt: skip
        _must(self, "resolution", self.resolution, self.resolution % 8 == 0, "a multiple of 8")


@dataclass(frozen=True)
class Training:
    """How models are trained; what is off by default trades time or exactness for memory."""

    precision: str = "fp32"  # of frozen parts and of the trained network's forward pass; its weights stay float32
    timesteps: str = "scene"  # scene: three fifths of them in the noisiest fifth; even
    learning_rate: float | None = None  # None, here and below: the study's own
    lora_rank: int | None = None
    micro_batch: int = 0  # pairs per forward pass and process; 0: the whole batch
    gradient_checkpointing: bool = False
    eight_bit_adam: bool = False
    min_snr: float = 0.0  # gamma of Hang et al. 2023; 0: off
    ema_offload: bool = False  # the moving average in the CPU's memory

    def __post_init__(self):
        check_fields(self, precision=("fp32", "bf16", "fp16"), timesteps=("scene", "even"), learning_rate="in (0, 1]",
                     lora_rank="at least 1", micro_batch="at least 0", min_snr="at least 0")  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What the study is made of. `Setup()` is `mini`."""

    name: str = "mini"
    about: str = ""
    model: ModelSource = ModelSource()
    clip: ClipSource = ClipSource()
    raters: RaterSource = RaterSource()
    pairs: PairSource = PairSource()
    fidelity: FidelitySource = FidelitySource()
    sampling: Sampling = Sampling()
    training: Training = Training()
    size: dict = field(default_factory=dict)  # values of `lib.ground.sizes.Size` in place of those of the size that runs

    def sized(self, name: str) -> Size:
        """The size of this name with the setup's own values."""
        return replace(size_named(name), **{k: _read(None, v, k) for k, v in self.size.items()})

    @property
    def identity(self) -> str:
        """Its name with the start of its digest: a changed file is another setup."""
        return f"{self.name}-{digest_of(asdict(self))[:8]}"


PATHS = {"model": ("source",), "clip": ("source",), "raters": ("labels", "choices", "images"), "pairs": ("paths",),
         "fidelity": ("images", "captions", "weights")}  # fmt: skip


def setup_named(name: str | Path = "mini") -> Setup:
    """The setup in data/setups/<name>.toml, or in the TOML file whose path is given; its own paths come out absolute.

    Raises ValueError or FileNotFoundError in one line that names the file, the key, what was wrong and what would be right.
    """
    path = Path(name).expanduser() if str(name).endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise FileNotFoundError(f"there is no setup {path}: expected one of {known}, or the path of a .toml file")
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    try:
        setup = replace(_made(Setup, table, ""), name=path.stem)
        setup.sized("smoke")
    except (TypeError, ValueError) as error:  # TypeError: a size has no such value
        raise ValueError(f"{path}: {error}") from None
    base = Path(os.environ.get("STUDY_DATA") or path.parent).expanduser().absolute()
    for part, key in ((part, key) for part, keys in PATHS.items() for key in keys):
        value = getattr(getattr(setup, part), key)
        paths = [v and os.path.normpath(base / os.path.expanduser(v)) for v in ([value], value)[isinstance(value, tuple)]]
        found = tuple(paths) if isinstance(value, tuple) else paths[0]
        if key != "source" or is_path(value):
            setup = replace(setup, **{part: replace(getattr(setup, part), **{key: found})})
    return setup


def is_path(source: str) -> bool:
    """Whether the source of a model is a folder, not a name."""
    return source.startswith((".", "/", "~"))


def _made(kind: type, table: dict, where: str):
    """The dataclass that a table of TOML describes; `where` is the table's name with a full stop."""
    known = {f.name: f.type for f in fields(kind) if f.name != "name"}
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"{where}{key} is unknown: expected one of {', '.join(known)}")
        if is_dataclass(known[key]) and not isinstance(value, dict):
            raise ValueError(f"{where}{key} = {value!r} is not a table: expected [{key}]")
    return kind(**{key: _read(known[key], value, f"{where}{key}") for key, value in table.items()})


def _read(kind, value, where: str):
    return _made(kind, value, f"{where}.") if is_dataclass(kind) else tuple(value) if isinstance(value, list) else value
