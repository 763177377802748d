"""Content-addressed stages: a result is looked up by what produced it, never by its name.

The key of a stage covers its spec, the digests of its inputs, the source of the module that makes it (and of every study
module which that one imports; comments, docstrings and layout do not count), the source of the functions passed to it, and
what computes it: library versions, precision, device and the study's seed. A finished stage is a folder of files with a
manifest of their SHA-256 sums and one of its own, all verified on every use. Each checkpoint carries its own sum.

Sources are read once, when the process starts: restart the kernel after editing `lib` (`lib.ground.memory` enforces this).
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from filelock import FileLock

from lib.ground import seeds
from lib.ground.memory import refuse_changes
from lib.ground.paths import CACHE
from lib.ground.source import function_fingerprint, home_of, own_closure, own_fingerprint, versions

PARTIAL = "_partial"  # a stage's own checkpoints: they survive a kill and are deleted at the end
# Functions of a folder that open what stands in for a file of arrays which is not there, by the file that tells.
STAND_INS: dict[str, Callable[[Path], Mapping]] = {}


@dataclass(frozen=True)
class Artifact:
    """A finished stage: a folder of files. `digest` covers the files alone; `seconds` is how long they took to make."""

    stage: str
    key: str
    path: Path
    digest: str
    seconds: float


class NotMade(LookupError):
    """A stage is not in the cache and must not be made now: see `only_found`."""


_make = True  # whether to make a stage that is not in the cache


@contextmanager
def only_found() -> Iterator[None]:
    """Context in which a stage missing from the cache raises `NotMade`, to find out what is still to be made."""
    global _make
    _make, before = False, _make
    try:
        yield
    finally:
        _make = before


def if_found(ask: Callable[[], object]) -> object | None:
    """What `ask` returns if every stage that it needs is in the cache, else None."""
    try:
        with only_found():
            return ask()
    except NotMade:
        return None


def stage(
    name: str, spec, inputs: Mapping[str, Artifact | str], make: Callable[[Path], None], code: Sequence[Callable | str] = ()
) -> Artifact:
    """The folder that `make(folder)` fills; `make` runs only when no intact entry has this key.

    `spec` is a dataclass or a mapping of plain values; an input is an artifact or a digest; `code` lists functions from
    other modules that `make` calls, and names of modules that it cannot import. `make` keeps its checkpoints in
    `folder / "_partial"`, where it finds them again after being killed; anything else that a killed run left is deleted
    first. A second process that asks for the same entry waits for the first. Raises `ChangedCode` when the code in memory
    is not the code that the key describes: before making anything or, if it changed meanwhile, before keeping the result.
    """
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise ValueError(f"invalid stage name {name!r}: use only lower-case letters, digits, - and _")
    modules, functions = [c for c in code if isinstance(c, str)], [c for c in code if callable(c)]
    recipe = {
        "stage": name,
        "spec": asdict(spec) if is_dataclass(spec) else dict(spec),
        "inputs": {k: v.digest if isinstance(v, Artifact) else v for k, v in inputs.items()},
        "source": own_fingerprint(home_of(make)),
        "code": [*map(own_fingerprint, modules), *map(function_fingerprint, functions)],
        "computed by": computed_by(),
    }
    written = {m for module in (home_of(make), *modules) for m in own_closure(module)} | set(map(home_of, functions))
    refuse_changes(written)
    key = digest_of(recipe)
    entry, work = CACHE / name / key, CACHE / "work" / f"{name}-{key[:16]}"
    if not (_make or entry.exists()):  # said at once, not when whoever may be making it has finished
        raise NotMade(f"stage {name} is not in the cache")
    with locked(work.with_suffix(".lock")):
        if (found := read_entry(name, entry)) is not None:
            return found
        if not _make:
            raise NotMade(f"stage {name} is not in the cache")
        sweep(work)
        started = time.perf_counter()
        make(work)
        seconds = time.perf_counter() - started
        refuse_changes(written)
        shutil.rmtree(work / PARTIAL, ignore_errors=True)
        files = file_digests(work)
        if not files:
            raise ValueError(f"stage {name}: `make` wrote no file, but must write at least one")
        atomic_write(work / "manifest.json", sealed({**recipe, "files": files, "seconds": round(seconds, 3)}))
        entry.parent.mkdir(parents=True, exist_ok=True)
        os.rename(work, entry)
    return Artifact(name, key, entry, digest_of(files), round(seconds, 3))


def computed_by() -> dict:
    """What results are computed by here: versions of Python and the libraries, device, precision, and the study's seed."""
    from lib.ground import precision  # PyTorch takes seconds to import, and not every reader of the cache needs it

    fast = "bfloat16" if precision.FAST_BFLOAT16 else "float32"
    return versions() | {"device": precision.DEVICE.type, "precision": fast, "study seed": seeds.STUDY}


def read_entry(name: str, entry: Path) -> Artifact | None:
    """The finished entry, or None; one whose manifest was altered or does not match its files is removed with a warning."""
    if not entry.exists():
        return None
    try:
        text = (entry / "manifest.json").read_bytes().decode()
        manifest = json.loads(text)
        files, seconds = manifest["files"], manifest["seconds"]
        if text == sealed(manifest) and files == file_digests(entry):
            return Artifact(name, entry.name, entry, digest_of(files), seconds)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    print(f"cache: {name}/{entry.name[:16]} is damaged, rebuilding it", file=sys.stderr)
    shutil.rmtree(entry)
    return None


def sealed(manifest: Mapping) -> str:
    """The text of a manifest with a sum over the rest of it, so that no change to it goes unnoticed."""
    plain = json.loads(as_json({k: v for k, v in manifest.items() if k != "sum"}))  # as read back: keys are strings
    return as_json(plain | {"sum": digest_of(plain)})


def sweep(work: Path) -> None:
    """Create the work folder and empty it, except for the checkpoints of a killed run."""
    work.mkdir(parents=True, exist_ok=True)
    for left in work.iterdir():
        if left.name != PARTIAL:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file under the folder, by relative path; the manifest is not counted."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / "manifest.json")
    return {p.relative_to(folder).as_posix(): file_digest(p) for p in paths}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(obj) -> str:
    """SHA-256 of plain values as canonical JSON; refuses what JSON cannot represent (NaN, arrays, functions)."""
    try:
        text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a cache key may contain plain finite values only: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()


# --- files ------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the operating system releases it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a file completely or not at all: to a temporary file beside it, then by a rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def as_json(obj) -> str:
    """Readable JSON with sorted keys; refuses NaN and infinities."""
    return json.dumps(obj, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def save_json(path: Path, obj) -> None:
    """Write `as_json`, completely or not at all."""
    atomic_write(path, as_json(obj))


def keep(path: Path, content: bytes) -> None:
    """Write a checkpoint, completely or not at all, preceded by its SHA-256 sum."""
    atomic_write(path, hashlib.sha256(content).digest() + content)


def kept(path: Path) -> bytes | None:
    """What `keep` wrote, or None if there is no file; a damaged file is deleted with a warning."""
    if not path.exists():
        return None
    stored = path.read_bytes()
    if hashlib.sha256(stored[32:]).digest() == stored[:32]:
        return stored[32:]
    print(f"cache: checkpoint {path} is damaged, rebuilding it", file=sys.stderr)
    path.unlink()
    return None


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as safetensors."""
    atomic_write(path, safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in arrays.items()}))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote or, if that is not there, what stands in for it (image shards do, which stay on disk)."""
    for told_by, opened in STAND_INS.items() if not path.exists() else ():
        if (path.parent / told_by).exists():
            return opened(path.parent)
    return safetensors.numpy.load_file(path)
