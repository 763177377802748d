"""Make your own run of one size ours: `python -m lib.desk.publish --size SIZE`, for whoever maintains the study.

Its results, figures and lists replace reports/SIZE, which is committed, and README.md is written anew from the largest size
that was published. A reader needs none of this. Exit code 1: the run is not whole.
"""

import argparse
import shutil
import sys
from pathlib import Path

from lib.desk.fresh import is_fresh
from lib.desk.readme import fill_readme, readme_values
from lib.desk.report import best_published
from lib.ground.paths import ROOT, published, reports
from lib.ground.sizes import SIZES

COMMITTED = ("results", "figures", "claims.json", "quality.json", "timings.json")


def publish(size: str, notebooks: list[Path]) -> Path:
    """Replace what is committed of a size by the run of that size; raises ValueError unless each notebook's run stands."""
    if stale := [n.stem for n in notebooks if not is_fresh(n, {}, size, elsewhere=True)]:
        raise ValueError(f"not run as they are: {', '.join(stale)}: run `make reproduce SIZE={size}` first")
    if lacking := [name for name in COMMITTED if not (reports(size) / name).exists()]:
        raise ValueError(f"{reports(size)} has no {', '.join(lacking)}: run `make reproduce SIZE={size}` first")
    new, ours = published(f"{size}.partial"), published(size)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name in COMMITTED:
        path = reports(size) / name
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, new / name)
    shutil.rmtree(ours, ignore_errors=True)
    return new.rename(ours)


def main(argv: list[str] | None = None) -> int:
    """Publish one size and renew the README."""
    parser = argparse.ArgumentParser(prog="python -m lib.desk.publish", description=main.__doc__)
    parser.add_argument("--size", default="laptop", choices=SIZES)
    try:
        print(publish(parser.parse_args(argv).size, sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))))
        if best := best_published():
            fill_readme(ROOT / "README.md", readme_values(published(best)))
    except (OSError, ValueError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
