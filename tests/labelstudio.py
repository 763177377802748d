"""Whether a real Label Studio takes our tasks and gives our answers back: `make labelstudio` (some minutes, 1 GB).

Installs it from PyPI into an environment of its own, starts it on the loopback address with data of its own, loads tasks for
the three questions (images within the tasks, and served from a folder), opens each project in headless Chromium, annotates
ten tasks through the API, and imports what it exports: the answers must be those that were given.
"""

import argparse
import base64
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from browser import chromium, free_port, until  # noqa: E402

from lib.feedback.assignments import AssignmentSpec  # noqa: E402
from lib.feedback.exchange import import_file  # noqa: E402
from lib.feedback.labelstudio import CHOICES, export_tasks  # noqa: E402
from lib.feedback.store import Store  # noqa: E402
from lib.images.sampling import image_digest  # noqa: E402
from pretrain.reading import FOLDER, tiles  # noqa: E402

VERSION = "1.23.2"
USER = "ann@example.org"
ITS_OWN = ("heidi-tips", "Using deprecated method - switch to label_studio.tools")  # warnings about itself
# Per question: sets, and what is answered to each (None: the annotation is cancelled).
ANSWERS = {
    "good": ["good", "bad", "skip", None],
    "alignment": ["left", "tie"],
    "fidelity": ["right", None],
    "best": ["1", "4"],
}  # fmt: skip
SHOWN = """(() => {
  const box = x => x.getBoundingClientRect();
  const whole = (a, b) => a.left >= b.left && a.top >= b.top && a.right <= b.right && a.bottom <= b.bottom;
  const images = [...document.querySelectorAll('.lsf-image img')].filter(
    x => x.naturalWidth == 64 && box(x).width == 192 && whole(box(x), box(x.parentElement)));
  const errors = [...document.querySelectorAll('[class*=error], [class*=Error], [class*=warning]')];
  return {images: images.length, errors: errors.map(x => x.innerText).filter(x => x), text: document.body.innerText};
})()"""


def install(folder: Path) -> Path:
    """The Python of an environment with Label Studio, made if it is missing."""
    python = folder / "bin" / "python"
    asked = [python, "-c", "from importlib.metadata import version; print(version('label-studio'))"]
    if not python.exists() or subprocess.run(asked, capture_output=True, text=True).stdout.strip() != VERSION:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"label-studio=={VERSION}"], check=True)
    return python


@contextlib.contextmanager
def serving(python: Path, data: Path, images: Path, password: str, token: str) -> Iterator[tuple[str, Path]]:
    """Label Studio's address while it runs, and its log."""
    port = free_port()
    own = {"LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true", "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(images),
           "COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
           "HOME": str(data), "PATH": f"{python.parent}:{os.environ['PATH']}"}  # fmt: skip
    command = [python.parent / "label-studio", "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port),
               "--data-dir", data, "--username", USER, "--password", password, "--user-token", token,
               "--enable-legacy-api-token", "--log-level", "WARNING"]  # fmt: skip
    log, address = data / "log.txt", f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | own,
                                   stdout=file, stderr=subprocess.STDOUT)  # fmt: skip
        try:
            until(lambda: process.poll() is not None or urlopen(f"{address}/health").status == 200, 600, "its start")
            if process.poll() is not None:
                sys.exit(f"Label Studio ended: {log.read_text('utf-8')[-2000:]}")
            yield address, log
        finally:
            process.terminate()
            process.wait(60)


class Api:
    """Label Studio's API."""

    def __init__(self, address: str, token: str):
        self.address, self.head = address, {"Authorization": f"Token {token}", "Content-Type": "application/json"}

    def __call__(self, method: str, path: str, body=None):
        request = Request(self.address + path, None if body is None else json.dumps(body).encode(), self.head, method=method)
        try:
            with urlopen(request, timeout=120) as answer:
                found = answer.read()
        except HTTPError as error:
            sys.exit(f"{method} {path}: {error.code} {error.read()[:500]!r}")
        return json.loads(found) if found else None


def sets_of(question: str, store: Store) -> list[tuple[str, list[str]]]:
    """Sets of images for the answers of a question, archived in a store; prompts are those of the first image."""
    pixels, texts = tiles(), json.loads((FOLDER / "reader_prompts.json").read_text("utf-8"))
    size, sets = {"good": 1, "best": 4}.get(question, 8), []
    for i in range(len(ANSWERS[question])):
        rows = range(size * i, size * (i + 1))
        store.add_all((image_digest(pixels[r]), ("reading", texts[r], 0), pixels[r]) for r in rows)
        sets.append((texts[rows[0]], [image_digest(pixels[r]) for r in rows]))
    return sets


def campaign(api: Api, page, question: str, folder: Path, images: Path) -> tuple[list[dict], list[tuple]]:
    """Run a question's campaign; returns the export and the answers that were given, about true sides."""
    with Store.open(folder / "asked.sqlite") as store:
        spec = AssignmentSpec(repeats=0, checks=0)
        export_tasks(store, folder, question, sets_of(question, store), ["ann"], spec=spec, inside=question == "good")
    made, given = json.loads((folder / "ann.json").read_text("utf-8")), []
    xml = (folder / "configuration.xml").read_text("utf-8")
    project = api("POST", "/api/projects", {"title": question, "label_config": xml})["id"]
    api("POST", f"/api/projects/{project}/validate", {"label_config": xml})
    if question != "good":
        shutil.copytree(folder / "images", images / "images", dirs_exist_ok=True)
        api("POST", "/api/storages/localfiles", {"project": project, "path": str(images / "images"), "title": "images"})
    said = api("POST", f"/api/projects/{project}/import", made)
    if said["task_count"] != len(made) or said["annotation_count"]:
        sys.exit(f"{question}: of {len(made)} tasks Label Studio says {said}")
    look(page, api.address, project, question, made, folder)
    listed = api("GET", f"/api/tasks?project={project}&fields=all&page_size=100")["tasks"]
    for task, answer in zip(sorted(listed, key=lambda t: t["id"]), ANSWERS[question], strict=True):
        result = [{"from_name": "answer", "to_name": "place_1", "type": "choices", "value": {"choices": [answer]}}]
        api("POST", f"/api/tasks/{task['id']}/annotations/",
            {"result": result if answer else [], "was_cancelled": answer is None, "lead_time": 1.5})  # fmt: skip
        shown = task["data"]["shown"]
        true = {"left": shown[0], "right": shown[-1]} | {c: shown[int(c) - 1] for c in "1234" if question == "best"}
        given.append((task["data"]["prompt"], tuple(task["data"]["images"]), true.get(answer, answer or "skip")))
    return api("GET", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true"), given


def look(page, address: str, project: int, question: str, made: list[dict], folder: Path) -> None:
    """Open the first task in the browser: its images are there, its choices, and no message of an error."""
    page.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
    page.open(f"{address}/projects/{project}/data?labeling=1")
    wanted = sum(name.startswith("place_") for name in made[0]["data"])
    try:
        until(lambda: page.run(SHOWN)["images"] >= wanted, 60, f"{wanted} images of {question!r}")
    finally:
        found = page.call("Page.captureScreenshot")["data"]
        (folder / "screen.png").write_bytes(base64.b64decode(found))
    seen = page.run(SHOWN)
    missing = [c for c in CHOICES[question] if c not in seen["text"]]
    if missing or seen["errors"]:
        sys.exit(f"{question}: the page lacks {missing} or tells of {seen['errors']}")


def log_in(page, address: str, password: str) -> None:
    page.open(f"{address}/user/login/")
    page.run(f"""(() => {{ document.querySelector('[name=email]').value = {json.dumps(USER)};
      document.querySelector('[name=password]').value = {json.dumps(password)};
      document.querySelector('form').submit(); }})()""")
    until(lambda: "login" not in page.run("location.pathname"), 60, "the log-in")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/labelstudio.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--environment", type=Path, default=ROOT / ".cache" / "labelstudio", help="where it is installed")
    parser.add_argument("--keep", type=Path, help="a folder for the exports and pictures of the pages")
    given = parser.parse_args()
    python, password, token = install(given.environment.absolute()), secrets.token_hex(8), secrets.token_hex(20)
    with tempfile.TemporaryDirectory() as temporary:
        data, images, out = (Path(temporary) / name for name in ("data", "images", "out"))
        for folder in (data, images, *(out / q for q in ANSWERS)):
            folder.mkdir(parents=True)
        with serving(python, data, images, password, token) as (address, log), chromium(Path(temporary) / "profile") as page:
            log_in(page, address, password)
            api = Api(address, token)
            for question in ANSWERS:
                exported, expected = campaign(api, page, question, out / question, images)
                path = out / question / "export.json"
                path.write_text(json.dumps(exported, indent=1, ensure_ascii=False), "utf-8")
                with Store.open(out / question / "asked.sqlite") as store:
                    import_file(store, path, "labelstudio")
                    rows = store.rows(question=question)
                    got = list(zip(rows.prompt, rows.images, rows.value, strict=True))
                if sorted(got) != sorted(expected):
                    sys.exit(f"{question}: gave {expected}, got {got}")
                print(f"Label Studio {VERSION}, {question}: {len(got)} annotations came back equal", flush=True)
            told = [x for x in log.read_text("utf-8").splitlines() if ("[ERROR]" in x or "[WARNING]" in x)]
            if ours := [x for x in told if not any(own in x for own in ITS_OWN)]:
                sys.exit("\n".join(["Its log warns:", *ours]))
        if given.keep:
            for question in ANSWERS:
                given.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(out / question / "export.json", given.keep / f"{question}.json")
                shutil.copy(out / question / "screen.png", given.keep / f"{question}.png")


if __name__ == "__main__":
    main()
