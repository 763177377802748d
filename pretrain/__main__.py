"""`python -m pretrain [--minutes N]`: make every shipped model again, in order; a killed run goes on where it was.

Without a budget each model is trained for its full number of updates (a GPU's work); with one, the minutes are shared out
much as they were for the shipped models on two CPU cores.
"""

import argparse
import subprocess
import sys

from lib.images.models import write_sums

# Share of the time budget by step; each step is a process of its own, so that memory is given back.
STEPS = (
    ("pretrain.vae", 0.11, 0.10, 0.02),
    ("pretrain.clip", 0.06),
    ("pretrain.unet exact", 0.40),
    ("pretrain.second",),
    ("pretrain.unet web --more", 0.16),
    ("pretrain.mini_clip", 0.04, 0.01),
    ("pretrain.judges a", 0.03),
    ("pretrain.judges b", 0.05),
    ("pretrain.judges features", 0.01),
    ("pretrain.judges votes", 0.01),
)


def main(minutes: float | None) -> None:
    """Run the steps one after the other; stops at the first that fails."""
    for command, *shares in STEPS:
        budget = [f"{minutes * share:.1f}" for share in shares] if minutes else []
        print(f"pretrain: {command} {' '.join(budget)}", flush=True)
        subprocess.run([sys.executable, "-m", *command.split(), *budget], check=True)
    write_sums()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pretrain", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, help="time budget for all models together")
    main(parser.parse_args().minutes)
