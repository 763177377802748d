"""The environment of the study: `python -I lib/desk/environment.py FOLDER`, which make runs before every target.

Each time it inspects FOLDER, creates or completes the environment if it does not match requirements.lock, says so in one
line, and lets every kernel of the environment import `lib`, wherever it starts. With --link in place of FOLDER it does only
this last step, for the Python that runs it (conda). Anything that cannot be done is reported in one line.
"""
# Any Python 3 must be able to read this file, to report that it is too old: hence the old syntax, and only the standard
# library. Isolated (-I), because lib/desk/site.py would shadow the standard library's `site`.

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
OLDEST = (3, 11)
ISOLATED = ["-I", "-X", "utf8"]
ELSEWHERE = "name another place for the environment, as in: make VENV=/some/folder/venv"
APT = "on Debian or Ubuntu, apt install python3-venv"
LINE = re.compile(r'([\w.-]+)==([\w.]+)(?: ; (sys_platform|python_version) == "([\w.]+)")?')


def main(folder):
    """Leave a working environment in `folder`, or exit and say what prevents it."""
    fault, there = look(folder)
    if fault:
        make(folder, fault)
        fault, there = look(folder)
    if not fault and amiss(there):
        complete(folder, there)
        fault, there = look(folder)
    if fault or amiss(there):
        sys.exit(f"{folder} {fault or 'still has ' + told(amiss(there))}: remove it and create it again with: make env")
    try:
        link(there["site"])
    except OSError:
        say(f"{there['site']} cannot be written to: kernels that start outside {ROOT} will not find `lib`")


def say(text):
    """One line for the reader; standard error accepts any character in any locale."""
    sys.stderr.write(text + "\n")


# --- what is there ----------------------------------------------------------------------------------


def look(folder):
    """Why the environment does not run (None: it does), and what its Python finds there."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(folder):
        return "is a broken link" if os.path.islink(folder) else "does not exist", None
    if not os.path.isdir(folder) or not os.path.isfile(os.path.join(folder, "pyvenv.cfg")):
        if os.path.isdir(folder) and not os.listdir(folder):
            return "is empty", None
        sys.exit(f"{folder} is not a virtual environment (it has no pyvenv.cfg) and is left alone: move it, or {ELSEWHERE}")
    if not os.path.exists(python):
        return "has no Python", None
    command = [python, *ISOLATED, os.path.realpath(__file__), "--look"]
    try:
        there = json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL).decode())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return "has a Python that does not run", None
    if tuple(there["version"]) < OLDEST:
        return f"has Python {dotted(there['version'])}, which is too old", None
    return None, there


def inventory():
    """What the running Python finds: versions of complete packages, and records of broken ones, which may be deleted."""
    found, broken = {}, {}
    for place in [p for p in sys.path if os.path.isdir(p)]:
        for entry in sorted(os.listdir(place)):
            name, _, version = entry.rpartition(".")[0].partition("-")
            if entry.endswith(".dist-info") and whole(place, entry):
                found.setdefault(canonical(name), version)
            elif entry.endswith(".dist-info") and place.startswith(sys.prefix):
                broken[canonical(name)] = os.path.join(place, entry)
    return {"version": sys.version_info[:3], "site": sysconfig.get_path("purelib"), "found": found, "broken": broken}


def whole(place, entry):
    """Whether a package was installed completely (installers write INSTALLER last) and no part of it was removed."""
    try:
        with open(os.path.join(place, entry, "RECORD"), encoding="utf-8") as record:
            parts = {re.split("[/,]", line)[0] for line in record} - {"", "..", "__pycache__"}
    except (OSError, ValueError):
        return False
    present = os.path.exists(os.path.join(place, entry, "INSTALLER"))
    return present and all(os.path.exists(os.path.join(place, part)) for part in parts if '"' not in part)


def amiss(there):
    """The lines of requirements.lock that apply to this system and Python but are not met, with what is there instead."""
    here = {"sys_platform": sys.platform, "python_version": dotted(there["version"][:2]), None: None}
    unmet = []
    with open(os.path.join(ROOT, "requirements.lock"), encoding="utf-8") as lock:
        for line in filter(None, (text.partition("#")[0].strip() for text in lock)):
            match = LINE.fullmatch(line)
            if not match:
                sys.exit(f"requirements.lock: {line!r} is not of the form name==1.2 ; python_version == \"3.12\"")
            name, version, marker, value = match.groups()
            found = there["found"].get(canonical(name))
            if here[marker] == value and (found or "").partition("+")[0] != version:
                unmet.append(f"{name}=={version}" + (f" (there: {found})" if found else ""))
    return unmet


def told(unmet):
    """How many packages are missing or at the wrong version, and an example."""
    return f"{len(unmet)} package{'s' * (len(unmet) > 1)} missing or at the wrong version, such as {unmet[0]}"


def canonical(name):
    """A package's name as the package index normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def dotted(version):
    """3.11.7 for (3, 11, 7)."""
    return ".".join(map(str, version))


# --- what is made -----------------------------------------------------------------------------------


def make(folder, fault):
    """Make a new environment in place of one that does not work; never touch what a link points to."""
    if sys.version_info < OLDEST:  # noqa: UP036 - the very check
        oldest = dotted(OLDEST)
        found = f"{sys.executable} is {dotted(sys.version_info[:3])}"
        sys.exit(f"Python {oldest} or newer is needed, but {found}: name a newer one with make PYTHON=python{oldest}")
    writable(os.path.dirname(os.path.abspath(folder)))
    say(f"{folder} {fault}: creating it with Python {dotted(sys.version_info[:3])}")
    if os.path.islink(folder) and fault != "is empty":
        os.unlink(folder)
    elif os.path.isdir(folder):
        clear(folder)
    command = [sys.executable, *ISOLATED, "-m", "venv", folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        if os.path.isdir(folder):
            clear(folder)
        said = done.stdout.decode(errors="replace").strip()
        hint = f"{APT}; or {ELSEWHERE}" if "ensurepip" in said or "No module" in said else ELSEWHERE
        sys.exit(f"{sys.executable} cannot create a virtual environment ({said.split(chr(10))[-1]}): {hint}")
    with open(os.path.join(folder, ".gitignore"), "w", encoding="utf-8") as file:
        file.write("*\n")  # wherever it is, git and ruff ignore it


def clear(folder):
    """Empty an environment's folder, pyvenv.cfg last: if killed half-way, it is still recognised as an environment."""
    if (ROOT + os.sep).startswith(os.path.realpath(folder) + os.sep):
        sys.exit(f"{folder} contains this study and is left alone: {ELSEWHERE}")
    for name in sorted(os.listdir(folder), key="pyvenv.cfg".__eq__):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def complete(folder, there):
    """Let pip install what is missing."""
    python = [os.path.join(folder, "bin", "python"), *ISOLATED]
    writable(there["site"])
    say(f"{folder} has {told(amiss(there))}: installing requirements.lock")
    for name in {canonical(line.partition("==")[0]) for line in amiss(there)} & set(there["broken"]):
        shutil.rmtree(there["broken"][name])  # else pip would consider the package installed
    if "pip" not in there["found"] and subprocess.call([*python, "-m", "ensurepip"], stdout=subprocess.DEVNULL):
        sys.exit(f"{folder} has no pip, and its Python does not provide it: {APT}")
    options = ["--quiet", "--disable-pip-version-check", "--no-user", "-r", os.path.join(ROOT, "requirements.lock")]
    if subprocess.call([*python, "-m", "pip", "install", *options]):
        sys.exit(f"pip could not complete {folder}, see its message above; make env continues from there")


def writable(place):
    """Refuse a place that cannot be written to."""
    while not os.path.exists(place):
        place = os.path.dirname(place)
    if not os.access(place, os.W_OK):
        sys.exit(f"{place} cannot be written to: {ELSEWHERE}")


def link(site):
    """Let code in an environment import this checkout: writes its path, encoded to read the same in every locale."""
    path = os.path.join(site, "human_feedback.pth")
    line = f"import os, sys; sys.path.append(os.fsdecode({os.fsencode(ROOT)!r}))\n"
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.read() == line:
                return
    with open(path, "w", encoding="utf-8") as file:
        file.write(line)


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["--look"]:
            print(json.dumps(inventory()))
        elif sys.argv[1:] == ["--link"]:
            link(sysconfig.get_path("purelib"))
        elif len(sys.argv) == 2:
            main(os.path.normpath(sys.argv[1]))
        else:
            sys.exit("name the environment's folder: python -I lib/desk/environment.py .venv")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}" + f"; {ELSEWHERE}" * (sys.argv[1:] != ["--link"]))
    except KeyboardInterrupt:
        sys.exit("interrupted; make env continues from there")
