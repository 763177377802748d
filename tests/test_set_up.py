"""The environment is looked at and mended each time, in any folder, locale and Python; git rewrites no file of a clone."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from lib.desk import environment
from lib.ground.paths import ROOT

LOCK = '# two, and one of another system\napple==1.0\npear-tree==2.0\nhaiku==9.9 ; sys_platform == "haiku"\n'
# What a user, an outer make or an outer git may have set.
THEIRS = ("PIP_", "MAKE", "MFLAGS", "PYTHON", "VENV", "GIT_", "LC_")
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(THEIRS)}
needs_git = pytest.mark.skipif(not shutil.which("git"), reason="there is no git program here")


def wheel(folder, name, version):
    """A package that pip can install without an index."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


class Checkout:
    """A folder with what sets the study up, and a lock of two small packages."""

    def __init__(self, folder, wheels, oldest="(3, 11)"):
        (folder / "lib" / "desk").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copy(ROOT / "lib" / "desk" / "site.py", folder / "lib" / "desk")  # not to be taken for Python's own
        (folder / "lib" / "__init__.py").touch()
        code = (ROOT / "lib" / "desk" / "environment.py").read_text("utf-8")
        code = code.replace("OLDEST = (3, 11)", f"OLDEST = {oldest}")
        (folder / "lib" / "desk" / "environment.py").write_text(code, "utf-8")
        (folder / "requirements.lock").write_text(LOCK, "utf-8")
        self.folder, self.venv = folder, folder / ".venv"
        self.given = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri(), "PIP_CONFIG_FILE": os.devnull}

    def env(self, *arguments, **variables):
        """Exit code of `make env`, and what it says but for make's own words."""
        command = ["make", "env", *([] if "PYTHON" in str(arguments) else [f"PYTHON={sys.executable}"]), *arguments]
        given = {k: v for k, v in (PLAIN | self.given | variables).items() if v is not None}
        done = subprocess.run(command, cwd=self.folder, env=given, capture_output=True, encoding="utf-8")
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout == "", "what is sound needs no word"
        return done.returncode, "\n".join(line for line in done.stderr.splitlines() if not line.startswith("make:"))

    def python(self, code, **variables):
        """What the environment's Python prints, started far from the checkout."""
        command = [self.venv / "bin" / "python", "-c", code]
        return subprocess.run(command, cwd="/", env=PLAIN | variables, capture_output=True, text=True, check=True).stdout

    @property
    def site(self):
        (found,) = self.venv.glob("lib/python*/site-packages")
        return found


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    for name, version in (("apple", "1.0"), ("apple", "0.9"), ("pear_tree", "2.0")):
        wheel(folder, name, version)
    return folder


def pretend(folder, script="#!/bin/sh\nexit 1\n"):
    """The folder of an environment whose Python is this script (None: a link that leads nowhere)."""
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n", "utf-8")
    python = folder / "bin" / "python"
    if script is None:
        python.symlink_to("/no/such/python3.11")
    else:
        python.write_text(script, "utf-8")
        python.chmod(0o755)
    return folder


def answers(version):
    """A Python of this version, as far as it is asked."""
    return f"#!/bin/sh\necho '{{\"version\": {list(version)}, \"site\": \"\", \"found\": {{}}, \"broken\": {{}}}}'\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, wheels):
    """One with an environment, made where one of Python 3.10 was: in a folder with a space and an umlaut, without a home."""
    made = Checkout(tmp_path_factory.mktemp("set_up") / "a b" / "ü", wheels)
    pretend(made.venv, answers((3, 10, 13)))
    (made.venv / "left over").touch()
    code, said = made.env(LC_ALL="C", HOME=None)
    making, installing = said.splitlines()
    assert code == 0 and making.startswith(".venv has Python 3.10.13, which is too old: creating it with Python 3.1")
    assert installing.startswith(".venv has 2 packages missing") and not (made.venv / "left over").exists()
    return made


@pytest.fixture
def sound(checkout):
    """The same, before and after a test that breaks it."""
    yield checkout
    assert checkout.env() == (0, "")
    assert checkout.python("import apple, pear_tree, lib; print(apple.version)") == "1.0\n"


# --- packages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lost",
    ["apple-1.0.dist-info", "apple", "apple-1.0.dist-info/INSTALLER", "apple-1.0.dist-info/RECORD"],
    ids=["never installed", "removed by hand", "killed while it was installed", "killed before its list was written"],
)
def test_a_package_that_is_not_whole_is_installed_again_in_a_line(sound, lost):
    path = sound.site / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, said = sound.env()
    assert code == 0 and said == (
        ".venv has 1 package missing or at the wrong version, such as apple==1.0: installing requirements.lock"
    )


def test_a_package_at_another_version_is_replaced_and_the_version_is_named(sound):
    pip = [sound.venv / "bin" / "python", "-m", "pip", "install", "-q", "apple==0.9"]
    subprocess.run(pip, env=PLAIN | sound.given, check=True, capture_output=True)
    code, said = sound.env(PIP_USER="1")  # as some users have it set for good
    assert code == 0 and "1 package" in said and "apple==1.0 (there: 0.9)" in said


@pytest.mark.parametrize(("found", "steps"), [({}, ["ensurepip", "pip"]), ({"pip": "26.0"}, ["pip"])])
def test_an_environment_without_pip_gets_it_first(monkeypatch, tmp_path, found, steps):
    called = []
    monkeypatch.setattr(environment.subprocess, "call", lambda command, **_: called.append(command))
    environment.complete("venv", environment.inventory() | {"found": found, "site": str(tmp_path), "broken": {}})
    assert [command[command.index("-m") + 1] for command in called] == steps


def test_what_pip_cannot_install_fails_in_words(sound):
    (sound.folder / "requirements.lock").write_text(LOCK + "fig==3.0\n", "utf-8")
    code, said = sound.env()
    (sound.folder / "requirements.lock").write_text(LOCK, "utf-8")
    assert code != 0 and said.splitlines()[-1] == (
        "pip could not complete .venv, see its message above; make env continues from there"
    )


def test_what_is_still_not_right_after_pip_fails_in_words(monkeypatch, tmp_path):
    there = environment.inventory() | {"found": {}}
    monkeypatch.setattr(environment, "look", lambda folder: (None, there))
    monkeypatch.setattr(environment, "complete", lambda folder, there: None)
    with pytest.raises(SystemExit, match=r"still has \d+ packages missing or at the wrong version, such as accelerate=="):
        environment.main(str(tmp_path))


def test_a_line_of_the_lock_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "ROOT", str(tmp_path))
    there = environment.inventory()
    for line in ("apple>=1.0", "apple", 'apple==1.0 ; os_name == "posix"', "apple == 1.0"):
        (tmp_path / "requirements.lock").write_text(line, "utf-8")
        with pytest.raises(SystemExit, match="is not of the form name==1.2"):
            environment.amiss(there)


# --- the Python of the environment ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (None, "has no Python"),
        ("#!/bin/sh\nexit 127\n", "has a Python that does not run"),
        ("of another machine", "has a Python that does not run"),
        ("#!/no/such/shell\n", "has a Python that does not run"),
        (answers((3, 10, 13)), "has Python 3.10.13, which is too old"),
        (answers((3, 9, 2)), "has Python 3.9.2, which is too old"),
        (answers((2, 7, 18)), "has Python 2.7.18, which is too old"),
        (answers((3, 11, 0)), None),
        (answers((3, 13, 1)), None),
    ],
)
def test_what_is_wrong_with_the_python_of_an_environment_is_said(tmp_path, script, fault):
    assert environment.look(str(pretend(tmp_path / "venv", script)))[0] == fault


@pytest.mark.parametrize("python", ["no-such-python", "/no such/python3", "python2"])
def test_without_a_python_one_is_asked_for(wheels, tmp_path, python):
    code, said = Checkout(tmp_path / "checkout", wheels).env(f"PYTHON={python}")
    assert code != 0
    assert f"Python 3.11 or newer is needed, but {python} is not: name a newer one with make PYTHON=python3.11" in said


def test_an_old_python_is_refused_in_words_and_deletes_nothing(wheels, tmp_path):
    checkout = Checkout(tmp_path / "checkout", wheels, oldest="(9, 9)")
    for _ in ("without an environment", "with one that it cannot replace"):
        before = sorted(checkout.folder.rglob("*"))
        code, said = checkout.env()
        version = ".".join(map(str, sys.version_info[:3]))
        assert code != 0 and said.startswith("Python 9.9 or newer is needed, but ")
        assert f" is {version}: " in said and sorted(checkout.folder.rglob("*")) == before
        checkout.venv.exists() or pretend(checkout.venv, None)


@pytest.mark.parametrize("python", ["no-such-python", "/no such/python3"])
def test_a_sound_environment_is_used_where_no_other_python_is_there(sound, python):
    assert sound.env(f"PYTHON={python}") == (0, "")


def test_an_old_python_can_read_the_file_that_refuses_it():
    text = (ROOT / "lib" / "desk" / "environment.py").read_text("utf-8")
    tree = ast.parse(text, feature_version=(3, 6))
    for node in ast.walk(tree):
        assert not isinstance(node, (ast.NamedExpr, ast.Match, ast.AnnAssign))
        if isinstance(node, ast.FunctionDef):
            assert not node.returns and not any(a.annotation for a in node.args.args), "3.6 reads no X | None"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert {a.name for a in node.names} <= {"json", "os", "re", "shutil", "subprocess", "sys", "sysconfig"}
    for newer in ("capture_output", "text=True", "removeprefix", "removesuffix", "missing_ok"):
        assert newer not in text


# --- what is deleted, and what is not ---------------------------------------------------------------


@pytest.fixture
def makes_venvs(monkeypatch, tmp_path):
    """A Python whose `-m venv` takes no time."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor last; do :; done\nmkdir -p "$last" && echo new > "$last/pyvenv.cfg"\n', "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(environment.sys, "executable", str(python))


@pytest.mark.parametrize("target", ["nowhere", "old"])
def test_a_link_gives_way_and_what_it_points_to_stays(makes_venvs, tmp_path, target):
    old = pretend(tmp_path / "old", None)
    link = tmp_path / ".venv"
    link.symlink_to(tmp_path / target)
    fault, _ = environment.look(str(link))
    environment.make(str(link), fault)
    assert not link.is_symlink() and (link / "pyvenv.cfg").read_text("utf-8") == "new\n"
    assert (old / "pyvenv.cfg").read_text("utf-8") == "home = /usr/bin\n" and (old / "bin" / "python").is_symlink()


def test_links_inside_an_environment_are_not_followed_when_it_is_cleared(makes_venvs, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    venv = pretend(tmp_path / ".venv", None)
    (venv / "lib64").symlink_to(tmp_path / "mine")
    environment.make(str(venv), "has no Python")
    assert (tmp_path / "mine" / "thesis").exists() and sorted(p.name for p in venv.iterdir()) == [".gitignore", "pyvenv.cfg"]


def test_a_link_to_a_sound_environment_is_used(sound):
    sound.venv.rename(sound.folder / "elsewhere")
    sound.venv.symlink_to("elsewhere")
    try:
        assert sound.env() == (0, "")
    finally:
        sound.venv.unlink()
        (sound.folder / "elsewhere").rename(sound.venv)


@pytest.mark.parametrize("name", ["folder", "file", "link"])
def test_what_is_no_environment_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(SystemExit, match=r"is not a virtual environment .* is left alone: move it, or name another .*VENV="):
        environment.main(str(tmp_path / name))
    assert (tmp_path / "folder" / "thesis").exists() and (tmp_path / "file").exists() and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("inside", ["", "projects/study"])
def test_an_environment_that_holds_the_study_is_never_deleted(monkeypatch, makes_venvs, tmp_path, inside):
    venv = pretend(tmp_path / "venv", None)
    (venv / inside / "lib").mkdir(parents=True)
    monkeypatch.setattr(environment, "ROOT", str(venv / inside).rstrip("/"))
    with pytest.raises(SystemExit, match="contains this study and is left alone"):
        environment.main(str(venv))
    assert (venv / inside / "lib").is_dir() and (venv / "pyvenv.cfg").exists()


# --- where it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my  own/vénv", "it's & mine (1)"])
def test_an_environment_can_be_elsewhere_under_any_name(makes_venvs, sound, tmp_path, name):
    venv = tmp_path / name
    environment.make(str(venv), environment.look(str(venv))[0])
    assert (venv / ".gitignore").read_text("utf-8") == "*\n", "else git and ruff would go through it"
    shutil.rmtree(venv)
    sound.venv.rename(venv)
    try:
        assert sound.env(f"VENV={venv}") == (0, "") and not sound.venv.exists()
    finally:
        venv.rename(sound.venv)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_any_kernel_of_the_environment_finds_lib_whatever_the_locale(sound, locale):
    there = sound.python("import lib, os; print(os.fsencode(lib.__file__))", LC_ALL=locale)
    assert there == f"{os.fsencode(sound.folder / 'lib' / '__init__.py')}\n"
    assert (sound.site / "human_feedback.pth").read_bytes().isascii(), "letters that some locale reads otherwise"


def test_a_folder_renamed_after_the_set_up_works(sound):
    old = sound.folder
    new = old.rename(old.parent / "renamed & moved 'so'")
    sound.folder, sound.venv = new, new / ".venv"
    try:
        assert sound.env() == (0, "")
        assert sound.python("import lib; print(lib.__file__)") == f"{new}/lib/__init__.py\n"
    finally:
        new.rename(old)
        sound.folder, sound.venv = old, old / ".venv"


def test_the_link_alone_is_made_for_conda(sound):
    (sound.site / "human_feedback.pth").unlink()
    command = [sound.venv / "bin" / "python", "-I", "lib/desk/environment.py", "--link"]
    done = subprocess.run(command, cwd=sound.folder, env=PLAIN, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sound.python("import lib; print('found')") == "found\n"


def test_a_folder_that_cannot_be_written_to_is_named_with_the_way_out(monkeypatch, tmp_path, makes_venvs):
    monkeypatch.setattr(environment.os, "access", lambda path, mode: path != str(tmp_path))
    for venv in (tmp_path / ".venv", tmp_path / "not" / "there" / "yet"):
        with pytest.raises(SystemExit, match=rf"^{tmp_path} cannot be written to: name another place .* make VENV="):
            environment.main(str(venv))
    there = environment.inventory() | {"site": str(tmp_path), "found": {}}
    monkeypatch.setattr(environment, "look", lambda folder: (None, there))
    with pytest.raises(SystemExit, match=rf"^{tmp_path} cannot be written to"):
        environment.main(str(tmp_path / ".venv"))
    assert not list(tmp_path.glob("*venv*"))


@pytest.mark.parametrize("place", ["/proc/venv", "/dev/null/venv", "/sys/a b"])
def test_a_place_where_no_environment_can_be_is_refused_in_one_line(wheels, tmp_path, place):
    code, said = Checkout(tmp_path / "checkout", wheels).env(f"VENV={place}")
    assert code != 0 and said.splitlines()[-1].endswith("for the environment, as in: make VENV=/some/folder/venv")


def test_a_sound_environment_that_cannot_be_written_to_is_used(monkeypatch, capsys):
    def refuses(site):
        raise PermissionError(13, "Permission denied", site)

    monkeypatch.setattr(environment, "link", refuses)
    monkeypatch.setattr(environment, "look", lambda folder: (None, environment.inventory()))
    monkeypatch.setattr(environment, "amiss", lambda there: [])
    environment.main(".venv")
    assert "cannot be written to: kernels that start outside" in capsys.readouterr().err


@pytest.mark.parametrize(
    "says",
    [
        "The virtual environment was not created successfully because ensurepip is not\\navailable.\\n\\nFailing command: x",
        "/usr/bin/python3: No module named venv",
        "Error: Command '[\\047python3\\047, \\047-m\\047, \\047ensurepip\\047]' returned non-zero exit status 1.",
    ],
)
def test_a_python_that_cannot_make_environments_names_debians_package(monkeypatch, tmp_path, says):
    python = tmp_path / "python"
    half = 'for last; do :; done\nmkdir -p "$last/bin" && touch "$last/pyvenv.cfg"\n'
    python.write_text(f'#!/bin/sh\n{half}printf "{says}\\n"\nexit 1\n', "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(environment.sys, "executable", str(python))
    with pytest.raises(SystemExit, match=r"cannot create a virtual environment \(.*\): .*install python3-venv") as refusal:
        environment.main(str(tmp_path / ".venv"))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / ".venv" / "bin").exists(), "what was half made would be taken for an environment"


# --- git --------------------------------------------------------------------------------------------


def git(folder, *arguments, check=True):
    """Git without any settings of the user's."""
    names = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    given = PLAIN | names | {"HOME": str(folder.parent), "XDG_CONFIG_HOME": str(folder.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(["git", *arguments], cwd=folder, env=given, check=check, capture_output=True, text=True)


def a_file_of_each_kind():
    """The smallest file of each suffix in each part of the study."""
    kinds = {}
    for part in ("data", "reports", "notebooks", "lib", "tests", "pretrain", "."):
        files = (ROOT / part).glob("*" if part == "." else "**/*")
        for path in sorted(p for p in files if p.is_file() and "__pycache__" not in p.parts):
            kinds.setdefault((part, path.suffix or path.name), path)
    return [path.relative_to(ROOT) for path in kinds.values() if path.name not in (".coverage", ".git")]


@pytest.fixture
def repository(tmp_path):
    """A repository with the study's attributes, a file of each kind of its, and data that other systems wrote."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for path in a_file_of_each_kind():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)
    (folder / "data" / "foreign.csv").write_bytes(b"image,label\r\n1,good\r\n$Id$\n")
    (folder / "reports" / "foreign.txt").write_bytes(b"one\r\ntwo\n")
    git(folder, "init", "-q")
    git(folder, "add", "--force", ".")
    git(folder, "commit", "-q", "-m", "all")
    return folder


@needs_git
@pytest.mark.parametrize(
    "settings",
    [
        {"core.autocrlf": "true"},
        {"core.eol": "crlf"},
        {"core.autocrlf": "input"},
        {"core.attributesFile": "text eol=crlf"},
        {"core.attributesFile": "filter=loud", "filter.loud.smudge": "tr a-z A-Z", "filter.loud.clean": "tr A-Z a-z"},
        {"core.attributesFile": "ident"},
    ],
    ids=["autocrlf", "eol", "input", "attributes of the user's", "filters of the user's", "ident"],
)
def test_a_clone_has_every_byte_whatever_its_owner_has_set(repository, tmp_path, settings):
    if "core.attributesFile" in settings:
        (tmp_path / "attributes").write_text(f"* {settings['core.attributesFile']}\n", "utf-8")
        settings = settings | {"core.attributesFile": str(tmp_path / "attributes")}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", *options, str(repository), str(clone))
    files = [p.relative_to(repository) for p in repository.rglob("*") if p.is_file() and ".git" not in p.parts]
    assert len(files) > 20 and {".safetensors", ".png", ".parquet", ".ipynb", ".py"} <= {p.suffix for p in files}
    assert [str(path) for path in files if (clone / path).read_bytes() != (repository / path).read_bytes()] == []
    git(clone, "add", "--renormalize", ".")
    assert git(clone, "status", "--porcelain").stdout == "", "nothing is to be committed"


@needs_git
@pytest.mark.parametrize(
    "path", ["lib/desk/run.py", "tests/x.py", "reports/gpu/quality.json", "reports/full/figures/x.png", "data/x.json"]
)
def test_git_keeps_the_study_and_its_results(repository, path):
    assert git(repository, "check-ignore", "-q", "--no-index", path, check=False).returncode == 1


@needs_git
@pytest.mark.parametrize("path", [".venv/x", ".cache/x", "reports/yours/smoke/x", "reports/yours/gpu/notebooks/x.ipynb"])
def test_git_ignores_what_is_built(repository, path):
    assert git(repository, "check-ignore", "-q", "--no-index", path, check=False).returncode == 0
