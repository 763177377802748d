"""Every claim's verdict is that of its numbers' intervals, and flips when they do."""

import json
import re

import pytest

from lib.desk import claims, readme, report
from lib.ground.paths import ROOT

PAPER, TABLE = claims.load()
TESTED = [c for c in TABLE if "parts" in c]
every_rule = pytest.mark.parametrize("claim", TESTED, ids=lambda c: c["name"])


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path))
    return tmp_path


def columns(part):
    """Names of a part's value and bounds."""
    value = part.get("value", "value")
    return value, *(part.get("bounds") or (("low", "high") if value == "value" else (f"{value}_low", f"{value}_high")))


def row_of(part, value, half=0.005):
    """A result's row for the part, with an interval that reaches so far about the value."""
    where = {k: v[0] if isinstance(v, list) else v for k, v in part["row"].items()}
    return where | dict(zip(columns(part), (value, value - half, value + half), strict=True)) | {"prompts": 120}


def row_for(part, good):
    """A row on which the part's test holds, or (not `good`) on which it fails."""
    side = 0.05 if good else -0.05
    if {"above", "below"} <= set(part):
        return row_of(part, (part["above"] + part["below"]) / 2 if good else part["below"] + 0.05)
    if "above" in part or "below" in part:
        return row_of(part, part["above"] + side if "above" in part else part["below"] - side)
    target, margin = part["near"] if "near" in part else (part["equals"], 0)
    return row_of(part, target if good else target + 1.5 * margin + 1)


def reader(parts, wrong=None):
    """A reader of made-up results on which every part holds but the one of number `wrong`."""
    results = {}
    for i, part in enumerate(parts):
        results.setdefault(part["of"], []).append(row_for(part, good=i != wrong))
    return lambda of: results.get(of, [])


# ---- the table -------------------------------------------------------------------------------------------


def test_the_table_has_the_papers_claims_each_with_a_rule_or_a_reason():
    assert PAPER == "Lee et al. 2023" and len(TABLE) >= 25 and len(TESTED) >= 22
    told = " ".join(c["at"] for c in TABLE)
    for place in ("Table 1", "Table 2", "Table 3", "Table 5", "Table 6", "Table 7", "Figure 3", "Figure 4", "Figure 6"):
        assert place in told


def test_wu_et_al_have_claims_of_their_own_from_each_of_their_tables():
    theirs = [c for c in TABLE if c.get("paper") == "Wu et al. 2023"]
    assert len(theirs) >= 8 and {c["notebook"][:2] for c in theirs} == {"08", "09"}
    assert {"Wu et al., Table 2", "Wu et al., Table 3", "Wu et al., Table 4"} <= {c["at"] for c in theirs}
    assert {r["paper"] for r in claims.judge_all("laptop")[0]} == {PAPER, "Wu et al. 2023"}


def test_every_claim_names_a_notebook_with_a_number_and_a_figure():
    for claim in TABLE:
        assert claim["notebook"][:2].isdigit() and claim["figure"].isidentifier(), claim["name"]
        found = [p.stem for p in (ROOT / "notebooks").glob(f"{claim['notebook'][:2]}_*.ipynb")]
        assert found in ([], [claim["notebook"]]), "the notebook has another name"


@pytest.mark.parametrize(
    "change, why",
    [({"ruel": 1}, "unknown keys: ruel"), ({"unit": "kg"}, "unit"), ({"reason": "x"}, "not both"),
     ({"parts": [{"of": "t", "row": {}}]}, "exactly one test"),
     ({"parts": [{"of": "t", "row": {}, "above": 0, "near": [0, 1]}]}, "exactly one test"),
     ({"parts": [{"of": "t", "row": {}, "above": 0, "less": {"model": "base"}}]}, "unknown keys in a part: less"),
     ({"parts": [{"of": "t", "row": {}, "at_least": 0}]}, "unknown keys in a part: at_least")],
)  # fmt: skip
def test_a_claim_that_is_not_whole_is_refused(change, why):
    parts = [{"of": "t", "row": {}, "above": 0}]
    whole = dict(name="n", at="a", claim="c", notebook="05_x", figure="f", unit="%", parts=parts)
    claims.checked(whole)
    with pytest.raises(ValueError, match=why):
        claims.checked(whole | change)


def test_what_was_changed_after_which_number_is_a_table_that_the_readme_leads_to():
    """Whole rows, each with the commit of its change; the head of the rules says since when they are fixed."""
    text = (ROOT / "data" / "README.md").read_text("utf-8").split("## What was changed after which number was seen\n")[1]
    head, _, *rows = [[c.strip() for c in x.strip("|").split("|")] for x in text.splitlines() if x.startswith("|")]
    assert head == ["change", "number seen", "when", "effect"] and len(rows) >= 10
    assert all(len(row) == 4 and all(row) and re.search("`[0-9a-f]{7}`", row[2]) for row in rows)
    assert "data/README.md#what-was-changed-after-which-number-was-seen" in (ROOT / "README.md").read_text("utf-8")
    assert "From the confirmatory run on" in (ROOT / "data" / "claims.toml").read_text("utf-8").split("[[claim]]")[0]


# ---- rules -----------------------------------------------------------------------------------------------


def test_a_claim_of_the_paper_without_its_why_is_not_by_construction():
    by_construction = [c["name"] for c in TABLE if "by_construction" in c]
    assert by_construction == ["Images a category", "Base model's error profile", "HPS: people's guess"]
    with pytest.raises(ValueError, match="needs parts that show it"):
        claims.checked(dict(name="n", at="a", claim="c", notebook="05_x", figure="f", reason="r", by_construction="b"))


def test_two_models_are_never_compared_by_two_rows():
    """A paired result has one row for a difference: it names both sides, or is called a gain or a difference."""
    one_sided = ("table2", "images", "choice_accuracy", "styles", "gain_seen_unseen", "gain_by_category", "reward_accuracy",
                 "reward_ablations", "chosen_rejected_differences")  # fmt: skip
    for claim in TESTED:
        for part in claim["parts"]:
            both = ({"a", "b"}, {"model", "against"})
            assert any(sides <= set(part["row"]) for sides in both) or part["of"] in one_sided, claim["name"]
    assert {c["parts"][0]["value"] for c in TESTED if c["name"].startswith("Reward beats CLIP")} == {"gain"}


@every_rule
def test_a_claim_is_reproduced_when_every_part_holds(claim):
    verdict, parts, reason = claims.judged(claim, reader(claim["parts"]))
    why = claim.get("by_construction", "")
    assert (verdict, reason) == ("by construction" if why else "reproduced", why), [p.reason or p.state for p in parts]
    assert len(parts) == len(claim["parts"]) and parts[0].n == 120


@every_rule
def test_one_part_with_its_numbers_turned_round_flips_the_verdict(claim):
    for wrong in range(len(claim["parts"])):
        verdict, parts, reason = claims.judged(claim, reader(claim["parts"], wrong))
        assert [p.state for p in parts] == ["fails" if i == wrong else "holds" for i in range(len(parts))]
        if "by_construction" in claim:
            assert verdict == "by construction" and reason.endswith("but it is not shown to hold here")
        else:
            assert verdict == "not reproduced" and reason == "the rule fails"


@every_rule
def test_an_interval_that_reaches_everywhere_resolves_nothing(claim):
    """However well the value fits; what is counted needs no interval."""
    rows = {i: row_of(part, row_for(part, good=True)[columns(part)[0]], half=10) for i, part in enumerate(claim["parts"])}
    results = {}
    for part, row in zip(claim["parts"], rows.values(), strict=True):
        results.setdefault(part["of"], []).append(row)
    verdict, parts, _ = claims.judged(claim, lambda of: results[of])
    counted = {"equals" in part for part in claim["parts"]} == {True}
    assert {p.state for p in parts} == {"holds" if counted else "not resolved"}
    assert verdict == ("by construction" if "by_construction" in claim else "not resolved")


@every_rule
def test_one_part_without_its_row_cannot_be_tested(claim):
    for gone in claim["parts"]:
        verdict, _, reason = claims.judged(claim, reader([p for p in claim["parts"] if p is not gone]))
        assert verdict == "cannot be tested here" and gone["of"] in reason


def state(part, *numbers):
    return claims.state_of({"of": "t", "row": {}} | part, *numbers)


@pytest.mark.parametrize(
    "part, numbers, expected",
    [({"above": 0}, (0.1, 0.01, 0.2), "holds"), ({"above": 0}, (0.1, -0.01, 0.2), "not resolved"),
     ({"above": 0}, (-0.1, -0.2, -0.01), "fails"), ({"above": 0}, (0.0, 0.0, 0.0), "fails"),
     ({"above": 0.4}, (0.45, 0.39, 0.51), "not resolved"),
     ({"below": 0}, (-0.1, -0.2, -0.01), "holds"), ({"below": 0}, (-0.1, -0.2, 0.01), "not resolved"),
     ({"below": 0}, (0.1, 0.01, 0.2), "fails"),
     ({"above": -0.2, "below": 0}, (-0.1, -0.19, -0.01), "holds"), ({"above": -0.2, "below": 0}, (0.0, 0.0, 0.0), "fails"),
     ({"above": -0.2, "below": 0}, (-0.1, -0.21, -0.01), "not resolved"),
     ({"above": -0.2, "below": 0}, (-0.1, -0.19, 0.01), "not resolved"),
     ({"above": -0.2, "below": 0}, (-0.5, -0.6, -0.3), "fails"),
     ({"near": [0.34, 0.1]}, (0.4, 0.35, 0.44), "holds"), ({"near": [0.34, 0.1]}, (0.4, 0.35, 0.45), "not resolved"),
     ({"near": [0.34, 0.1]}, (0.3, 0.24, 0.35), "holds"), ({"near": [0.34, 0.1]}, (0.3, 0.23, 0.35), "not resolved"),
     ({"near": [0.34, 0.1]}, (0.34, 0.2, 0.5), "not resolved"), ({"near": [0.34, 0.1]}, (0.5, 0.43, 0.57), "not resolved"),
     ({"near": [0.34, 0.1]}, (0.5, 0.45, 0.55), "fails"), ({"near": [0.34, 0.1]}, (0.2, 0.15, 0.23), "fails"),
     ({"equals": 6480}, (6480, None, None), "holds"), ({"equals": 6480}, (6481, None, None), "fails")],
)  # fmt: skip
def test_a_rule_speaks_of_the_bound_that_it_names(part, numbers, expected):
    assert state(part, *numbers) == expected


@pytest.mark.parametrize("part", [{"above": 0}, {"below": 1}, {"near": [0.3, 1]}])
def test_a_rule_about_a_sample_needs_its_interval(part):
    for bounds in ((None, None), (None, 0.4), (0.2, None)):
        with pytest.raises(claims.Missing, match="no interval"):
            state(part, 0.3, *bounds)


def test_one_failing_part_outweighs_one_that_is_open():
    parts = [{"of": "t", "row": {"k": k}, "above": 0} for k in "abc"]
    rows = {"a": (0.1, 0.05, 0.2), "b": (0.1, -0.1, 0.2), "c": (-0.1, -0.2, -0.05)}

    def verdict(kinds):
        found = [{"k": k} | dict(zip(("value", "low", "high"), rows[k], strict=True)) for k in kinds]
        return claims.judged({"parts": [p for p in parts if p["row"]["k"] in kinds]}, lambda of: found)[0]

    assert (verdict("a"), verdict("ab"), verdict("abc")) == ("reproduced", "not resolved", "not reproduced")


def test_a_rule_in_words_says_what_its_interval_must_do():
    part = {"of": "votes", "row": {"a": "full method", "b": "base"}}
    up, down = "lower 95 % bound above", "upper 95 % bound below"
    for test, words in (({"above": 0}, f"{up} 0 points"), ({"below": 0.1}, f"{down} +10 points"),
                        ({"above": -0.2, "below": 0}, f"{up} -20 points and {down} 0 points"),
                        ({"near": [0.03, 0.1]}, "95 % interval within 10 points of +3 points")):  # fmt: skip
        assert claims.in_words(part | test, "points") == ("value in 'votes' of", "full method, base", words)
    assert claims.in_words(part | {"equals": 6480}, "images")[2] == "exactly 6,480 images"


def test_verdicts_by_construction_are_not_counted_with_those_that_numbers_decide():
    verdicts = ["reproduced"] * 3 + ["not resolved"] + ["by construction"] * 2 + ["cannot be tested here"]
    text = claims.counted(verdicts)
    assert text == ("of 4 claims that numbers can decide: 3 reproduced, 0 not reproduced, 1 not resolved; "
                    "in addition, 2 by construction, 1 cannot be tested here")  # fmt: skip


def test_the_papers_own_votes_reproduce_its_claims_and_swapped_sides_do_not():
    claim = next(c for c in TABLE if c["name"] == "Alignment votes won")

    def votes(win, lose):
        shared = {"a": "full method", "b": "base", "question": "alignment"}
        return lambda of: [shared | {"outcome": k, "value": v, "low": v - 0.02, "high": v + 0.02, "prompts": 120}
                           for k, v in (("win", win), ("lose", lose))]  # fmt: skip

    assert claims.judged(claim, votes(0.50, 0.03))[0] == "reproduced"
    assert claims.judged(claim, votes(0.03, 0.50))[0] == "not reproduced"
    assert claims.judged(claim, votes(0.50, 0.20))[0] == "not reproduced"
    assert claims.judged(claim, votes(0.50, 0.09))[0] == "not resolved"


# ---- what is not there -----------------------------------------------------------------------------------


def test_without_any_result_every_claim_says_which_notebook_it_needs():
    rows, more = claims.judge_all("laptop")
    assert {r["verdict"] for r in rows} == {"cannot be tested here"}
    assert all(r["value"] is r["low"] is r["n"] is None for r in rows)
    for claim, extra in zip(TABLE, more, strict=True):
        assert claim.get("reason") or extra["reason"].startswith(f"needs notebook {claim['notebook'][:2]}")


@pytest.mark.parametrize(
    "rows, why",
    [([{"model": "base", "val": 1}], "no number in column value"), ([{"mdl": "base", "value": 1}], "no column model"),
     ([{"model": "other", "value": 1}], "no rows with model = base"),
     ([{"model": "base", "value": 1}, {"model": "base", "value": 2}], "2 rows with"), ([], "no column model")],
)  # fmt: skip
def test_a_result_of_another_form_is_a_reason_that_names_what_is_missing(rows, why):
    part = {"of": "t", "row": {"model": "base"}, "above": 0}
    found = claims.measured(part, lambda of: rows)
    assert found.state == "missing" and why in found.reason and "'t'" in found.reason


# ---- what leaves -----------------------------------------------------------------------------------------


def test_claims_json_has_the_agreed_keys_and_the_readme_a_row_a_claim(reports):
    table2 = next(c for c in TABLE if c["at"] == "Table 2")
    rows = [row_for(part, good=True) | {"images": 960, "seeds": 1} for part in table2["parts"]]
    report.write("table2", rows, "laptop", "02_human_feedback")
    rows, more = claims.judge_all("laptop")
    stored = json.loads(claims.write(rows, more, "laptop").read_text("utf-8"))
    assert len(stored) == len(TABLE) and all(set(r) == set(claims.KEYS) for r in stored)
    (row,) = [r for r in stored if r["where"] == "Table 2"]
    assert (row["paper"], row["verdict"]) == (PAPER, "by construction")
    assert (row["value"], row["low"], row["n"]) == (0.344, 0.339, 120)
    table = readme.markdown(reports / "laptop")
    assert table.count("\n| ") == len(TABLE) + 2  # with the head and the rule below it
    assert "[cannot be tested here](notebooks/07_rejection_sampling.ipynb): needs notebook 07" in table
    verdict = f"[by construction](notebooks/02_human_feedback.ipynb): {table2['by_construction']}"
    assert f"| 34.4 % | 34.4 % [33.9, 34.9] | {verdict} |" in table


def test_without_claims_the_readme_says_not_run_yet(reports):
    assert readme.markdown(reports / "laptop") == "not run yet"


@pytest.mark.parametrize(
    "value, unit, text",
    [(0.344, "%", "34.4 %"), (0.1, "points", "+10 points"), (-0.05, "points", "-5 points"), (-1e-5, "points", "0 points"),
     (0.2, "%change", "+20 %"), (6480, "images", "6,480 images"), (None, "%", "")],
)  # fmt: skip
def test_a_number_is_shown_in_its_unit(value, unit, text):
    assert claims.shown(value, unit) == text
