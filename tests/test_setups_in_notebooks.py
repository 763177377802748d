"""Every notebook runs on the setup `tiny` from the command line, on the CPU and without a network; what that setup serves is
real, and what it cannot serve says so.

The notebooks run once for all tests of this file, in three chains on the cores there are: two of them wait for no other.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny

from lib.ground.paths import ROOT
from lib.ground.setups import setup_named

CHAINS = (("05", "06", "10", "07", "11"), ("00", "01", "02", "03", "04", "08", "90"), ("09", "99"))
NAMES = {p.name[:2]: p.stem for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")}


class Ran:
    """What the notebooks left: their cells' outputs, results and the cache."""

    def __init__(self, folder: Path, setup: Path):
        self.cache = folder / "cache"
        self.reports = folder / "reports" / "setups" / setup_named(setup).identity / "smoke"

    def outputs(self, number: str) -> list[str]:
        """The text that each code cell of a notebook printed or displayed."""
        book = json.loads((self.reports / "notebooks" / f"{NAMES[number]}.ipynb").read_text("utf-8"))
        shown = ([o.get("text") or o.get("data", {}).get("text/plain", "") for o in c["outputs"]]
                 for c in book["cells"] if c["cell_type"] == "code")  # fmt: skip
        return ["".join("".join(part) for part in parts) for parts in shown]

    def result(self, name: str):
        """The rows of a result."""
        return json.loads((self.reports / "results" / f"{name}.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
    folder = tmp_path_factory.mktemp("notebooks")
    setup = tiny.write_tiny(folder / "tiny")
    env = os.environ | {"STUDY_CACHE": str(folder / "cache"), "STUDY_REPORTS": str(folder / "reports"),
                        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9",
                        "https_proxy": "http://127.0.0.1:9"}  # fmt: skip

    def run(chain):
        names = [f"notebooks/{NAMES[number]}.ipynb" for number in chain]
        command = [sys.executable, "-m", "lib.desk.run", *names, "--size", "smoke", "--setup", str(setup)]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)

    before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(run, CHAINS[:2]))
    done.append(run(CHAINS[2]))
    for result in done:
        assert result.returncode == 0, result.stderr[-2000:] + result.stdout[-500:]
    after = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    assert after == before
    return Ran(folder, setup)


def test_every_notebook_ran(ran):
    assert sorted(number for chain in CHAINS for number in chain) == sorted(NAMES)
    assert all(ran.outputs(number) for number in NAMES)
    assert {p.name for p in (ran.reports.parents[2]).iterdir()} == {"setups"}  # nothing beside


def test_images_are_drawn_and_judged_ones_are_those_of_the_archive(ran):
    from lib.scale import shards

    drawn = [shards.opened(p) for p in (ran.cache / "scale-sample").iterdir()]
    streams = {s.stream for s in drawn}
    assert streams >= {"evaluation", "fidelity", "unlabelled"} and "labelled" not in streams
    parts = [shards.opened(p) for p in (ran.cache / "scale-part").iterdir()]
    judged = set(tiny.judged().digests)
    assert parts and all(set(part.digests) <= judged for part in parts)


def test_rewards_are_trained_on_the_labels_and_tested(ran):
    rows = ran.result("reward_accuracy")["rows"]
    assert {r["method"] for r in rows} >= {"CLIP score", "reward"} and {r["where"] for r in rows} == {"seen", "unseen"}
    assert all(r["pairs"] > 10 for r in rows) and "CLIP score, matched longer" not in {r["method"] for r in rows}
    assert len({r["value"] for r in rows}) > 2  # not one number for all


def test_the_tuned_weights_are_not_the_bases(ran):
    import torch
    from safetensors.torch import load_file

    base = load_file(ran.cache.parent / "tiny" / "stable-diffusion" / "unet" / "diffusion_pytorch_model.safetensors")
    tuned = [load_file(p / "unet-6.safetensors") for p in (ran.cache / "scale-finetune").iterdir()
             if (p / "unet-6.safetensors").exists()]  # fmt: skip
    assert len(tuned) >= 5 and all(not torch.equal(t["conv_in.weight"], base["conv_in.weight"]) for t in tuned)
    assert len({t["conv_in.weight"].numpy().tobytes() for t in tuned}) == len(tuned)
    assert len(list((ran.cache / "scale-adapt").iterdir())) >= 5


def test_fid_stands_beside_its_card(ran):
    rows = ran.result("fid")["rows"]
    assert len(rows) == 6 and all(r["fid"] > 0 for r in rows) and len({r["fid"] for r in rows}) > 1
    assert {(r["implementation"], r["count"], r["resolution"]) for r in rows} == {("pytorch-fid", 10, 64)}
    assert len({r["captions"] for r in rows}) == 1 and len(rows[0]["weights"]) == 64
    assert {r["model"] for r in ran.result("adaptation_fid")["rows"]} >= {"base", "adapted"}


def test_the_preference_score_learns_from_peoples_choices(ran):
    rows = {(r["score"], r["groups"]): r for r in ran.result("choice_accuracy")["rows"]}
    assert {score for score, _ in rows} == {"chance", "CLIP score", "HPS"} and rows["chance", "all"]["value"] == 0.25


def test_what_is_not_served_says_so_in_one_line(ran):
    line = "not served by the setup tiny: "
    for number, least in {"00": 2, "01": 10, "02": 8, "05": 8, "06": 8, "07": 8, "08": 4, "09": 6, "10": 8, "11": 3}.items():
        said = [text for text in ran.outputs(number) if line in text]
        assert len(said) >= least, number
        assert all(text.count(line) == 1 for text in said)
    for number in ("03", "04", "90"):  # rewards learn from labels and embeddings alone
        assert not any(line in text for text in ran.outputs(number)), number
    assert ran.result("guidance_sweep")["rows"]["not served"]


def test_results_name_their_setup(ran):
    identity = ran.reports.parent.name
    assert identity.startswith("tiny-")
    assert {json.loads(p.read_text("utf-8"))["setup"] for p in (ran.reports / "results").glob("*.json")} == {identity}


def test_a_claim_says_what_the_setup_does_not_serve(ran):
    verdicts = json.loads((ran.reports / "claims.json").read_text("utf-8"))
    reasons = [r["reason"] for r in ran.result("claim_parts")["rows"]]
    assert any(r.startswith("not served by this setup: ") for r in reasons)
    assert {r["verdict"] for r in verdicts} >= {"cannot be tested here"}
