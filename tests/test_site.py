"""The site opens from disk: every link leads somewhere, every picture has words, and nothing is fetched or run."""

import base64
import json
import re

import matplotlib.pyplot as plt
import nbformat
import pytest

from lib.desk import charts, claims, figures, gallery, site

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HEAD = '<img src="data:image/png;base64,AA" alt="a dot">'


def notebook(title, *cells):
    """An executed notebook of markdown (text) and code (lists of outputs)."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {title}\n\n**Question.** Does it cost?")])
    for cell in cells:
        if isinstance(cell, str):
            book.cells.append(nbformat.v4.new_markdown_cell(cell))
        else:
            book.cells.append(nbformat.v4.new_code_cell("draw()", outputs=cell))
    return book


def shown(data, **metadata):
    return nbformat.v4.new_output("display_data", data, metadata=metadata)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two executed notebooks, one that was not run, and a headline figure."""
    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path / "reports"))
    source, done = tmp_path / "notebooks", tmp_path / "reports" / "laptop" / "notebooks"
    source.mkdir()
    done.mkdir(parents=True)
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "half way"}
    first = notebook("05 Tuning", "## Before and after\n\nSee `06_trade` and `07_later`.", [
        shown({"image/png": DOT, "text/plain": "a figure"}), shown(widget),
        shown({"application/javascript": "alert(1)", "text/plain": "said instead"}),
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", name="stdout", text="\rimages:  12%|#  | 64/512\rimages: 100%|###| 512/512\n"),
        nbformat.v4.new_output("stream", name="stdout", text="update 50 of 360, loss 0.2\n\rimages: 9%|\nsaid plainly\n"),
    ])  # fmt: skip
    second = notebook("06 Trade", [shown({"image/png": DOT}, **{"image/png": {"alt": "Chart. base 40, tuned 50."}})])
    second.cells[1].source = 'figures.save(figure, "frontier", size)'
    for stem, book in {"05_tuning": first, "06_trade": second, "07_later": None}.items():
        nbformat.write(book or notebook("07 Later"), source / f"{stem}.ipynb")
        if book:
            nbformat.write(book, done / f"{stem}.ipynb")
    (done / "05_tuning.failed.ipynb").write_text("{}")
    (done.parent / "results").mkdir()
    (done.parent / "results" / "answer_06_trade.json").write_text(json.dumps({"rows": {"text": "It costs 9 %."}}))
    monkeypatch.setattr(gallery, "FIGURES", {"06_trade": {"frontier": "Gain against cost", "gone": "Not drawn"}})
    pictures = tmp_path / "reports" / "laptop" / "figures"
    pictures.mkdir()
    (pictures / "frontier.png").write_bytes(base64.b64decode(DOT))
    (pictures / "frontier.txt").write_text('Chart. "base" at 40 & more.\n')
    return tmp_path


def build(folders, size="laptop"):
    index = site.build(size, folders / "notebooks")
    return {p.name: p.read_text("utf-8") for p in index.parent.iterdir() if p.is_file()}


def test_a_page_a_notebook_and_a_first_page_without_any_fault(folders):
    pages = build(folders)
    assert set(pages) == {"index.html", "05_tuning.html", "06_trade.html", "style.css"}
    where = folders / "reports" / "laptop" / "site"
    assert [f for p in where.glob("*.html") for f in site.faults_of(p)] == []
    for name, text in pages.items():
        assert not re.search(r"<script|cdn|requirejs|mathjax", text, re.I), name
        assert not re.search(r"(src=|url\()[\"']?https?:", text), name
    assert not (folders / "reports" / "laptop" / "site.partial").exists()


def test_pages_lead_to_each_other_in_order_and_names_of_notebooks_are_links(folders):
    pages = build(folders)
    assert '<a href="06_trade.html" rel="next">' in pages["05_tuning.html"]
    assert '<a href="05_tuning.html" rel="prev">' in pages["06_trade.html"]
    assert '<a href="index.html" rel="prev">' in pages["05_tuning.html"]
    assert '<a href="06_trade.html"><code>06_trade</code></a>' in pages["05_tuning.html"]
    assert "<code>07_later</code>" in pages["05_tuning.html"] and "07_later.html" not in str(pages)
    assert "07 Later (not run at this size)" in pages["index.html"] and "No answer yet." in pages["index.html"]
    assert "<strong>Does it cost?</strong> It costs 9 %." in pages["index.html"]


def test_every_picture_has_words_from_its_figure_or_its_section(folders):
    pages = build(folders)
    assert 'alt="Chart. base 40, tuned 50."' in pages["06_trade.html"]
    assert 'alt="A picture in the section “Before and after”"' in pages["05_tuning.html"]
    assert 'alt="Chart. &#34;base&#34; at 40 &amp; more."' in pages["index.html"]
    anchor = re.search(r'<figcaption>Gain against cost \(<a href="06_trade.html#(cell-id=\w+)">', pages["index.html"])[1]
    assert f'id="{anchor}"' in pages["06_trade.html"] and "Not drawn" not in pages["index.html"]


def test_progress_bars_warnings_and_scripts_stay_out(folders):
    page = build(folders)["05_tuning.html"]
    assert "a warning" not in page and "alert(1)" not in page and "widget" not in page and "half way" not in page
    assert "said instead" in page and "said plainly" in page
    assert "512/512" not in page and "images:" not in page and "update 50" not in page


def executed(took, kernel):
    """A notebook as papermill leaves it on one machine or another."""
    book = notebook("05 Tuning", [
        shown({"text/markdown": f"**Answer**: 9 %.\n\n**Takes** (last run): {took} min", "text/plain": f"<at {kernel}>"}),
        nbformat.v4.new_output("stream", name="stderr", text=f"{took} s/it"),
    ], [nbformat.v4.new_output("execute_result", {"text/plain": "0.09"}, execution_count=took)],
       [nbformat.v4.new_output("stream", name="stdout", text=f"{took} images/s")])  # fmt: skip
    book.metadata |= {"papermill": {"duration": took}, "language_info": {"version": f"3.{took}"}}
    for i, cell in enumerate(book.cells):
        cell.id = f"cell-{i}"
        cell.metadata = {"papermill": {"start_time": kernel}, "tags": ["machine"] if i == 3 else []}
    given = nbformat.v4.new_code_cell(f"size = {took}", metadata={"tags": ["injected-parameters"]})
    book.cells.insert(1, given)
    return book


def test_what_is_committed_of_a_run_is_the_same_on_any_machine_and_on_any_day():
    runs = executed(12, "monday"), executed(7, "tuesday")
    one, other = (nbformat.writes(gallery.anywhere(gallery.tidied(book))) for book in runs)
    assert one == other and "9 %" in one and "0.09" in one and gallery.LEFT_OUT[:20] in one
    for word in ("Takes", "monday", "images/s", "s/it", "<at", "papermill", "size = 12", "3.12"):
        assert word not in one
    plain = nbformat.writes(gallery.tidied(executed(12, "monday")))
    assert "12 images/s" in plain and "12 min" in plain and "papermill" not in plain


def test_a_smoke_site_says_that_its_numbers_mean_nothing(folders):
    (folders / "reports" / "laptop").rename(folders / "reports" / "smoke")
    assert "mean nothing" in build(folders, "smoke")["index.html"]
    assert not (folders / "reports" / "laptop").exists()


def test_the_claims_stand_on_the_first_page(folders):
    rows, more = claims.judge_all("laptop")
    claims.write(rows, more, "laptop")
    index = build(folders)["index.html"]
    assert index.count("cannot be tested here") >= len(rows) and "<table" in index


def test_without_executed_notebooks_it_says_what_to_run(folders, capsys):
    assert site.main(["--size", "full"]) == 1 or "make reproduce" in capsys.readouterr().err
    with pytest.raises(ValueError, match="make reproduce SIZE=smoke"):
        site.build("smoke", folders / "notebooks")


@pytest.mark.parametrize(
    "html, why",
    [('<img src="https://x.org/a.png" alt="a">', "fetches"), ('<img src="//x.org/a.png" alt="a">', "fetches"),
     ('<link rel="stylesheet" href="http://x.org/a.css">', "fetches"), ("<script>1</script>", "script"),
     ('<img src="a.png" srcset="https://x.org/b.png 2x" alt="a">', "fetches"),
     ('<img src="gone.png" alt="a">', "lacks"), ('<a href="gone.html">x</a>', "links to"),
     ('<a href="#no">x</a>', "links to"),
     ('<img src="data:," >', "without alternative"), ('<img src="data:," alt=" ">', "without alternative"),
     ("<style>@import 'a.css'</style>", "style"), ('<p style="background: url(https://x.org/a.png)">', "style")],
)  # fmt: skip
def test_what_a_page_must_not_have_is_found(tmp_path, html, why):
    good = HEAD + '<h2 id="yes">x</h2><a href="#yes">y</a><a href="https://x.org">z</a><a href="page.html">p</a>'
    page = tmp_path / "page.html"
    page.write_text(good)
    assert site.faults_of(page) == []
    page.write_text(good + html)
    assert any(why in fault for fault in site.faults_of(page)), site.faults_of(page)


def test_a_faulty_page_is_refused_and_the_old_site_stays(folders):
    build(folders)
    broken = notebook("06 Trade", "![](https://x.org/a.png)")
    nbformat.write(broken, folders / "reports" / "laptop" / "notebooks" / "06_trade.ipynb")
    with pytest.raises(ValueError, match="06_trade.html"):
        build(folders)
    assert "Chart. base 40" in (folders / "reports" / "laptop" / "site" / "06_trade.html").read_text("utf-8")


# ---- words of a figure -----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A function that saves a figure and returns its words and what a notebook shows."""
    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path))

    def save(figure):
        data, metadata = figures.save(figure, "drawn", "laptop")._repr_mimebundle_()
        path = tmp_path / "laptop" / "figures" / "drawn.png"
        assert data["image/png"] == path.read_bytes() and metadata["image/png"]["alt"] == figures.alt(path)
        return figures.alt(path)

    return save


def test_a_chart_in_words_has_its_axis_and_each_named_value(saved):
    figure, axis = plt.subplots()
    charts.bars({"base": (0.4, 0.3, 0.5), "tuned": (0.512, 0.4, 0.6)}, axis, "good (%), 120 prompts", lines={"chance": 0.5})
    assert saved(figure) == "Chart. good (%), 120 prompts. Shown: base 40, tuned 51.2, chance."


def test_a_chart_of_two_axes_gives_both_values(saved):
    figure, axis = plt.subplots()
    axis.errorbar(118.9, 40, xerr=2, yerr=3, label="base")
    axis.set(xlabel="distance", ylabel="good (%)")
    assert saved(figure) == "Chart. good (%) against distance. Shown: base (119, 40)."


def test_a_contact_sheet_in_words_tells_its_rows_and_titles(saved):
    import numpy as np

    images = np.zeros((4, 8, 8, 3), np.uint8)
    words = saved(figures.sheet(images, 2, ["Two dogs", "Six dogs", "", ""], ["base", "full method"]))
    assert words == "4 pictures, rows: base; full method: Two dogs, Six dogs."


def test_the_claims_figure_tells_verdicts_by_shape_and_leaves_out_what_was_not_tested(saved):
    row = dict(value=0.5, low=0.4, high=0.6, n=120, seeds=1, paper_value=0.47, unit="%", verdict="reproduced", name="Votes",
               rule="value in 'votes' of (win): lower 95 % bound above 40 %")  # fmt: skip
    other = row | dict(name="Distance", unit="%change", verdict="not reproduced", paper_value=None, low=None, high=None)
    more = [row | dict(name=v.title(), verdict=v) for v in ("not resolved", "by construction")]
    figure = charts.claims([row, other, *more, row | dict(name="Later", value=None, verdict="cannot be tested here")])
    shown = [line for axis in figure.axes for line in axis.lines if len(line.get_xdata())]
    assert [sum(line.get_marker() == shape for line in shown) for shape in "osD^X"] == [1, 1, 1, 1, 3]
    hollow = {line.get_marker() for line in shown if line.get_markerfacecolor() == "white"}
    assert hollow == {"s", "D"}
    below = row | dict(unit="points", value=-0.2, low=-0.3, high=-0.1, paper_value=None)
    below |= dict(rule="x: upper 95 % bound below 0 points")
    assert charts.turned(below) and charts.turned(below | dict(rule="x: 95 % interval within 5 points of", paper_value=-0.1))
    assert not charts.turned(below | dict(unit="%")) and not charts.turned(row | dict(unit="points"))
    (drawn,) = [line.get_xdata() for line in charts.claims([below]).axes[1].lines if line.get_marker() == "o"][:1]
    assert drawn.tolist() == pytest.approx([20.0])
    words = saved(figure)
    assert "Votes (n = 120, seeds = 1) 50" in words and "Distance" in words and "Later" not in words
