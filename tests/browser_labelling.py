"""The labelling panel in JupyterLab, by keyboard, in headless Chromium (`make browser`): the store holds what was pressed.

What was pressed is noted from what the page shows, images by the digest of their pixels, and held against the store.
"""

import base64
import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import ABSENT, browser, chromium, jupyterlab, started, until
from PIL import Image

from lib.feedback.store import Store
from lib.images.sampling import image_digest

pytestmark = pytest.mark.skipif(not browser(), reason=ABSENT)

MARKUP = '<img src=x onerror="window.attacked = 1"> <b>dog</b>'
CELLS = {
    "setup": """import numpy as np
from lib.desk import labelling
from lib.feedback import tasks
from lib.images.sampling import ImageSet, image_digest
from lib.world.scenes import OBJECTS, Scene, render

def images(each, stream, texts=[f"{o} {i} < {i + 1} & 'é' → 🐶" for i, o in enumerate(OBJECTS[:10])]):
    rng, names = np.random.default_rng(len(stream)), [(p, k) for p in texts for k in range(each)]
    pixels = np.stack([render(Scene(1 + k, None, OBJECTS[texts.index(p)], "moon"), rng) for p, k in names])
    return ImageSet(pixels, stream, [p for p, _ in names], [k for _, k in names], [image_digest(x) for x in pixels])""",
    "label": 'labelling.panel("answers.sqlite", "reader-1", tasks.to_label(images(3, "base"), 0), again=0)',
    "second rater": 'labelling.panel("answers.sqlite", "reader-2", tasks.to_label(images(3, "base"), 0))',
    "compare": 'labelling.panel("answers.sqlite", "reader-1", tasks.to_compare(images(4, "base"), images(4, "tuned"), 0))',
    "choose": 'labelling.panel("answers.sqlite", "reader-1", tasks.to_choose(images(4, "base"), 0))',
    "markup": f'labelling.panel("answers.sqlite", "reader-3", tasks.to_label(images(1, "base", [{MARKUP!r}]), 0))',
}
OPEN = """(async () => {
  const panel = await jupyterapp.commands.execute('docmanager:open', {path: 'labels.ipynb', factory: 'Notebook'});
  await panel.context.ready;
  await panel.sessionContext.ready;
  Object.assign(window, {notebook: panel.content, context: panel.context, kernel: panel.sessionContext});
})()"""
# What the panel below the active cell shows; `current` is the image that a key is about.
SHOWN = """(() => {
  const root = notebook.activeCell.node.querySelector('.labelling');
  const groups = root && [...root.querySelectorAll('.group')];
  const text = name => root.querySelector(name).textContent;
  return root && {
    prompt: text('.prompt'), asked: text('.asked'), facts: text('.facts'), said: text('.said'), aloud: text('.aloud'),
    captions: groups.map(g => g.getAttribute('aria-label')),
    current: groups.findIndex(g => g.getAttribute('aria-current')),
    focused: root.contains(document.activeElement),
    groups: groups.map(g => [...g.querySelectorAll('img')].map(i => i.src)),
  };
})()"""
KEYS = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}
ASKED = {"all that the prompt says": "good", "better what": "alignment", "looks better": "fidelity", "is best": "best"}
WORDS = {"g": "good", "b": "bad", "s": "skip", "t": "tie"}


class Lab:
    """A notebook in JupyterLab operated by keyboard, and what was pressed: question, prompt, images shown, and answer."""

    def __init__(self, page, folder: Path):
        self.page, self.store, self.pressed = page, folder / "answers.sqlite", []

    def select(self, cell: str) -> None:
        self.page.run(f"notebook.activeCellIndex = {list(CELLS).index(cell)}; notebook.mode = 'command'")
        self.page.run("notebook.activate()")

    def run(self, cell: str) -> dict | None:
        """Run a cell; go to its panel by Tab."""
        self.select(cell)
        self.page.run("jupyterapp.commands.execute('notebook:run-cell')")
        return self.enter(cell) if cell != "setup" else None

    def enter(self, cell: str) -> dict:
        """Go to the panel below a cell by Tab; what it shows."""
        self.select(cell)
        until(lambda: (self.shown() or {}).get("facts"), 60, f"the panel of {cell!r}")
        for _ in range(5):
            if (shown := self.shown())["focused"]:
                return shown
            self.key("Tab")
        raise AssertionError("no Tab reaches the panel")

    def reload(self) -> None:
        """Load the page again, and open the notebook as it was saved."""
        self.page.run("window.left = true")
        self.page.call("Page.reload")
        until(lambda: self.page.run("window.left === undefined"), 60, "the page to load again")
        started(self.page)
        self.page.run(OPEN)

    def shown(self) -> dict | None:
        return self.page.run(SHOWN)

    def key(self, name: str, held: bool = False) -> None:
        """Press a key, or say that it is still `held` down since then."""
        code = KEYS.get(name) or ord(name.upper())
        told = {"key": name, "windowsVirtualKeyCode": code}
        text = {"text": {"Enter": "\r"}.get(name, name)} if name not in ("Tab", "ArrowLeft", "ArrowRight") else {}
        self.page.call("Input.dispatchKeyEvent", type="keyDown", autoRepeat=held, **told, **text)
        if not held:
            self.page.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def press(self, key: str) -> dict:
        """Press a key, note its answer, and wait until the panel shows that it is kept; what it shows then."""
        before = self.shown()
        assert before["focused"], "the panel has lost the keyboard"
        self.key(key)
        if key == "u":
            self.pressed.pop()
        else:
            self.pressed.append(answer(before, key))
        return self.changed(before, {"u": "Undone."}.get(key, "Saved."))

    def changed(self, before: dict, said: str) -> dict:
        after = until(lambda: (s := self.shown())["facts"] != before["facts"] and s, 30, f"{before['facts']!r} to change")
        assert after["said"] == said
        return after

    def held(self, rater: str = "reader-1") -> list[tuple]:
        """What the store holds, in the words of `answer`."""
        with Store.open(self.store) as store:
            return [in_words(row) for row in store.rows(rater=rater).itertuples()]


def answer(shown: dict, key: str) -> tuple:
    """What a key says about what is shown: the question, prompt, all images, and the images chosen or a word."""
    (question,) = [q for words, q in ASKED.items() if words in shown["asked"]]
    groups = [[digest(source) for source in group] for group in shown["groups"]]
    images = groups[shown["current"]] if question == "good" else [d for group in groups for d in group]
    return question, shown["prompt"], sorted(images), WORDS.get(key) or sorted(groups[int(key) - 1])


def in_words(row) -> tuple:
    """A row of the store in the form of `answer`."""
    half = len(row.images) // 2
    chosen = {"A": row.images[:half], "B": row.images[half:]} | {str(i): [d] for i, d in enumerate(row.images)}
    said = sorted(chosen[row.value]) if row.value in chosen else row.value
    return row.question, row.prompt, sorted(row.images), said


def digest(source: str) -> str:
    return image_digest(np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "labels.ipynb")
    with chromium(folder.parent / "profile") as page, jupyterlab(page, folder):
        page.call("Emulation.setDeviceMetricsOverride", width=1300, height=1000, deviceScaleFactor=1, mobile=False)
        page.run(OPEN)
        opened = Lab(page, folder)
        opened.run("setup")
        yield opened


@pytest.fixture(autouse=True)
def nothing_pressed(lab):
    lab.pressed.clear()


def test_thirty_labels_with_an_undo_a_reload_and_a_restart(lab):
    shown = lab.run("label")
    assert shown["facts"] == "0 of 30 answered by reader-1"
    assert shown["captions"] == ["Image 1", "Image 2", "Image 3"] and shown["current"] == 0
    for key in "gbsgbbgggb":
        shown = lab.press(key)
    assert shown["captions"][0] == "Image 1: ✗ bad" and shown["aloud"] == f"Saved. Image 2 of 3: {shown['prompt']}."
    lab.press("u")
    for key in "sgbgb":
        lab.press(key)

    lab.page.run("context.save()")
    lab.reload()
    shown = lab.enter("label")
    assert shown["facts"].startswith("14 of 30")
    for key in "ggbus":
        shown = lab.press(key)
    assert shown["facts"].startswith("17 of 30")

    lab.page.run("kernel.restartKernel()")
    before = shown
    lab.key("g")  # nobody hears it: it is not shown as given, and is not kept
    until(lambda: "No reply from the kernel" in lab.shown()["said"], 30, "the panel to notice")
    assert lab.shown()["captions"] == before["captions"]
    lab.run("setup")
    shown = lab.run("label")
    assert shown["facts"].startswith("17 of 30")
    for key in "gbgbgbgbgbgbg":
        shown = lab.press(key)
    assert shown["prompt"] == "All is answered. Thank you." and shown["facts"].startswith("30 of 30")
    assert len(lab.pressed) == 30 and lab.held() == lab.pressed


def test_a_second_rater_starts_from_nothing_in_another_order(lab):
    shown = lab.run("second rater")
    assert shown["facts"].startswith("0 of 33 answered by reader-2")
    for key in "bbb":
        lab.press(key)
    assert lab.held("reader-2") == lab.pressed and len(lab.held("reader-1")) >= 30
    assert [one[1] for one in lab.held("reader-2")] != [one[1] for one in lab.held("reader-1")[:3]]


def test_a_comparison_and_the_best_of_four(lab):
    start = len(lab.held())
    lab.run("compare")
    for key in "12t21t2":
        shown = lab.press(key)
    assert "whatever the prompt says" in shown["asked"]  # alignment is answered, fidelity is open
    lab.press("u")
    lab.press("1")
    lab.run("choose")
    for key in "1432s":
        lab.press(key)
    assert len(lab.pressed) == 12 and lab.held()[start:] == lab.pressed


def test_a_key_held_down_is_one_press_and_other_keys_do_nothing_to_the_notebook(lab):
    lab.run("second rater")
    cells = lab.page.run("notebook.widgets.length")
    lab.press("g")
    for _ in range(5):
        lab.key("g", held=True)
        lab.page.run("new Promise(done => setTimeout(() => done(true), 200))")
    for key in "xddazc5":  # to JupyterLab: cut, delete, insert, undo, copy, heading
        lab.key(key)
    lab.press("b")
    assert lab.held("reader-2")[-2:] == lab.pressed and lab.page.run("notebook.widgets.length") == cells


def test_arrows_turn_to_an_image_whose_answer_the_next_key_corrects(lab):
    shown = lab.run("second rater")
    while shown["current"] != 1 or len(shown["captions"]) < 3:
        shown = lab.press("g")
    lab.key("ArrowLeft")
    before = until(lambda: (s := lab.shown())["current"] == 0 and s, 10, "the first image")
    lab.key("b")
    until(lambda: lab.shown()["captions"][0] == "Image 1: ✗ bad", 30, "the correction")
    assert lab.held("reader-2")[-1] == answer(before, "b")
    assert len(lab.held("reader-2")) == int(before["facts"].split()[0])


def test_buttons_work_by_tab_and_enter_and_keep_the_keyboards_place(lab):
    lab.run("second rater")
    for _ in range(2):
        before = lab.shown()
        focus = "document.activeElement.getAttribute('aria-label')"
        want = f"Skip, image {before['current'] + 1}"
        for _ in range(12):
            if lab.page.run(focus) == want:
                break
            lab.key("Tab")
        assert lab.page.run(focus) == want
        lab.key("Enter")
        after = lab.changed(before, "Saved.")
        assert lab.page.run(focus) == f"Skip, image {after['current'] + 1}"
        assert lab.held("reader-2")[-1] == answer(before, "s")


def test_a_prompt_is_shown_as_text_and_one_with_markup_is_not_kept(lab):
    shown = lab.run("markup")
    assert shown["prompt"] == MARKUP and lab.page.run("window.attacked") is None
    lab.key("g")
    until(lambda: "Not saved: " in lab.shown()["said"], 30, "the refusal")
    assert lab.held("reader-3") == []


def test_the_panel_says_nothing_on_the_console(lab):
    errors = [m for m in lab.page.messages if "abelling" in json.dumps(m) and "error" in json.dumps(m).lower()]
    assert errors == []
