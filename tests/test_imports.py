"""The walls of `lib`: packages import one way, modules in no circle, and all that is there is used."""

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest

import lib
from lib.ground.paths import ROOT
from lib.ground.source import SOURCES, imported

ORDER = ("ground", "world", "images", "feedback", "methods", "scale", "study", "desk")
MODULES = [name for name in SOURCES if name.startswith("lib.") and not name.endswith("__init__")]
READ_BY_MAKE = {"lib.desk.environment"}


def arrows(sources=SOURCES) -> list[tuple[str, str]]:
    """Each module of `lib` with each of the study's modules that it imports, wherever in it."""
    found = []
    for name in (n for n in sources if n.startswith("lib.")):
        package = name.rpartition(".")[0]
        found += [(name, b) for b in imported(ast.parse(sources[name]), package, sources) if not b.endswith("__init__")]
    return found


def backwards(pairs) -> list[str]:
    """Imports against the order of packages, in words."""
    place = {package: i for i, package in enumerate(ORDER)}

    def layer(name):
        return place.get(name.split(".")[1], -1) if name.startswith("lib.") else len(ORDER)  # pretrain stands on lib

    return [f"{a} imports {b}: {ORDER[layer(a)]} may not know {b.split('.')[1]}" for a, b in pairs if layer(b) > layer(a)]


def test_imports_run_one_way():
    assert not (wrong := backwards(arrows())), "; ".join(wrong)


def test_an_arrow_back_up_is_named():
    text = "def late():\n    from lib.desk import report\n"
    assert backwards(arrows(SOURCES | {"lib.ground.stats": text})) == [
        "lib.ground.stats imports lib.desk.report: ground may not know desk"
    ]
    up = backwards(arrows(SOURCES | {"lib.desk.run": "import pretrain.unet"}))
    assert up == ["lib.desk.run imports pretrain.unet: desk may not know unet"]


def test_no_modules_import_each_other_in_a_circle():
    graph = {}
    for a, b in arrows():
        graph.setdefault(a, set()).add(b)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1][::-1]))


def test_every_module_is_used_by_more_than_tests():
    cells = "".join(p.read_text("utf-8") for p in (ROOT / "notebooks").glob("*.ipynb"))
    whole = re.findall(r"from lib\.(\w+) import ([\w, ]+)", cells)
    used = {b for _, b in arrows()} | {f"lib.{p}.{m.strip()}" for p, modules in whole for m in modules.split(",")}
    used |= {f"lib.{a}.{b}" for a, b in re.findall(r"from lib\.(\w+)\.(\w+) import", cells)}
    run = set(re.findall(r"-m (lib\.[\w.]+)", (ROOT / "Makefile").read_text("utf-8")))
    assert set(MODULES) - used - run == READ_BY_MAKE


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short_and_in_the_map(name):
    assert len(SOURCES[name].splitlines()) <= 250
    _, package, module = name.split(".")
    (line,) = [x for x in lib.__doc__.splitlines() if x.startswith(f"{package} ")]
    assert re.search(rf"\b{module}\b", line) or module in UNMAPPED.get(package, ())


# What its neighbours use, and no reader looks for.
UNMAPPED = {
    "ground": {"checks", "domains", "precision"},
    "feedback": {"pictures", "incoming", "exchange", "formats", "labelstudio"},
    "methods": {"lessons"},
    "scale": {"budget", "checkpoints", "drawing", "draws", "grid", "halves", "measure", "preferring", "tasks", "tuning"},
    "study": {"scaled_lee", "scaled_wu"},
    "desk": {"campaign", "environment", "execution", "fence", "fresh", "gallery", "parameters", "readme",
             "rehearsal", "stock", "widget"},
}


def test_the_map_lists_the_packages_in_their_order():
    listed = [x.split()[0] for x in lib.__doc__.splitlines()[2:] if x.strip()]
    assert tuple(listed) == ORDER == tuple(p for p in ORDER if (ROOT / "lib" / p).is_dir())
    assert {p.name for p in (ROOT / "lib").iterdir() if p.is_dir() and not p.name.startswith("_")} == set(ORDER)
