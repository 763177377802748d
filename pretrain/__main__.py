"""`python -m pretrain [--minutes N]`: make every shipped model again, in order; a killed run resumes where it was.

Without a budget each model is trained for its full number of updates (work for a GPU); with one, the minutes are divided
roughly as for the shipped models, on two CPU cores.
"""

import argparse
import subprocess
import sys

from lib.images.models import write_sums

# Each step's shares of the time budget; each step is a separate process, so that its memory is freed.
STEPS = (
    ("pretrain.vae", 0.11, 0.10, 0.02),
    ("pretrain.clip", 0.06),
    ("pretrain.unet exact", 0.31),
    ("pretrain.second",),
    ("pretrain.unet web --more", 0.16),
    ("pretrain.mini_clip", 0.04, 0.01),
    ("pretrain.judges a", 0.03),
    ("pretrain.judges a --more --updates 600", 0.04),
    ("pretrain.judges b", 0.05),
    ("pretrain.judges b --more --updates 600", 0.05),
    ("pretrain.judges features", 0.01),
    ("pretrain.judges votes", 0.01),
)


def main(minutes: float | None) -> None:
    """Run the steps one after another; stops at the first that fails."""
    for command, *shares in STEPS:
        budget = [f"{minutes * share:.1f}" for share in shares] if minutes else []
        print(f"pretrain: {command} {' '.join(budget)}", flush=True)
        subprocess.run([sys.executable, "-m", *command.split(), *budget], check=True)
    write_sums()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pretrain", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, help="time budget for all models together")
    main(parser.parse_args().minutes)
