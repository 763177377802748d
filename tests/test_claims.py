"""Every claim's rule is fixed beforehand, and its verdict flips when its numbers do."""

import json

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


def row_of(part, value, **other):
    """A result's row for the part, with an interval of 0.01 about the value."""
    where = {k: v[0] if isinstance(v, list) else v for k, v in (part["row"] | other).items()}
    return where | dict(zip(columns(part), (value, value - 0.005, value + 0.005), strict=True)) | {"prompts": 120}


def rows_for(part, good):
    """Rows on which the part's test holds, or (not `good`) on which it fails."""
    (test,) = set(part) & set(claims.TESTS)
    side = -1 if test in ("below", "at_most") else 1
    target = part["near"][0] if test == "near" else part[test] + side * 0.05
    if not good:
        target = part["near"][0] + 1.5 * part["near"][1] + 1 if test == "near" else part[test] - side * 0.05
    if "less" not in part:
        return [row_of(part, target)]
    scale = 2.0 if part.get("relative") else 1.0
    return [row_of(part, scale * (0.5 + target)), row_of(part, scale * 0.5, **part["less"])]


def reader(parts, wrong=None):
    """A reader of made-up results on which every part holds but the one of number `wrong`."""
    results = {}
    for i, part in enumerate(parts):
        results.setdefault(part["of"], []).extend(rows_for(part, good=i != wrong))
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
    [({"ruel": 1}, "unknown ruel"), ({"unit": "kg"}, "unit"), ({"reason": "x"}, "not both"),
     ({"parts": [{"of": "t", "row": {}}]}, "exactly one test"),
     ({"parts": [{"of": "t", "row": {}, "above": 0, "below": 1}]}, "exactly one test"),
     ({"parts": [{"of": "t", "row": {}, "abov": 0}]}, "unknown abov")],
)  # fmt: skip
def test_a_claim_that_is_not_whole_is_refused(change, why):
    parts = [{"of": "t", "row": {}, "above": 0}]
    whole = dict(name="n", at="a", claim="c", notebook="05_x", figure="f", unit="%", parts=parts)
    claims.checked(whole)
    with pytest.raises(ValueError, match=why):
        claims.checked(whole | change)


# ---- rules -----------------------------------------------------------------------------------------------


@every_rule
def test_a_claim_is_reproduced_when_every_part_holds(claim):
    verdict, parts, reason = claims.judged(claim, reader(claim["parts"]))
    assert verdict == "reproduced" and not reason, [p.reason or p.state for p in parts]
    assert len(parts) == len(claim["parts"]) and parts[0].n == 120


@every_rule
def test_one_part_with_its_numbers_turned_round_flips_the_verdict(claim):
    for wrong in range(len(claim["parts"])):
        verdict, parts, reason = claims.judged(claim, reader(claim["parts"], wrong))
        assert verdict == "not reproduced" and reason == "the rule fails"
        assert [p.state for p in parts] == ["fails" if i == wrong else "holds" for i in range(len(parts))]


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
     ({"below": 0}, (-0.1, -0.2, -0.01), "holds"), ({"below": 0}, (-0.1, -0.2, 0.01), "not resolved"),
     ({"below": 0}, (0.1, 0.01, 0.2), "fails"),
     ({"near": [0.34, 0.1]}, (0.44, None, None), "holds"), ({"near": [0.34, 0.1]}, (0.45, None, None), "fails"),
     ({"near": [0.34, 0.1]}, (0.24, None, None), "holds"), ({"near": [0.34, 0.1]}, (0.23, None, None), "fails"),
     ({"at_least": 0.4}, (0.4, None, None), "holds"), ({"at_least": 0.4}, (0.39, None, None), "fails"),
     ({"at_most": 0.1}, (0.1, None, None), "holds"), ({"at_most": 0.1}, (0.11, None, None), "fails")],
)  # fmt: skip
def test_a_rule_speaks_of_the_bound_that_it_names(part, numbers, expected):
    assert state(part, *numbers) == expected


def test_a_rule_on_bounds_needs_bounds():
    with pytest.raises(claims.Missing, match="no interval"):
        state({"above": 0}, 0.3, None, None)


def test_a_difference_is_above_zero_just_when_the_intervals_do_not_overlap():
    value, low, high = claims.difference((0.8, 0.7, 0.9), (0.6, 0.55, 0.69), relative=False)
    assert (value, low, high) == pytest.approx((0.2, 0.01, 0.35))
    assert claims.difference((0.8, 0.7, 0.9), (0.6, 0.55, 0.71), relative=False)[1] < 0


def test_a_relative_difference_is_a_share_of_the_other_row():
    fid = claims.difference((16.76, 16.0, 17.0), (13.97, 13.0, 14.0), relative=True)
    assert fid == pytest.approx((0.1997, 16 / 14 - 1, 17 / 13 - 1), abs=1e-4)
    with pytest.raises(claims.Missing, match="may be zero"):
        claims.difference((1, 0.9, 1.1), (0.1, -0.1, 0.2), relative=True)


def test_the_papers_own_votes_reproduce_its_claims_and_swapped_sides_do_not():
    claim = next(c for c in TABLE if c["name"] == "Alignment votes won")

    def votes(win, lose):
        shared = {"a": "fine-tuned", "b": "base", "question": "alignment"}
        return lambda of: [shared | {"outcome": k, "value": v, "prompts": 120} for k, v in (("win", win), ("lose", lose))]

    assert claims.judged(claim, votes(0.50, 0.03))[0] == "reproduced"
    assert claims.judged(claim, votes(0.03, 0.50))[0] == "not reproduced"
    assert claims.judged(claim, votes(0.50, 0.20))[0] == "not reproduced"


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
    part = {"of": "t", "row": {"model": "base"}, "at_least": 0}
    found = claims.measured(part, lambda of: rows)
    assert found.state == "missing" and why in found.reason and "'t'" in found.reason


# ---- what leaves -----------------------------------------------------------------------------------------


def test_claims_json_has_the_agreed_keys_and_the_readme_a_row_a_claim(reports):
    table2 = next(c for c in TABLE if c["at"] == "Table 2")
    rows = [r | {"images": 96, "seeds": 1} for part in table2["parts"] for r in rows_for(part, good=True)]
    report.write("table2", rows, "laptop", "02_human_feedback")
    rows, more = claims.judge_all("laptop")
    stored = json.loads(claims.write(rows, more, "laptop").read_text("utf-8"))
    assert len(stored) == len(TABLE) and all(set(r) == set(claims.KEYS) for r in stored)
    (row,) = [r for r in stored if r["where"] == "Table 2"]
    assert (row["paper"], row["verdict"], row["value"], row["low"], row["n"]) == (PAPER, "reproduced", 0.344, 0.339, 96)
    table = readme.markdown(reports / "laptop")
    assert table.count("\n| ") == len(TABLE) + 2  # with the head and the rule below it
    assert "[cannot be tested here](notebooks/07_rejection_sampling.ipynb): needs notebook 07" in table
    assert "| 34.4 % | 34.4 % [33.9, 34.9] | [reproduced](notebooks/02_human_feedback.ipynb) |" in table


def test_without_claims_the_readme_says_not_run_yet(reports):
    assert readme.markdown(reports / "laptop") == "not run yet"


@pytest.mark.parametrize(
    "value, unit, text",
    [(0.344, "%", "34.4 %"), (0.1, "points", "+10 points"), (-0.05, "points", "-5 points"), (-1e-5, "points", "0 points"),
     (0.2, "%change", "+20 %"), (6480, "images", "6,480 images"), (None, "%", "")],
)  # fmt: skip
def test_a_number_is_shown_in_its_unit(value, unit, text):
    assert claims.shown(value, unit) == text
