"""A static site of the executed notebooks, to be opened from disk: `python -m lib.desk.site --size SIZE`.

nbconvert turns the notebooks into HTML. Pages that would run or fetch something, have a broken link, or show an image
without alternative text are refused.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Mapping
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from lib.desk import gallery, readme
from lib.desk.fence import fence
from lib.ground.paths import ROOT, reports
from lib.ground.sizes import SIZES

HERE = Path(__file__).parent
SHOWN = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain")


def build(size: str, notebooks: Path = ROOT / "notebooks") -> Path:
    """The site's first page; raises ValueError if no notebook was executed, or if a page has a fault."""
    done = {p.stem: p for p in sorted((reports(size) / "notebooks").glob("[0-9]*.ipynb")) if p.stem.count(".") == 0}
    known = sorted(p.stem for p in notebooks.glob("[0-9]*.ipynb"))
    done = {stem: done[stem] for stem in known if stem in done}
    if not done:
        raise ValueError(f"no executed notebook of size {size}: run `make reproduce SIZE={size}` first")
    new = reports(size) / "site.partial"
    shutil.rmtree(new, ignore_errors=True)
    (new / "figures").mkdir(parents=True)
    books = {stem: gallery.tidied(nbformat.read(path, as_version=4)) for stem, path in done.items()}
    titles = {stem: book.cells[0].source.splitlines()[0].lstrip("# ") for stem, book in books.items()}
    rules = dict(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = Environment(loader=FileSystemLoader(HERE), **rules).get_template("site.html.j2")
    shared = {"size": size, "titles": titles}
    order = list(done)
    for i, stem in enumerate(order):
        around = {"before": order[i - 1] if i else None, "after": order[i + 1] if i + 1 < len(order) else None}
        html = template.render(shared | around | {"here": stem, "title": titles[stem], "body": body(books[stem], titles)})
        (new / f"{stem}.html").write_text(html, "utf-8")
    front = {"rows": front_rows(size, [notebooks / f"{stem}.ipynb" for stem in known], new)}
    front["claims"] = claims_table(size, titles)
    index = {"here": None, "title": "The study", "before": None, "after": order[0], "body": ""}
    (new / "index.html").write_text(template.render(shared | index | front), "utf-8")
    (new / "style.css").write_text((HERE / "site.css").read_text("utf-8") + code_colours(), "utf-8")
    if faults := [fault for page in sorted(new.glob("*.html")) for fault in faults_of(page)]:
        raise ValueError("the site has faults: " + "; ".join(faults[:5]))
    site = reports(size) / "site"
    shutil.rmtree(site, ignore_errors=True)
    new.rename(site)
    return site / "index.html"


# ---- a page ----------------------------------------------------------------------------------------------


def body(book, titles: Mapping[str, str]) -> str:
    """A notebook's cells as HTML: images with alternative texts, names of other notebooks as links."""
    section = ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            section = next((t.lstrip("# ") for t in cell.source.splitlines()[::-1] if t.startswith("#")), section)
        for output in cell.get("outputs", ()):
            for kind in [k for k in output.get("data", {}) if k.startswith("image/")]:
                output.metadata.setdefault(kind, {}).setdefault("alt", f"A picture in the section “{section}”")
    quiet = dict(exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True)
    shown = Config({"NbConvertBase": {"display_data_priority": list(SHOWN)}})
    html, _ = HTMLExporter(template_name="basic", config=shown, **quiet).from_notebook_node(book)

    def link(match):
        return f'<a href="{match[1]}.html">{match[0]}</a>' if match[1] in titles else match[0]

    html = re.sub(r'<img alt="No description has been provided for this image"', "<img", html)
    html = re.sub(r"<code>(\d\d_\w+)</code>", link, html)
    return html.replace('<table border="1" class="dataframe">', '<table class="dataframe">')


def code_colours() -> str:
    """Style sheet for code, for light and dark screens."""
    light, dark = (HtmlFormatter(style=s).get_style_defs(".highlight") for s in ("default", "github-dark"))
    dark = "\n".join(line for line in dark.splitlines() if line.startswith(".highlight ."))
    return f"\n{light}\n.highlight {{ background: none }}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


# ---- the first page --------------------------------------------------------------------------------------


def front_rows(size: str, notebooks: list[Path], folder: Path) -> list[dict]:
    """The gallery's rows; copies their figures to the site."""
    rows = gallery.entries(reports(size), notebooks)
    for name in (figure["name"] for row in rows for figure in row["figures"]):
        shutil.copy(reports(size) / "figures" / f"{name}.png", folder / "figures" / f"{name}.png")
    return rows


def claims_table(size: str, titles: Mapping[str, str]) -> str:
    """The claims as an HTML table with links to pages of the site; empty if there are no claims."""
    if not (reports(size) / "claims.json").exists():
        return ""

    def link(match):
        return f"]({match[1]}.html)" if match[1] in titles else "](index.html)"

    return str(markdown2html(re.sub(r"\]\(notebooks/(\w+)\.ipynb\)", link, readme.markdown(reports(size)))))


# ---- faults of a page ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page loads, links to and shows."""

    def __init__(self):
        super().__init__()
        self.loads, self.links, self.ids, self.mute = [], [], set(), 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.add(given.get("id"))
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif tag in ("link", "image", "use"):
            self.loads.append(given.get("href") or given.get("xlink:href") or "")
        self.loads += [given[k] for k in ("src", "poster", "data") if given.get(k)]
        self.loads += [part.split()[0] for part in (given.get("srcset") or "").split(",") if part.strip()]
        self.loads += ["script"] if tag == "script" else []
        self.mute += tag == "img" and not (given.get("alt") or "").strip()


def faults_of(path: Path) -> list[str]:
    """Faults of a page of a site: things fetched or missing, scripts, broken links, images without alternative text."""
    text = path.read_text("utf-8")
    page, faults = Page(), []
    page.feed(text)
    for target in page.loads:
        if target == "script" or re.match(r"(https?:)?//", target):
            faults.append(f"{path.name} runs or fetches {target[:60]}")
        elif not target.startswith("data:") and not (path.parent / unquote(target)).is_file():
            faults.append(f"{path.name} lacks {target[:60]}")
    for target in (t for t in page.links if not re.match(r"https?://|mailto:", t)):
        name, _, anchor = unquote(target).partition("#")
        if (name and not (path.parent / name).is_file()) or (not name and anchor not in page.ids):
            faults.append(f"{path.name} links to {target[:60]!r}, which is not there")
    if page.mute:
        faults.append(f"{path.name} has {page.mute} images without alternative text")
    if re.search(r"@import|url\(\s*['\"]?(https?:)?//", text):
        faults.append(f"{path.name} fetches a style from the network")
    return faults


def main(argv: list[str] | None = None) -> int:
    """`python -m lib.desk.site --size SIZE`: build the site and say where it is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--size", default="laptop", choices=SIZES)
    try:
        fence()  # the user's own templates would take precedence
        print(build(parser.parse_args(argv).size))
    except (OSError, ValueError) as error:
        print(f"site: {escape(str(error), quote=False)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
