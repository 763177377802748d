"""Jobs of several processes that talk by gloo, forked from one that has imported everything: `python twofold.py jobs.json`.

A job is a list of `configs` of `lib.scale.worker`, run one after another by each of `processes`, as by those that stay;
`sgd`: by gradient descent instead of AdamW, which hides a wrong scale of gradients; `kill`: [rank, update], that process is
killed after that update; `differ`: process 1 has these values in its configs, which the others have not.
The exit statuses of each job's processes are written to `jobs.json` with the suffix `.out`.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import diffusers
import open_clip
import peft
import torch
import transformers

from lib.scale import tasks, tuning, worker

LOADED = (diffusers.StableDiffusionPipeline, diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, peft.LoraConfig,
          diffusers.PNDMScheduler, transformers.CLIPTextModel, open_clip.CLIP, tasks)  # imported when named  # fmt: skip
PATIENCE = 300  # seconds after which processes that have not ended are killed


def be(job: dict, rank: int, port: int) -> None:
    """Run a job as the process of this rank."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{job['processes']}",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}  # fmt: skip
    torch.set_num_threads(1)
    if job.get("sgd"):
        tuning.optimiser_of = lambda parameters, *_: torch.optim.SGD(parameters, lr=0.0)
    if rank == job.get("kill", [None])[0]:
        update = tuning.Tuning.update

        def deadly(self, *args) -> None:
            update(self, *args)
            if self.done == job["kill"][1]:
                os.kill(os.getpid(), signal.SIGKILL)

        tuning.Tuning.update = deadly
    for config in job["configs"]:
        worker.run(config | (job.get("differ", {}) if rank == 1 else {}))
    os._exit(0)


def statuses(job: dict) -> list[int]:
    """Run a job; returns the exit status of each process, negative if it was killed by a signal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(job["processes"]):
        if not (child := os.fork()):
            try:
                be(job, rank, port)
            except BaseException as error:
                traceback.print_exc()
                os._exit(4 if worker.secondary(error) else 1)
        children.append(child)
    found, ends = {}, time.monotonic() + PATIENCE
    while len(found) < len(children):
        for child in children:
            if child not in found and (ended := os.waitpid(child, os.WNOHANG))[0]:
                found[child] = os.waitstatus_to_exitcode(ended[1])
            elif child not in found and time.monotonic() > ends:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [found[child] for child in children]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.with_suffix(".out").write_text(json.dumps([statuses(job) for job in json.loads(path.read_text())]))
