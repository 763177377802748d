"""Stages that run in several processes: children of the notebook's kernel, launched by `accelerate`, never inside it.

(A launcher inside a kernel fails once anything has touched the GPU.) The number of processes and hosts changes no result and
is no part of a stage's key. STUDY_PROCESSES is the number of processes on this host: one per GPU unless set, or one. With
STUDY_STAY, which notebooks set, they stay for the next stage (`lib.scale.crew`).

Several hosts that share STUDY_CACHE: set on each STUDY_HOSTS (how many), STUDY_HOST (which this is, from 0) and
STUDY_ADDRESS (host 0's, such as node0:29500). Run the study on host 0; `python -m lib.scale.launch` on the others joins in.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lib.ground.cache import PARTIAL, as_json, save_json
from lib.ground.domains import check
from lib.ground.paths import CACHE, ROOT

TOLD = "told: "  # starts the lines of a worker's output that are shown
SECONDARY = "secondary"  # how a process fails because another one has gone
FROM_OTHER_LAUNCHERS = re.compile("ACCELERATE_|TORCHELASTIC_|((LOCAL_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT))$")


class LaunchFailed(RuntimeError):
    """A process of a stage failed; the message names it."""


@dataclass(frozen=True)
class Machines:
    """Where a stage runs: processes on each host, hosts, this host's number, and host 0's address and port."""

    processes: int = 1
    hosts: int = 1
    host: int = 0
    address: str = ""

    def __post_init__(self):
        check(self, "at least 1", host=f"in [0, {self.hosts - 1}]", address="")
        if self.hosts > 1 and not re.fullmatch(r"[^:\s]+:\d+", self.address):
            raise ValueError(f"STUDY_ADDRESS={self.address!r}: expected host 0's name and a free port: node0:29500")


def machines(env: Mapping[str, str] = os.environ) -> Machines:
    """What the environment says; raises ValueError that names the variable."""

    def number(name: str, default: int) -> int:
        text = env.get(name, "").strip()
        if text and not (text.isascii() and text.isdigit()):
            raise ValueError(f"{name}={text!r}: expected a whole number, such as 2")
        return int(text) if text else default

    processes = number("STUDY_PROCESSES", max(1, torch.cuda.device_count()))
    return Machines(processes, number("STUDY_HOSTS", 1), number("STUDY_HOST", 0), env.get("STUDY_ADDRESS", ""))


def launched(
    task: str, config: Mapping, folder: Path, on: Machines | None = None, tell: Callable[[str], None] = print,
    run: Callable[[Path, Machines, Callable], tuple[int, str]] | None = None,
) -> None:  # fmt: skip
    """Run a task of `lib.scale.worker` on plain values, in the folder of a stage; it resumes from `folder / "_partial"`.
    `run` is `lib.scale.crew.in_crew`, or a launch of its own.

    Raises `LaunchFailed` in one line that names the process that failed first. What else was printed is in
    `_partial/launch/log.txt`. If this process ends, those that it launched end, too.
    """
    on, work = on or machines(), folder / PARTIAL / "launch"
    shutil.rmtree(work, ignore_errors=True)
    save_json(work / "config.json", {**config, "task": task, "folder": str(folder)})
    call = CACHE / "launches" / f"{time.time_ns()}.json"
    if on.hosts > 1:
        save_json(call, {"work": str(work)})
    try:
        status, log = (run or _run)(work, on, tell)
    finally:
        call.unlink(missing_ok=True)
    if status:
        raise LaunchFailed(f"{task}: {first_failure(work, log, on)}")
    left = shutil.ignore_patterns("*.partial")  # what a killed process had begun
    shutil.copytree(folder / PARTIAL / "out", folder, ignore=left, copy_function=_linked, dirs_exist_ok=True)


def first_failure(work: Path, log: str, on: Machines) -> str:
    """Which process failed first and how, in words: from what processes said or, if one was killed, from the log."""
    said = {int(p.stem.split("-")[1]): json.loads(p.read_text()) for p in work.glob("error-*.json")}
    killed = {int(r): int(code) for r, code in re.findall(r"rank\s+: (\d+) .*\n\s*exitcode\s+: -(\d+)", log)}
    killed = {r: code for r, code in killed.items() if code != signal.SIGTERM}  # that is how the launcher ends the others
    if alone := re.search(r"died with <Signals\.\w+: (\d+)>", log):
        killed[0] = int(alone[1])
    count = on.processes * on.hosts
    first = sorted((r for r, e in said.items() if e["kind"] != SECONDARY), key=lambda r: said[r]["time"])
    if first:
        return f"process {first[0]} of {count} failed: {said[first[0]]['message']}"
    if killed:
        rank, code = min(killed.items())
        hint = ": often because memory was exhausted" if code == signal.SIGKILL else ""
        return f"process {rank} of {count} was killed ({signal.Signals(code).name}){hint}; run again to resume"
    if said:
        return f"process {min(said)} of {count} lost the others: {said[min(said)]['message']}"
    last = next((x for x in reversed(log.splitlines()) if x.strip()), "it printed nothing")
    return f"the launcher failed: {last.strip()} (see {work / 'log.txt'})"


def join() -> None:
    """On hosts other than 0: take part in what host 0 launches, until interrupted."""
    on, seen = machines(), set()
    if not on.host:
        raise ValueError("STUDY_HOST is 0: run the study itself on host 0, and this on the others")
    print(f"host {on.host} of {on.hosts}: waiting for launches in {CACHE / 'launches'}", flush=True)
    while True:
        for call in sorted(set((CACHE / "launches").glob("*.json")) - seen):
            seen.add(call)
            _run(Path(json.loads(call.read_text())["work"]), on, print)
        time.sleep(1)


def _run(work: Path, on: Machines, tell: Callable[[str], None]) -> tuple[int, str]:
    """Exit status and output of the launcher on this host."""
    log = work / f"log-{on.host}.txt" if on.host else work / "log.txt"
    with open(log, "w", encoding="utf-8") as kept, started(work, on, work / "config.json") as child:
        try:
            for line in child.stdout:
                kept.write(line)
                kept.flush()
                if line.startswith(TOLD):
                    tell(line.removeprefix(TOLD).rstrip())
        except BaseException:
            child.stdin.close()  # workers end when their standard input does
            child.terminate()
            raise
    return child.returncode, log.read_text("utf-8")


def started(work: Path, on: Machines, what: Path) -> subprocess.Popen:
    """The launcher on this host, of workers that are told `what` to do; its settings are kept in `work`."""
    settings = work / f"accelerate-{on.host}.json"
    settings.write_text(as_json(_settings(on)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(settings)]
    command += ["-m", "lib.scale.worker", str(what)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, **pipes, text=True, encoding="utf-8", errors="replace", env=_environment(on))


def _settings(on: Machines) -> dict:
    """All of accelerate's settings: its user-wide defaults are not read. Precision is the setup's affair."""
    address, _, port = on.address.partition(":")
    several = on.processes * on.hosts > 1
    return {
        "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU" if several else "NO", "gpu_ids": "all",
        "num_processes": on.processes * on.hosts, "num_machines": on.hosts, "machine_rank": on.host, "use_cpu": False,
        "main_process_ip": address or None, "main_process_port": int(port or 0), "rdzv_backend": "static",
        "same_network": True, "mixed_precision": "no", "downcast_bf16": "no", "debug": False,
    }  # fmt: skip


def _environment(on: Machines) -> dict[str, str]:
    """This process's, without what another launcher left, with the study's code to be found and cores shared out."""
    env = {k: v for k, v in os.environ.items() if not FROM_OTHER_LAUNCHERS.match(k)}
    threads = {} if torch.cuda.is_available() else {"OMP_NUM_THREADS": f"{max(1, torch.get_num_threads() // on.processes)}"}
    return env | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"} | threads


def _linked(source: str, target: str) -> None:
    """A second name of a file or, where the file system has none, a copy."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    join()
