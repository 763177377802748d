"""What made a result is known by its code, not by how that is laid out."""

import pytest

from lib.ground import source
from lib.ground.cache import digest_of
from lib.study.lee import LeeStudy

SOURCES = {
    "lib.a": "from lib import b\nimport lib.ground.paths\ndef f():\n    '''Doc.'''\n    return b.x",
    "lib.b": "from .c import y\nx = 1",
    "lib.c": "y = 2",
    "lib.lonely": "z = 3",
    "lib.ground.paths": "ROOT = 1",
}


def test_comments_docstrings_and_layout_are_not_code():
    said = "def f(a):\n    'Doc.'\n    return a  # a comment"
    assert source.code_digest(said) == source.code_digest("def f(a): return a")
    assert source.code_digest("x = 'Doc.'") != source.code_digest("x = 'Cod.'")
    assert source.code_digest("x = 1.0") != source.code_digest("x = 1")


@pytest.mark.parametrize("changed, counts", [("a", 1), ("b", 1), ("c", 1), ("lonely", 0), ("ground.paths", 0)])
def test_the_source_of_a_stage_is_its_module_and_what_that_imports(changed, counts):
    edited = SOURCES | {f"lib.{changed}": SOURCES[f"lib.{changed}"] + "\nw = 9"}
    differs = source.source_fingerprint("lib.a", edited) != source.source_fingerprint("lib.a", SOURCES)
    assert differs == bool(counts)


def test_this_studys_own_modules_are_known_and_their_plumbing_is_left_out():
    assert {"lib.ground.cache", "lib.ground.paths"} <= set(source.SOURCES)
    assert source.source_fingerprint("lib.ground.cache") == digest_of({})


GLUE = """
LIMIT = 3
class Study:
    def load(self): return lambda: self.part(LIMIT)
    def part(self, n): return n
    def lonely(self): return 0
"""


@pytest.mark.parametrize(
    "was, becomes, counts",
    [("return n", "return n + 1", True), ("LIMIT = 3", "LIMIT = 4", True),
     ("lambda: self.part", "lambda: 2 * self.part", True), ("return 0", "return 1", False),
     ("return n", "return n  # as it is", False)],
)  # fmt: skip
def test_a_function_is_known_by_itself_and_what_it_names_in_its_module(was, becomes, counts, monkeypatch):
    def fingerprint(text):
        monkeypatch.setattr(source, "text_of", lambda module: text)
        source._function_fingerprint.cache_clear()
        return source._function_fingerprint("a module", "load")

    assert (fingerprint(GLUE.replace(was, becomes)) != fingerprint(GLUE)) == counts
    source._function_fingerprint.cache_clear()


def test_methods_partials_and_inner_functions_are_known_by_the_method_that_they_are_written_in():
    a, b = LeeStudy("smoke"), LeeStudy("laptop")
    assert source.function_fingerprint(a.generator()) == source.function_fingerprint(b.generator())
    assert source.function_fingerprint(a.real_pairs) == source.function_fingerprint(LeeStudy.real_pairs)
    assert source.function_fingerprint(a.real_pairs) != source.function_fingerprint(a.drawn_pairs)


def test_the_libraries_that_compute_and_draw_are_known_by_their_versions(monkeypatch):
    names = (*source.COMPUTING, *source.DRAWING)
    source.versions.cache_clear()
    found = source.versions(names)
    assert set(found) == {"python", *names} and all(found.values())
    monkeypatch.setattr(source, "version", lambda name: "0" if name == "numpy" else found[name])
    source.versions.cache_clear()
    assert {name for name in names if source.versions(names)[name] != found[name]} == {"numpy"}
    source.versions.cache_clear()
