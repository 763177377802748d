"""Domains are checked as they read, specs refuse what is outside at once, and parameters take what their comments say."""

from dataclasses import replace

import numpy as np
import pytest

from lib.desk.parameters import check, check_values, keys_twice, kind_of, parameters
from lib.feedback.panel import RaterSpec
from lib.feedback.taste import TasteSpec
from lib.feedback.votes import VoteSpec
from lib.ground.domains import clauses, fits, wanted
from lib.ground.sizes import SIZES
from lib.methods.adaptation import AdaptationSpec
from lib.methods.finetune import FinetuneSpec
from lib.methods.preference import PreferenceSpec
from lib.methods.reward import RewardSpec
from lib.world.web import CaptionNoise

NAN, INF = float("nan"), float("inf")

# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "domain, inside, outside",
    [("in (0, 0.5]", (0.5, 1e-9, np.float64(0.2)), (0, -0.1, 0.50001, 1)), ("in [0, inf)", (0, 1e300), (-1e-300, INF)),
     ("at least 2", (2, 3.5), (1.99, -2)), ("at most 4", (4, -1e9), (4.01,)), ("in [-1, 1]", (-1, 1, 0), (-1.1, 2)),
     ("in (0, 1e-2]", (1e-2, 3e-4), (0.011, 0)), ("", (0, -5, 1e9), ())],
)  # fmt: skip
def test_a_bound_is_kept_to_as_it_reads(domain, inside, outside):
    assert all(fits(value, float, domain) for value in inside)
    assert not any(fits(value, float, domain) for value in outside)


def test_nan_infinity_text_and_truth_are_no_numbers_whatever_the_domain():
    for kind in (int, float):
        assert not any(fits(value, kind, "in [0, inf)") for value in (NAN, INF, "1", True, None, (1,), [1], np.nan, 10**400))
    assert fits(3, float) and fits(3, int) and fits(np.int64(3), int) and not fits(3.0, int)
    assert fits(True, bool) and not fits(1, bool) and fits("x", str) and not fits(3, str)


def test_a_choice_is_one_of_its_words_and_ends_at_a_semicolon():
    text = "what it leaves out, each one of no prefix, threshold 3 / n or rank 4; no value twice, may be empty"
    assert clauses(text) == ("one of no prefix, threshold 3 / n or rank 4", "no value twice", "may be empty")
    assert fits(["rank 4", "no prefix"], list[str], text) and fits([], list[str], text)
    for wrong in (["rank 5"], ["rank 4", "rank 4"], ["no prefix, rank 4"], "rank 4"):
        assert not fits(wrong, list[str], text), wrong


def test_each_item_of_a_list_is_in_the_domain_and_an_empty_one_must_be_allowed():
    text = "each in (0, 1), no value twice"
    assert fits([0.1, 0.5], list[float], text)
    for wrong in ([], [0.5, 0.5], [0.5, 1], [0.5, NAN], [0.5, "x"], (0.1, 0.5), 0.5, [[0.5]], None):
        assert not fits(wrong, list[float], text), wrong


def test_a_tuple_has_its_length_and_may_be_forbidden_to_be_all_zero():
    text = "each at least 0, not all 0"
    assert fits((0, 0, 40), tuple[int, int, int], text) and fits((3,) * 9, tuple[int, ...], text)
    for wrong in ((0, 0, 0), (1, 2), (1, 2, -1), (1, 2, 2.5), [1, 2, 3], ()):
        assert not fits(wrong, tuple[int, int, int], text), wrong


def test_what_is_wanted_is_said_in_words():
    assert wanted(float, "share that is turned, in (0, 0.5]") == "a number in (0, 0.5]"
    assert wanted(int | None, "at least 1") == "a whole number of at least 1, or None"
    assert wanted(list[float], "each in (0, 1), no value twice") == (
        "a list of one or more numbers, each in (0, 1), no value twice")  # fmt: skip
    assert wanted(tuple[int, int], "at least 1") == "a tuple of 2 whole numbers, each at least 1"
    assert wanted(str, "one of good or all") == "one of good or all" and wanted(bool) == "True or False"


# ---- specs ----------------------------------------------------------------------------------------------------------

SPECS = [kind() for kind in (
    RewardSpec, FinetuneSpec, AdaptationSpec, PreferenceSpec, RaterSpec, TasteSpec, VoteSpec, CaptionNoise
)]  # fmt: skip


@pytest.mark.parametrize(
    "spec, field, wrong",
    [(RewardSpec(), "auxiliary_weight", (-1, NAN, "0.5")), (RewardSpec(), "temperature", (0, -2.0, INF, None)),
     (RewardSpec(), "flipped", (1.5, -0.1, (0, 4))), (RewardSpec(), "labels", (0, 1.1, True)),
     (RewardSpec(), "prompts", (0,)), (RewardSpec(), "epochs", (0, 2.5)), (RewardSpec(), "perturbed", (0, -1)),
     (RewardSpec(), "labellers", (0, 1.5)),
     (RewardSpec(), "learning_rate", (NAN, 0, -1e-3)), (RewardSpec(), "width", (0, 10.5)),
     (RewardSpec(), "batch", (0,)),
     (RewardSpec(), "perturbed_form", ("mine", None)), (RewardSpec(), "skips", ("keep", 0)),
     (RewardSpec(), "seed", (-1, 0.5)),
     (RewardSpec(), "auxiliary_on", ("bad",)), (RewardSpec(), "normalise", (1, "yes")),
     (RewardSpec(), "weight_decay", (-1,)),
     (FinetuneSpec(), "batch", ((0, 0), (64,), (64, -1), 64)), (FinetuneSpec(), "updates", (0, -5, 10.0, None)),
     (FinetuneSpec(), "beta", (-0.1, NAN)), (FinetuneSpec(), "average", (1, -0.5)), (FinetuneSpec(), "keep", ((-1,), 5)),
     (FinetuneSpec(), "clip", (0,)), (FinetuneSpec(), "warmup", (-1,)), (FinetuneSpec(), "learning_rate", (0, INF)),
     (AdaptationSpec(), "batch", ((0, 0, 0), (1, 2), (1, 2, -3))), (AdaptationSpec(), "rank", (0, 2.5)),
     (AdaptationSpec(), "threshold", (0, NAN)), (AdaptationSpec(), "updates", (0,)), (AdaptationSpec(), "prefix", (None, 3)),
     (PreferenceSpec(), "choices", (0, 1.01)), (PreferenceSpec(), "scale", (0, NAN)),
     (PreferenceSpec(), "image_share", (-1, 2)),
     (PreferenceSpec(), "epochs", (0,)), (PreferenceSpec(), "coin", (0,)), (PreferenceSpec(), "batch", (0,)),
     (RaterSpec(), "noise", (-1, NAN)), (RaterSpec(), "lapse", (1.5, -0.1)), (RaterSpec(), "certainty", (0,)),
     (TasteSpec(), "noise", (0, -1)), (TasteSpec(), "last", (1, -0.1)), (TasteSpec(), "match", (NAN, "much")),
     (VoteSpec(), "noise", (-0.5, INF)), (VoteSpec(), "lean", (-1,)), (VoteSpec(), "raters", (None, {})),
     (CaptionNoise(), "colour_right", (1.1, -0.1)), (CaptionNoise(), "count_right", ((0.9,), (2.0,) * 6, 0.9)),
     (SIZES["smoke"], "updates", (0, 6.5)), (SIZES["smoke"], "held_out", (1, 0)), (SIZES["smoke"], "choosers", (13, 0)),
     (SIZES["smoke"], "prompts", ((8, 6, 6), (8, 6, 6, 0)))],
    ids=lambda x: type(x).__name__ if hasattr(x, "__dataclass_fields__") else x if isinstance(x, str) else "",
)  # fmt: skip
def test_a_spec_out_of_its_domain_is_refused_at_once_with_field_value_and_domain(spec, field, wrong):
    for value in wrong:
        with pytest.raises(ValueError) as refusal:
            replace(spec, **{field: value})
        said = str(refusal.value)
        assert said.startswith(f"{type(spec).__name__}: {field} = {value!r} is not ") and "\n" not in said


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: type(s).__name__)
def test_every_number_of_every_spec_is_finite(spec):
    for field, value in vars(spec).items():
        if isinstance(value, float):
            with pytest.raises(ValueError, match=f": {field} = nan is not a number"):
                replace(spec, **{field: NAN})
            assert getattr(replace(spec, **{field: np.float64(value)}), field) == value


def test_what_the_study_does_is_in_the_domains():
    replace(AdaptationSpec(), batch=(0, 0, 40), updates=None, prefix="")
    replace(FinetuneSpec(), beta=0.0, keep=(90, 180), use_model=False, warmup=0)
    replace(RewardSpec(), auxiliary_weight=0, epochs=None, labellers=1, flipped=np.float64(0.4), labels=1)
    RaterSpec(miscount=0, noise=0, slant=0, lapse=0), VoteSpec(noise=0, lean=0), TasteSpec(match=-1.0, spread=0)


# ---- parameters -------------------------------------------------------------------------------------------------------

CELL = '''size = "smoke"  # one of smoke, laptop or full
flipped = 0.2  # share of labels, in (0, 0.5]
shares = [0.25, 0.5]  # of the labels, each in (0, 1), no value twice
draws = 20  # subsamples, at least 2
arms = ["a b", "c"]  # each one of a b, c or d / e; may be empty
prompt = "Two blue dogs in the forest"  # in the study's form
images: int = 3  # a prompt
tidy = True  # as the text says
named = [  # by whom
    "Ann", "Bob",
]  # of the labellers
computed = 2 * 3  # seconds'''


def test_a_parameters_comment_is_what_stands_behind_it():
    found = parameters(CELL)
    assert found["shares"] == ([0.25, 0.5], "of the labels, each in (0, 1), no value twice")
    assert found["images"] == (3, "a prompt") and found["named"] == (["Ann", "Bob"], "of the labellers")
    assert found["computed"] == (..., "seconds")
    check_values(CELL, {})


@pytest.mark.parametrize(
    "given, said",
    [(dict(flipped=(0, 4)), "flipped = (0, 4) is not a number in (0, 0.5], such as 0.2"),
     (dict(flipped="0,4"), "flipped = '0,4' is not a number"), (dict(flipped=True), "flipped = True is not a number"),
     (dict(flipped=0.7), "flipped = 0.7 is not"), (dict(flipped=0), "flipped = 0 is not"), (dict(flipped=NAN), "nan is not"),
     (dict(shares=0.5), "= 0.5 is not a list of one or more numbers, each in (0, 1), no value twice, such as [0.25, 0.5]"),
     (dict(shares=[]), "shares = [] is not"), (dict(shares=[0.5, 0.5]), "no value twice"),
     (dict(shares=[0.5, 1]), "shares = [0.5, 1] is not"),
     (dict(draws=2.5), "draws = 2.5 is not a whole number of at least 2, such as 20"), (dict(draws=1), "draws = 1 is not"),
     (dict(arms=["e"]), "arms = ['e'] is not a list of strings, each one of a b, c or d / e"),
     (dict(arms="c"), "arms = 'c' is not"),
     (dict(prompt="A red dog"), "the prompt 'A red dog' is not in the study's form: write 'A red colored dog'"),
     (dict(prompt=7), "the prompt 7 is not a string"),
     (dict(images="three"), "images = 'three' is not a whole number, such as 3"),
     (dict(tidy=1), "tidy = 1 is not True or False"), (dict(named=[3]), "named = [3] is not a list of one or more strings"),
     (dict(size="huge"), "size = 'huge' is not one of smoke, laptop or full, such as 'smoke'")],
)  # fmt: skip
def test_a_parameter_of_another_type_or_out_of_range_is_refused_with_its_domain_and_an_example(given, said):
    with pytest.raises(ValueError) as refusal:
        check_values(CELL, given)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_whole_numbers_are_numbers_and_lists_may_be_short_or_empty_where_the_comment_says_so():
    check_values(CELL, dict(flipped=0.5, shares=[0.9], draws=2, arms=[], images=9, computed="anything", tidy=False))
    check_values("weight = 0.5  # lambda, in (0, 100]", dict(weight=2))


@pytest.mark.parametrize(
    "line", ["flipped = 0, 4  # in (0, 0.5]", "flipped = '0.2'  # in (0, 0.5]", "shares = 0.5  # each in (0, 1)",
             "draws = 20.5  # a whole number in [2, 1000]", "prompt = 42  # in the study's form",
             "arms = 'c'  # each one of c or d", "arms = ('c',)  # each one of c or d"],
)  # fmt: skip
def test_a_default_that_was_edited_to_another_type_is_held_against_the_comment(line):
    with pytest.raises(ValueError, match=" is not | is not a string"):
        check_values(line, {})


def test_a_default_out_of_its_domain_is_no_example():
    with pytest.raises(ValueError, match="^flipped = 0.9 is not a number in .0, 0.5.$"):
        check_values("flipped = 0.9  # in (0, 0.5]", {})
    assert kind_of(..., "in (0, 1]") is kind_of((0, 4), "in (0, 0.5]") is float and kind_of((1, 2), "") == tuple[int, ...]


def test_a_notebook_checks_the_values_that_its_reader_edited():
    check("04_reward_ablations", dict(size="smoke", flipped=0.4, label_counts=[50]))
    with pytest.raises(ValueError, match="^label_counts = .50, 50. is not a list"):
        check("04_reward_ablations", dict(label_counts=[50, 50]))
    with pytest.raises(ValueError, match="^draws = 1 is not a whole number in"):
        check("06_alignment_against_fidelity", dict(draws=1))


# ---- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, twice",
    [('{"T = 0.5": 1, "b": 2, "T = 0.5": 3}', ["'T = 0.5'"]), ("x = f({'a': {1: 2, 1: 3}})", ["1"]),
     ('{"a": 1, \'a\': 2}', ["'a'"]), ('{f"{q:.0%} flipped": 1, f"{q:.0%} flipped": 2}', ["f'{q:.0%} flipped'"]),
     ('{(1, "a"): 1, (1, "a"): 2}', ["(1, 'a')"]), ('{"a": 1, **a, "b": 2, **b}', []), ('{"a": {"a": 1}}', []),
     ("{f(): 1, f(): 2}", []), ('{"a": 1} | {"a": 2}', []), ("%matplotlib inline", []), ("{k: v for k in x}", [])],
)  # fmt: skip
def test_a_key_that_a_dict_literal_gives_twice_is_found(code, twice):
    assert list(keys_twice(code)) == twice
