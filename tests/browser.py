"""What only a browser shows, in headless Chromium: `make browser`.

JupyterLab opens a copy of notebook 04, one literal of it is edited there, and it runs from top to bottom at size smoke; then
each page of the site loads with nothing on its console. Chromium must be on the PATH (Debian: `apt install chromium`).
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import websocket

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "04_reward_ablations.ipynb"
ABSENT = "Chromium is not on the PATH: install it, on Debian with `apt install chromium`"
EDITS = {'size = "laptop"': 'size = "smoke"', "flipped = 0.2": "flipped = 0.3"}
OPEN = """(async () => {
  const panel = await jupyterapp.commands.execute('docmanager:open', {path: %s, factory: 'Notebook'});
  await panel.context.ready;
  await panel.sessionContext.ready;
  window.notebook = panel.content;
  const cell = notebook.widgets.find(c => c.model.sharedModel.getSource().startsWith('size ='));
  let text = cell.model.sharedModel.getSource();
  for (const [from, to] of Object.entries(%s)) {
    if (!text.includes(from)) throw new Error('the parameters cell has no ' + from);
    text = text.replace(from, to);
  }
  cell.model.sharedModel.setSource(text);
  window.finished = false;
  jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.finished = true; });
})()"""
STATE = """(() => {
  const cells = notebook.widgets.filter(c => c.model.type === 'code').map(c => c.model);
  const outputs = cells.flatMap(c => Array.from({length: c.outputs.length}, (_, i) => c.outputs.get(i).toJSON()));
  const failed = outputs.filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue);
  return {finished, cells: cells.length, run: cells.filter(c => c.executionCount !== null).length, failed};
})()"""


class Page:
    """A page of Chromium, spoken to over its DevTools protocol; `messages` are what its console got."""

    def __init__(self, address: str):
        self.socket = websocket.create_connection(address, timeout=120, suppress_origin=True)
        self.sent, self.messages = 0, []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                self.messages.append(answer["params"])
            if answer.get("id") == self.sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def run(self, script: str):
        """The value of a JavaScript expression; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"].get("exception", found["exceptionDetails"]))[:500])
        return found["result"].get("value")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        until(lambda: self.run("document.readyState") == "complete", 60, f"{address} to load")


def until(done: Callable[[], object], seconds: float, what: str):
    """What `done` returns once that is true; raises TimeoutError that says what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := done():
                return found
        time.sleep(0.5)
    raise TimeoutError(f"waited {seconds:.0f} s for {what}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], **options) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # JupyterLab, when a thread of it waits for the network
            process.kill()
            process.wait()


def browser() -> str | None:
    """The path of Chromium, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """An empty page of a headless Chromium that keeps its profile in `folder`."""
    if not (program := browser()):
        sys.exit(ABSENT)
    port = free_port()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--remote-debugging-port={port}", f"--user-data-dir={folder}"]
    with running([program, *flags, "about:blank"]):

        def first() -> str | None:
            pages = json.load(urlopen(f"http://127.0.0.1:{port}/json/list"))
            return next((p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page"), None)

        page = Page(until(first, 60, "Chromium to start"))
        with contextlib.closing(page.socket):
            yield page


@contextlib.contextmanager
def jupyterlab(page: Page, folder: Path) -> Iterator[None]:
    """JupyterLab on a folder, with settings of its own beside it, opened on the page."""
    port, token = free_port(), secrets.token_hex()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url="]  # fmt: skip
    own = {f"JUPYTER_{kind}_DIR": str(folder.parent / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}  # not the user's
    with running(command, env=os.environ | own | {"PYTHONPATH": str(ROOT)}):
        until(lambda: urlopen(f"http://127.0.0.1:{port}/api").status == 200, 180, "JupyterLab to start")
        page.open(f"http://127.0.0.1:{port}/lab?token={token}")
        started(page)
        yield


def started(page: Page) -> None:
    """Wait for JupyterLab on the page, which loads itself again on the way: no promise is waited for."""
    until(lambda: page.run("typeof jupyterapp !== 'undefined' && (jupyterapp.started.then(() => window.begun = true), "
                           "window.begun === true)"), 120, "the page")  # fmt: skip


def run_in_jupyterlab(page: Page, folder: Path) -> None:
    """Open a copy of the notebook in JupyterLab, edit it, run all of it; raises RuntimeError if a cell fails."""
    shutil.copy(ROOT / "notebooks" / NOTEBOOK, folder)
    with jupyterlab(page, folder):
        page.run(OPEN % (json.dumps(NOTEBOOK), json.dumps(EDITS)))

        def over() -> dict | None:
            state = page.run(STATE)
            return state if state["finished"] or state["failed"] else None

        state = until(over, 900, f"{NOTEBOOK} to run")
    if state["failed"] or state["run"] != state["cells"]:
        raise RuntimeError(f"{NOTEBOOK}: {state['run']} of {state['cells']} cells ran; {'; '.join(state['failed'])}")
    print(f"{NOTEBOOK} in JupyterLab, after {', '.join(EDITS.values())}: all {state['cells']} code cells ran")


def load_site(page: Page) -> None:
    """Load each page of the site; raises RuntimeError with the first message on a console."""
    pages = sorted((ROOT / "reports" / "yours").glob("*/site/*.html"))
    if not pages:
        raise RuntimeError("there is no site in reports/yours: run `make report` first")
    for path in pages:
        page.messages.clear()
        page.open(path.as_uri())
        page.run("new Promise(done => setTimeout(() => done(true), 200))")
        if page.messages:
            raise RuntimeError(f"{path.name} on its console: {json.dumps(page.messages[0])[:300]}")
    print(f"the site: {len(pages)} pages loaded, nothing on their consoles")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        notebooks, profile = Path(name) / "notebooks", Path(name) / "profile"
        notebooks.mkdir()
        with chromium(profile) as opened:
            load_site(opened)
            run_in_jupyterlab(opened, notebooks)
