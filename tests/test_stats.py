"""Agreement matches the published tables; pairs, votes and intervals match closed forms; what is invalid is refused."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from lib.ground.stats import (
    Interval,
    cluster_bootstrap,
    fleiss_kappa,
    grouped_pairwise_accuracy,
    krippendorff_alpha,
    paired_difference,
    relative_difference,
    share_interval,
    votes,
)  # fmt: skip

_ = np.nan
# Krippendorff 2011, Computing Krippendorff's alpha-reliability, section C: 12 units, 4 observers, values missing.
KRIPPENDORFF = np.array([
    [1, 1, _, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4], [1, 1, 2, 1],
    [2, 2, 2, 2], [_, 5, 5, 5], [_, _, 1, 1], [_, 3, _, _],
])  # fmt: skip
# The same paper, sections A and B: two observers, nothing missing.
BINARY = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]).T
NOMINAL = np.array([["abcde".index(c) for c in row] for row in ("aabbdcccedda", "babbbccceddd")]).T
# Wikipedia, Krippendorff's alpha, a computational example: 15 units, 3 coders, values missing.
WIKIPEDIA = np.array([
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3], [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
]).T  # fmt: skip
# Fleiss 1971, table 1: 30 patients, 6 psychiatrists, 5 diagnoses; each string holds one patient's diagnoses.
FLEISS_1971 = """444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444 224445
    333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444 133333 555555"""
# Wikipedia, Fleiss' kappa, worked example: 10 subjects, 14 raters; each row counts the raters by category.
FLEISS_WIKIPEDIA = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1), (7, 7, 0, 0, 0),
    (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


@pytest.mark.parametrize(
    "ratings, level, published",
    [(KRIPPENDORFF, "nominal", 0.743), (KRIPPENDORFF, "ordinal", 0.815), (KRIPPENDORFF, "interval", 0.849),
     (BINARY, "nominal", 0.095), (NOMINAL, "nominal", 0.692),
     (WIKIPEDIA, "nominal", 0.691), (WIKIPEDIA, "interval", 0.811)],
)  # fmt: skip
def test_alpha_equals_the_published_values(ratings, level, published):
    assert krippendorff_alpha(ratings, level) == pytest.approx(published, abs=5e-4)


def test_kappa_equals_the_published_values():
    patients = [[int(d) for d in row] for row in FLEISS_1971.split()]
    assert fleiss_kappa(patients) == pytest.approx(0.430, abs=5e-4)
    subjects = [np.repeat(range(5), row) for row in FLEISS_WIKIPEDIA]
    assert fleiss_kappa(subjects) == pytest.approx(0.210, abs=5e-4)
    # Gwet's R package irrCAC 1.0 on the table with missing ratings: fleiss.kappa.raw(cac.raw4raters) is 0.76117.
    assert fleiss_kappa(KRIPPENDORFF) == pytest.approx(0.76117, abs=5e-6)


def test_a_rater_who_rated_nothing_changes_neither_kappa_nor_alpha():
    full = np.array([[int(d) for d in row] for row in FLEISS_1971.split()], float)
    wider = np.column_stack([full, np.full(30, np.nan)])  # takes the way for missing ratings
    assert fleiss_kappa(wider) == pytest.approx(fleiss_kappa(full))
    assert krippendorff_alpha(wider) == pytest.approx(krippendorff_alpha(full))


def test_two_observers_alpha_of_pairs_has_a_closed_form():
    n = BINARY.size  # 20 values of which 6 are 1; 4 units of 10 disagree: Krippendorff 2011, section A
    assert krippendorff_alpha(BINARY) == pytest.approx(1 - (n - 1) * 4 / (6 * 14))


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_ignores_the_order_of_items_and_raters(level):
    rng = np.random.default_rng(0)
    moved = KRIPPENDORFF[rng.permutation(12)][:, rng.permutation(4)]
    assert krippendorff_alpha(moved, level) == pytest.approx(krippendorff_alpha(KRIPPENDORFF, level))


def test_each_level_of_alpha_ignores_what_it_must():
    renamed = np.array([_, 9, 2, 7, 1, 4])[np.nan_to_num(KRIPPENDORFF).astype(int)]
    stretched = np.array([_, 1, 2, 30, 40, 500])[np.nan_to_num(KRIPPENDORFF).astype(int)]
    assert krippendorff_alpha(renamed, "nominal") == pytest.approx(krippendorff_alpha(KRIPPENDORFF, "nominal"))
    assert krippendorff_alpha(renamed, "ordinal") != pytest.approx(krippendorff_alpha(KRIPPENDORFF, "ordinal"))
    assert krippendorff_alpha(stretched, "ordinal") == pytest.approx(krippendorff_alpha(KRIPPENDORFF, "ordinal"))
    assert krippendorff_alpha(stretched, "interval") != pytest.approx(krippendorff_alpha(KRIPPENDORFF, "interval"))
    assert krippendorff_alpha(3 - 2 * KRIPPENDORFF, "interval") == pytest.approx(
        krippendorff_alpha(KRIPPENDORFF, "interval")
    )


def test_agreement_is_one_when_all_agree_and_near_zero_by_chance():
    same = np.repeat([[1.0], [0.0], [2.0]], 4, 1)
    chance = np.random.default_rng(0).integers(0, 3, (4000, 4))
    for agreement in (krippendorff_alpha, fleiss_kappa):
        assert agreement(same) == 1 and abs(agreement(chance)) < 0.02


def test_agreement_is_undefined_when_only_one_value_was_ever_given():
    assert np.isnan(krippendorff_alpha(np.ones((5, 3)))) and np.isnan(fleiss_kappa(np.ones((5, 3))))


@pytest.mark.parametrize("agreement", [krippendorff_alpha, fleiss_kappa])
def test_agreement_refuses_tables_without_two_ratings_of_one_item(agreement):
    with pytest.raises(ValueError, match="one item with two ratings"):
        agreement([[1, _], [_, 0]])
    with pytest.raises(ValueError, match="items x raters"):
        agreement([1, 0, 1])


def test_alpha_refuses_an_unknown_level_and_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown level 'ratio': expected one of nominal, ordinal, interval"):
        krippendorff_alpha(BINARY, "ratio")


@pytest.fixture
def items():
    """Scores with ties, labels with skips and prompts of unequal size: 300 items of 20 prompts."""
    rng = np.random.default_rng(1)
    labels = rng.choice([1, 0, np.nan], 300, p=(0.4, 0.5, 0.1))
    return rng.integers(0, 6, 300) / 5 + 0.2 * np.nan_to_num(labels), labels, rng.integers(0, 20, 300)


def test_grouped_pairs_agree_with_counting_them_one_by_one_and_with_mann_whitney(items):
    scores, labels, groups = items
    table = grouped_pairwise_accuracy(scores, labels, groups)
    for g, row in table.iterrows():
        good, bad = (scores[(groups == g) & (labels == k)] for k in (1, 0))
        one_by_one = [(a > b) + (a == b) / 2 for a in good for b in bad]
        assert row.pairs == len(one_by_one) and row.right == pytest.approx(np.mean(one_by_one))
        assert row.right * row.pairs == pytest.approx(mannwhitneyu(good, bad).statistic)


def test_turning_the_scores_round_turns_the_accuracy_round(items):
    scores, labels, groups = items
    there, back = (grouped_pairwise_accuracy(s, labels, groups) for s in (scores, -scores))
    assert np.allclose(there.right + back.right, 1) and there.pairs.equals(back.pairs)


def test_grouped_pairs_need_good_and_bad_items_of_one_group():
    table = grouped_pairwise_accuracy([3, 1, 2, 2], [1, 0, 1, 1], ["a", "a", "b", "b"])
    assert table.index.tolist() == ["a"] and table.right.tolist() == [1.0] and table.pairs.tolist() == [1]
    with pytest.raises(ValueError, match="both a good and a bad"):
        grouped_pairwise_accuracy([1, 2], [1, 0], ["a", "b"])
    with pytest.raises(ValueError, match="1 .good., 0 .bad."):
        grouped_pairwise_accuracy([1, 2], [1, 0.5], ["a", "a"])


def test_seven_of_nine_votes_take_a_query_and_six_do_not():
    table = votes([7, 6, 0, 1], [1, 0, 7, 2], [1, 3, 2, 6])
    assert table.outcome.tolist() == ["win", "tie", "lose", "tie"]
    assert table.win.tolist() == pytest.approx([7 / 9, 6 / 9, 0, 1 / 9])
    assert np.allclose(table[["win", "lose", "tie"]].sum(1), 1)


def test_the_two_readings_of_votes_may_disagree():
    table = votes([6, 6, 6, 0], [3, 3, 3, 9], 0)  # A has most votes, B the only query won
    assert table.win.mean() == table.lose.mean() and table.outcome.tolist() == ["tie", "tie", "tie", "lose"]


@pytest.mark.parametrize("bad", [dict(wins=[0], losses=[0], ties=[0]), dict(wins=[-1], losses=[3], ties=[0])])
def test_votes_refuse_queries_without_votes(bad):
    with pytest.raises(ValueError, match="at least one"):
        votes(**bad)
    with pytest.raises(ValueError, match="share"):
        votes([1], [0], [0], share=0.4)


def test_an_interval_over_single_item_clusters_is_that_of_the_normal_distribution():
    x = np.random.default_rng(0).normal(size=400)
    found = cluster_bootstrap(x, np.arange(400), draws=8000)
    half = 1.96 * x.std() / 20
    assert found.value == pytest.approx(x.mean()) and (found.n, found.clusters, found.seeds) == (400, 400, 1)
    assert found.high - found.value == pytest.approx(half, rel=0.05)
    assert found.value - found.low == pytest.approx(half, rel=0.05)


def test_copies_of_an_item_within_a_cluster_add_no_certainty():
    x = np.random.default_rng(0).normal(size=50)
    once = cluster_bootstrap(x, np.arange(50))
    copied = cluster_bootstrap(np.repeat(x, 8), np.repeat(np.arange(50), 8))
    naive = cluster_bootstrap(np.repeat(x, 8), np.arange(400))
    assert (once.low, once.high) == pytest.approx((copied.low, copied.high))
    assert naive.high - naive.low < 0.5 * (once.high - once.low)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _trial in range(300):
        x = np.repeat(rng.normal(size=60), 4) + rng.normal(size=240)
        found = cluster_bootstrap(x, np.repeat(np.arange(60), 4), draws=400)
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_the_order_of_items_and_the_names_of_clusters_do_not_matter():
    rng = np.random.default_rng(0)
    x, clusters, order = rng.normal(size=90), np.repeat(np.arange(30), 3), rng.permutation(90)
    a = cluster_bootstrap(x, clusters)
    b = cluster_bootstrap(x[order], np.array([f"prompt {c:02}" for c in clusters])[order])
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    assert a == cluster_bootstrap(x, clusters) != cluster_bootstrap(x, clusters, seed=1)


def test_weights_make_a_ratio_of_sums(items):
    table = grouped_pairwise_accuracy(*items)
    found = cluster_bootstrap(table.right, table.index, weights=table.pairs)
    assert found.value == pytest.approx((table.right * table.pairs).sum() / table.pairs.sum())
    assert found.low < found.value < found.high
    with_empty = cluster_bootstrap([*table.right, np.nan], [*table.index, 99], weights=[*table.pairs, 0])
    assert with_empty.value == pytest.approx(found.value)


def test_a_statistic_of_several_columns_is_given_row_numbers(items):
    scores, labels, groups = items

    def ratio(rows):
        return np.nansum(scores[rows] * labels[rows]) / np.nansum(labels[rows])

    found = cluster_bootstrap(np.arange(300), groups, statistic=ratio, draws=1000)
    known = cluster_bootstrap(scores, groups, weights=np.nan_to_num(labels), draws=4000)
    assert found.value == pytest.approx(known.value)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.01)


def test_seeds_are_drawn_too_so_their_spread_widens_the_interval():
    rng = np.random.default_rng(0)
    prompts, seeds = rng.normal(size=100), rng.normal(size=5)
    both = cluster_bootstrap(prompts + seeds[:, None], np.arange(100))
    alone = cluster_bootstrap(prompts + 0 * seeds[:, None], np.arange(100))
    assert both.seeds == 5 and both.n == 100 and both.value == pytest.approx(prompts.mean() + seeds.mean())
    spread = 1.96 * np.sqrt(prompts.var() / 100 + seeds.var() / 5)
    assert (both.high - both.low) / 2 == pytest.approx(spread, rel=0.1)
    assert (alone.high - alone.low) / 2 == pytest.approx(1.96 * prompts.std() / 10, rel=0.1)


def test_the_mean_and_a_statistic_that_is_the_mean_agree_on_seeds_and_clusters():
    rng = np.random.default_rng(0)
    x, clusters = rng.normal(size=(4, 60)) + rng.normal(size=(4, 1)), np.repeat(np.arange(20), 3)
    quick = cluster_bootstrap(x, clusters, draws=6000)
    slow = cluster_bootstrap(x, clusters, statistic=np.mean, draws=6000)
    assert (quick.value, quick.low, quick.high) == pytest.approx((slow.value, slow.low, slow.high), abs=0.05)


def test_pairing_removes_what_both_arms_share():
    rng = np.random.default_rng(0)
    prompt = np.arange(50)
    difficulty = rng.normal(size=50)
    a, b = difficulty + 0.3 + 0.05 * rng.normal(size=50), difficulty
    found = paired_difference(a, b, prompt)
    assert 0.25 < found.low < found.value < found.high < 0.35
    back = paired_difference(b, a, prompt)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    with pytest.raises(ValueError, match="same items"):
        paired_difference(a, b[:-1], prompt)


def test_the_interval_holds_the_estimate_even_without_spread():
    found = cluster_bootstrap(np.full(30, 0.1), np.arange(30))
    assert found.low <= found.value <= found.high and found.high - found.low < 1e-12


@pytest.mark.parametrize(
    "arguments, said",
    [(dict(values=[1, 2, 3], clusters=[0, 1]), "one cluster per item"),
     (dict(values=[1, 2, 3], clusters=[7, 7, 7]), "at least 2 clusters"),
     (dict(values=[1, np.nan, 3], clusters=[0, 1, 2]), "NaN"),
     (dict(values=[1, 2, 3], clusters=[0, 1, 2], weights=[1, -1, 1]), "weights must be at least 0"),
     (dict(values=[1, 2, 3], clusters=[0, 1, 2], weights=[0, 0, 0]), "not all 0"),
     (dict(values=[1, 2, 3], clusters=[0, 1, 2], weights=[1, 1, 1], statistic=np.mean), "weights apply to the mean"),
     (dict(values=[1, 1, 1], clusters=[0, 1, 2], statistic=lambda x: np.nan), "NaN")],
)  # fmt: skip
def test_an_interval_is_refused_where_it_would_mean_nothing(arguments, said):
    with pytest.raises(ValueError, match=said):
        cluster_bootstrap(**arguments)


def test_an_interval_prints_its_numbers():
    assert str(Interval(0.5, 0.25, 0.75, 1200, 60)) == "0.500 [0.250, 0.750], n = 1,200 (60 clusters)"


@pytest.mark.parametrize("right, of, low, high", [(2000, 2000, 0.99808, 1), (0, 10, 0, 0.27754), (8, 10, 0.49016, 0.94332)])
def test_a_share_has_wilsons_interval_which_holds_it(right, of, low, high):
    """Wilson 1927; 8 of 10 and 0 of 10 as in Newcombe 1998's formula."""
    value, *found = share_interval(np.arange(of) < right)
    assert value == right / of and found[0] <= value <= found[1]
    assert found == pytest.approx([low, high], abs=1e-4)


def test_a_relative_difference_is_that_of_the_means_and_pairs_what_is_compared():
    rng = np.random.default_rng(4)
    b = rng.uniform(1, 9, 400)
    prompts = np.repeat(np.arange(40), 10)
    exact = relative_difference(1.2 * b, b, prompts)
    assert exact.value == pytest.approx(0.2) and exact.high - exact.low < 1e-9  # what varies in both cancels
    noisy = relative_difference(b + rng.normal(0, 1, 400), b, prompts)
    assert noisy.low < 0 < noisy.high and noisy.clusters == 40 and noisy.high - noisy.low < 0.1
    assert relative_difference(b, 2 * b, prompts).value == pytest.approx(-0.5)  # not the other way round
    runs = relative_difference(np.stack([1.1 * b, 1.3 * b]), np.stack([b, b]), prompts)  # runs are drawn with prompts
    assert runs.value == pytest.approx(0.2) and (runs.low, runs.high) == pytest.approx((0.1, 0.3)) and runs.seeds == 2
    with pytest.raises(ValueError, match="needs the same items on both sides"):
        relative_difference(b, b[:-1], prompts)
    with pytest.raises(ValueError, match="the statistic is NaN"):
        relative_difference(b, -b, prompts)
