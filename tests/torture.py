"""Whether a killed study ends as an undisturbed one, and damage is noticed: `make torture` (half an hour on two cores).

Size smoke runs undisturbed and, in fresh folders, killed at moments drawn from the whole of that run; then stages that are
long enough for checkpoints, some of which are damaged before the next run. Then single bits are flipped in cached stages and
in shipped files. All in a temporary folder, on a copy of the checkout; `--seed` draws the same moments and bits again.
"""

import argparse
import contextlib
import io
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import psutil

ROOT, tell = Path(__file__).resolve().parents[1], partial(print, flush=True)
# A training that keeps weights on its way, and at once images in three parts.
LONG = """
print("running long_stages", flush=True)
from dataclasses import replace
from lib.study import ahead
from lib.study.lee import LeeStudy
from lib.world import prompts
study, texts = LeeStudy("smoke"), prompts.grid(counts=(8, 6, 6, 12))
spec = replace(study.finetune_spec(learning_rate=5e-4, beta=1.0), updates=120, keep=(20, 60))
wanted = [("finetuned", "constant reward", spec),
          ("sample", [texts[i % len(texts)] for i in range(1100)], list(range(1100)), "evaluation")]
ahead.make(study, wanted)
for name, *arguments in wanted:
    getattr(study, name)(*arguments)
"""


def main(folder: Path, kills: int, bits: int, seed: int) -> int:
    """Do all of it, tell of each step, and return the exit code."""
    checkout, rng, started = folder / "checkout", random.Random(seed), time.monotonic()
    for name in ("data", "lib", "notebooks", "pretrain"):
        shutil.copytree(ROOT / name, checkout / name)
    sys.path.insert(0, str(checkout))
    os.environ |= {"STUDY_CACHE": str(folder / "calm" / "cache"), "OMP_NUM_THREADS": "1"}
    tell(f"seed {seed}: {kills} kills, {bits} bits")
    smoke = ["-m", "lib.desk.run", *sorted(map(str, checkout.glob("notebooks/[0-9]*.ipynb"))), "--size", "smoke"]
    faults = [*killed(folder, smoke, kills, rng), *killed(folder, ["-c", LONG], (kills + 3) // 4, rng, damage=True),
              *flipped(folder / "calm" / "cache", checkout / "data" / "models", bits, rng)]  # fmt: skip
    said = f"{len(faults)} faults, such as: {faults[0]}" if faults else "every end was the same, every damage was noticed"
    tell(f"torture with seed {seed}, {(time.monotonic() - started) / 60:.0f} min: {said}")
    return 1 if faults else 0


def killed(
    folder: Path, command: list[str], kills: int, rng: random.Random, damage: bool = False
) -> Iterator[str]:
    """Run a command undisturbed and, elsewhere, killed so many times; yields what is not as it should be."""
    code, heard, began = run(folder, "calm", command)
    tell(f"undisturbed: exit code {code} after {began['end']:.0f} s")
    if code:
        yield f"the undisturbed run failed: {heard[-1]}"
        return
    heard, struck, damaged = [], 0, 0
    for moment in [*sorted(rng.uniform(0, began["end"]) for _ in range(kills)), began["end"]]:
        part = max((name for name in began if began[name] <= moment), key=began.get)
        code, said, _ = run(folder, "killed", command, part, moment - began[part])
        heard, struck = heard + said, struck + (code == -9)
        tell(f"  {'killed' if code == -9 else f'exit code {code}'}: {part}, after {moment - began[part]:.1f} s")
        if code not in ((0,) if part == "end" else (0, -9)):
            yield f"a run after a kill failed: {said[-1]}"
        noticed = sum("cache: checkpoint" in line and "is damaged" in line for line in heard)
        left = sorted((folder / "killed" / "cache" / "work").glob("*/_partial/[!.u]*"))  # what the next run is sure to read
        if damage and left and noticed == damaged and struck % 2:
            path, damaged = rng.choice(left), damaged + 1
            tell(f"    damaged: {flip(path, rng)} of checkpoint {path.parent.parent.name}/{path.name}")
    if noticed != damaged:
        yield f"of {damaged} damaged checkpoints {noticed} were noticed"
    calm, after = ending(folder / "calm"), ending(folder / "killed")
    tell(f"killed {struck} times, {damaged} checkpoints damaged; compared {len(calm)} files and folders")
    yield from (f"{name} differs" for name in sorted(calm.keys() | after.keys()) if calm.get(name) != after.get(name))


def run(folder: Path, name: str, command: list[str], part: str = "", after: float = 0) -> tuple[int, list[str], dict]:
    """Exit code, lines, and when (s) each part began; the run is killed so many seconds `after` its `part` began."""
    own = {"STUDY_CACHE": str(folder / name / "cache"), "STUDY_REPORTS": str(folder / name / "reports")}
    process = subprocess.Popen([sys.executable, *command], cwd=folder / "checkout", env=os.environ | own, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    started, lines, began = time.monotonic(), [], {}
    timer = threading.Timer(after, kill, [psutil.Process(process.pid)])
    for line in chain(["running start"], process.stdout):
        lines.append(line.strip())
        if found := re.match(r"(?:running|fresh) (\w+)", line):
            began[found[1]] = time.monotonic() - started
            if found[1] == part:
                timer.start()
    code = process.wait()
    timer.cancel()
    return code, lines, began | {"end": time.monotonic() - started}


def kill(top: psutil.Process) -> None:
    """SIGKILL for a process and all that it started, such as kernels; all are stopped first, so that none starts another."""
    for act in (psutil.Process.suspend, psutil.Process.kill):
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [*top.children(recursive=True), top]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    act(one)


def ending(folder: Path) -> dict[str, str]:
    """Digests of all files, and the names of all folders: nothing may be left over. Where minutes stand, the name alone
    counts (timings, executed notebooks, their records), or the stage's files (manifests); `settings` are Jupyter's own."""
    from lib.ground import cache

    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.name == "manifest.json":
            found[name] = getattr(cache.read_entry(path.parts[-3], path.parent), "digest", "damaged")
        elif not name.startswith("cache/settings/"):
            timed = path.is_dir() or "/notebooks/" in name or path.name == "timings.json"
            found[name] = "" if timed else cache.file_digest(path)
    return found


def flipped(stored: Path, shipped: Path, bits: int, rng: random.Random) -> Iterator[str]:
    """Flip one bit at a time, in a shipped file and in a stage of each kind by turns; yields those that are not noticed."""
    from lib.images import models

    loads = {"mini-sd": [models.load_generator, models.load_second], "mini-second": [models.load_second],
             "mini-clip": [models.load_clip, models.matched_longer], "judge-a": [partial(models.load_judge, "a")],
             "judge-b": [partial(models.load_judge, "b")], "features": [models.load_features],
             "features-votes": [models.load_vote_features]}  # fmt: skip
    kinds = sorted({path.parents[1] for path in stored.glob("*/*/manifest.json")})
    files = sorted((rng.random(), path) for path in shipped.glob("*/**/*") if path.is_file())
    files = [shipped / "SHA256SUMS", *(path for _, path in files)]
    for number in range(bits):
        if number % 2:
            entry = rng.choice(sorted(kinds[number // 2 % len(kinds)].iterdir()))
            copy = shutil.copytree(entry, stored.with_name("copies") / str(number) / entry.parent.name / entry.name)
            path = rng.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
            uses, said = [partial(look_up, entry.parent.name, copy)], f"{entry.parent.name}/{entry.name[:16]} is damaged"
        else:
            path = files[number // 2 % len(files)]
            names = [name for name in loads if path.relative_to(shipped).parts[0] in (name, "SHA256SUMS")]
            uses, said = [use for n in names for use in (partial(models.verify, n), *loads[n])], f"{path} is not the shipped"
        sound, where = path.read_bytes(), f"{flip(path, rng)} of {path.relative_to(stored.parents[1])}"
        fault = "" if all(refuses(use, said) for use in uses) else "NOT NOTICED"
        if path.exists():
            path.write_bytes(sound)
        tell(f"  {where}: {fault or 'noticed'}")
        if fault:
            yield f"{where}: {fault}"


def refuses(use: Callable[[], object], said: str) -> bool:
    """Whether a use of something damaged fails and says so."""
    try:
        use()
    except (ValueError, OSError) as error:
        return said in str(error)
    return False


def look_up(kind: str, entry: Path) -> None:
    """Raises what is said of a stage that is thrown away."""
    from lib.ground.cache import read_entry

    with contextlib.redirect_stderr(io.StringIO()) as said:
        if read_entry(kind, entry) is None and not entry.exists():
            raise ValueError(said.getvalue())


def flip(path: Path, rng: random.Random) -> str:
    """Flip a random bit of a file; returns which."""
    content = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place:,}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of size smoke; a quarter as many of the long stages")
    parser.add_argument("--bits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        sys.exit(main(Path(temporary).resolve(), options.kills, options.bits, options.seed))
