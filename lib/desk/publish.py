"""Make your own run of one size ours: `python -m lib.desk.publish --size SIZE`, for whoever maintains the study.

Its results, figures and lists replace reports/SIZE, which is committed. Where no larger size was published its executed
notebooks do, too, in reports/notebooks, and README.md and the pages of reports/ are filled from it. A reader needs none of
this. Exit code 1: the run is not whole.
"""

import argparse
import shutil
import sys
from pathlib import Path

import nbformat

from lib.desk import gallery
from lib.desk.fresh import is_fresh
from lib.desk.readme import fill_readme, readme_values
from lib.desk.report import best_published
from lib.ground.paths import ROOT, published, reports
from lib.ground.sizes import SIZES

COMMITTED = ("results", "figures", "claims.json", "quality.json", "timings.json")
PAGES = ("README.md", "reports/README.md", "reports/claims.md")


def publish(size: str, notebooks: list[Path]) -> Path:
    """Replace what is committed of a size by the run of that size; raises ValueError unless each notebook's run stands."""
    if stale := [n.stem for n in notebooks if not is_fresh(n, {}, size, elsewhere=True)]:
        raise ValueError(f"not run in their current form: {', '.join(stale)}: run `make reproduce SIZE={size}` first")
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


def publish_notebooks(size: str, notebooks: list[Path]) -> None:
    """Replace reports/notebooks by the executed notebooks of a size, without what another machine would change; raises
    ValueError where the cells of one are not its source's."""
    new, ours = (ROOT / "reports" / name for name in ("notebooks.partial", "notebooks"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for path in notebooks:
        source = nbformat.read(path, as_version=4)
        book = gallery.anywhere(gallery.tidied(nbformat.read(reports(size) / "notebooks" / path.name, as_version=4)))
        if [c.source for c in book.cells] != [c.source for c in source.cells]:
            raise ValueError(f"{path.name} was edited since its last run: run `make reproduce SIZE={size}` again")
        nbformat.write(gallery.illustrated(book, reports(size)), new / path.name)
    shutil.rmtree(ours, ignore_errors=True)
    new.rename(ours)


def main(argv: list[str] | None = None) -> int:
    """Publish one size and renew the README."""
    parser = argparse.ArgumentParser(prog="python -m lib.desk.publish", description=main.__doc__)
    parser.add_argument("--size", default="laptop", choices=SIZES)
    try:
        size, notebooks = parser.parse_args(argv).size, sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
        print(publish(size, notebooks))
        if (best := best_published()) == size:
            publish_notebooks(size, notebooks)
        for page in PAGES if best else ():
            fill_readme(ROOT / page, readme_values(published(best), notebooks))
    except (OSError, ValueError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
