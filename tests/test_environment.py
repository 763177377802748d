"""The lock is exact, whole on Linux and macOS, covers every import, and is what conda installs too."""

import ast
import json
import re
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lib.desk import environment
from lib.ground.paths import ROOT

LINES = [line for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if not line.startswith("#")]
LOCK = {canonicalize_name(Requirement(line).name): Requirement(line) for line in LINES}
LINUX_ONLY = re.compile(r"^(nvidia-|cuda-|triton$)")


def wanted(requirement, system, python):
    """Whether a requirement's marker (if any) holds there."""
    darwin = system == "darwin"
    there = {"sys_platform": system, "platform_system": "Darwin" if darwin else "Linux", "os_name": "posix",
             "platform_machine": "arm64" if darwin else "x86_64", "python_version": python,
             "python_full_version": f"{python}.1", "implementation_name": "cpython",
             "platform_python_implementation": "CPython", "extra": ""}  # fmt: skip
    return requirement.marker is None or requirement.marker.evaluate(there)


def imports():
    """Top-level modules that the study's code and notebooks import, with one file that does."""
    modules = [p for folder in ("lib", "pretrain", "tests") for p in (ROOT / folder).rglob("*.py")]
    texts = {p: p.read_text("utf-8") for p in modules}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
        code = "".join(line for c in cells for line in [*c["source"], "\n"] if not re.match(r"\s*[%!]", line))
        texts[path] = code
    found = {}
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0]: path.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found[node.module.split(".")[0]] = path.name
    return found


def test_each_line_of_the_lock_is_one_exact_version():
    for line in LINES:
        assert re.fullmatch(r'[\w.-]+==[\w.]+( ; (sys_platform|python_version) == "[\w.]+")?', line), line
    assert len(LOCK) == len(LINES)


def test_what_exists_on_linux_only_says_so():
    marked = {name for name, r in LOCK.items() if r.marker and 'sys_platform == "linux"' in str(r.marker)}
    assert marked == {name for name in LOCK if LINUX_ONLY.match(name)}
    assert "torch" not in marked and len(marked) > 0


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_whatever_a_locked_package_requires_is_locked(system, python):
    here = {name: r for name, r in LOCK.items() if wanted(r, system, python)}
    for name in here:
        try:
            required = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:  # it belongs to the other system or another Python
            continue
        for r in required:
            if wanted(r, system, python):
                need = canonicalize_name(r.name)
                assert need in here, f"{name} requires {need} on {system} with Python {python}"
                version = next(iter(here[need].specifier)).version
                assert r.specifier.contains(version, prereleases=True), f"{name} requires {r}, not {version}"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_make_env_looks_for_just_what_pip_would_install(monkeypatch, system, python):
    monkeypatch.setattr(environment.sys, "platform", system)
    here = {name: r for name, r in LOCK.items() if wanted(r, system, python)}
    there = {"version": [*map(int, python.split(".")), 1], "found": {}}
    assert environment.amiss(there) == [f"{r.name}{r.specifier}" for r in here.values()]
    there["found"] = {name: next(iter(r.specifier)).version for name, r in here.items()}
    assert environment.amiss(there) == []
    there["found"]["torch"] += "+cpu"  # the same version, built for processors alone
    assert environment.amiss(there) == []
    there["found"]["numpy"] = "1.26.4"
    assert environment.amiss(there) == [f"{LOCK['numpy']} (there: 1.26.4)"]


def test_every_import_of_the_study_is_covered_by_the_lock():
    distributions = packages_distributions()
    own = {p.name for p in ROOT.iterdir() if p.is_dir()} | {p.stem for p in (ROOT / "tests").glob("*.py")}
    optional = {"bitsandbytes"}  # of an option that is off, and is refused in words where it is not installed
    for module, where in imports().items():
        if module in sys.stdlib_module_names or module in own or module in optional:
            continue
        names = {canonicalize_name(name) for name in distributions.get(module, [])}
        assert names & set(LOCK), f"{where} imports {module}, which the lock does not install"


def test_conda_installs_the_very_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["-r requirements.lock"]
    assert {d.split("=")[0] for d in plain} == {"python", "pip", "git", "make"}
    (python,) = [d.split("=")[1] for d in plain if d.startswith("python=")]
    target = re.search(r'target-version = "py3(\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert (ROOT / "environment.yml").read_text("utf-8").count("python -I lib/desk/environment.py --link") == 1
    assert python in SpecifierSet(f">=3.{target[1]}")


def test_no_address_and_no_path_stands_in_the_lock():
    text = (ROOT / "requirements.lock").read_text("utf-8")
    assert not re.search(r"://|@|--|\+cpu|\+cu", text)
