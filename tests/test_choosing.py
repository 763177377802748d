"""Choices follow their rules, whatever the order of the rows, and say when they cannot."""

import pytest

from lib.methods.choosing import BUDGET, COMPARED, SWEPT, best_within, budget, each_at_its_best, settled

POINTS = [dict(good=g, frechet=d) for g, d in ((0.5, 10.0), (0.7, 14.9), (0.8, 15.1), (0.6, 12.0))]


def test_the_best_scale_is_the_highest_good_share_within_the_limit_and_not_the_highest_of_all():
    assert best_within(POINTS, 15.0) is POINTS[1] and best_within(POINTS[::-1], 15.0) is POINTS[1]
    assert best_within(POINTS, 20.0) is POINTS[2] and best_within(POINTS, 11.0) is POINTS[0]


def test_where_every_distance_is_too_large_the_smallest_is_taken_and_said(capsys):
    assert best_within(POINTS, 9.0) is POINTS[0]
    assert capsys.readouterr().out == "no distance is at most 9.0, so the point with the smallest, 10.0, is used\n"


def test_nothing_to_choose_from_or_no_number_is_refused():
    for choose in (best_within, settled):
        with pytest.raises(ValueError, match="^no (points|rows) to choose from: give at least one$"):
            choose([], 1.0)
    with pytest.raises(ValueError, match="^1 of 2 values of distances are NaN"):
        best_within([POINTS[0], dict(good=0.5, frechet=float("nan"))], 10.0)


def row(gain, ahead_low=-0.1, farther=0.1, farther_low=0.0):
    return dict(gain=gain, ahead_low=ahead_low, farther=farther, farther_low=farther_low)


def test_the_centre_stays_unless_another_is_ahead_beyond_its_interval():
    centre, higher, surely = row(0.10, 0.0), row(0.15), row(0.13, 0.01)
    assert settled([centre, higher], 1.2) is centre
    assert settled([centre, higher, surely], 1.2) is surely
    assert settled([centre, surely, more := row(0.14, 0.02)], 1.2) is more


def test_what_surely_costs_more_than_the_budget_is_never_chosen_while_anything_else_is_there(capsys):
    centre, dear = row(0.10), row(0.20, 0.05, 0.9, 0.21)
    assert settled([centre, dear], 1.2) is centre and settled([centre, dear], 1.3) is dear
    over = row(0.3, 0.0, 0.6, 0.3)
    assert settled([over, row(0.1), best := row(0.2)], 1.2) is best  # the centre itself is over it
    assert capsys.readouterr().out == ""
    assert settled([over, dear], 1.2) is over
    said = "all settings increase the distance by over 20%, so the one with the smallest increase is used\n"
    assert capsys.readouterr().out == said


def test_without_a_budget_no_distance_is_asked_for():
    rows = [dict(gain=g, ahead_low=a) for g, a in ((0.1, 0.0), (0.2, 0.01), (0.3, -0.1))]
    assert settled(rows) is rows[1] and settled(rows[::2]) is rows[0]


def test_the_scales_are_those_that_were_promised():
    assert len(SWEPT) >= 6 and min(SWEPT) == 1 and max(SWEPT) == 8 and BUDGET == 1.5
    assert len(COMPARED) >= 5 and set(COMPARED) < set(SWEPT)


def scales(*points):
    return [dict(scale=s, good=g, frechet=d) for s, g, d in points]


def test_a_model_over_the_budget_at_every_scale_raises_it_for_the_base_too():
    base = scales((1, 0.4, 10.0), (2, 0.6, 18.0), (3, 0.7, 40.0))
    near, far = scales((1, 0.5, 12.0)), scales((1, 0.9, 20.0), (2, 0.8, 19.0))
    assert each_at_its_best(base, near, 1) == (base[0], near[0])  # the budget is 15
    assert each_at_its_best(base, far, 1) == (base[1], far[1])  # 19, for both


def test_the_base_as_it_is_used_is_always_within_the_budget():
    base, model = scales((1, 0.4, 10.0), (2, 0.6, 15.1), (3, 0.7, 40.0)), scales((1, 0.6, 15.05), (2, 0.9, 15.2))
    assert budget(base) == budget(base, 1) == BUDGET * 10 and budget(base, 2) == 15.1
    assert each_at_its_best(base, model, 2) == (base[1], model[0])  # at 15.1, not at 15
    with pytest.raises(ValueError, match="^there is no point at guidance scale 4: expected one of 1, 2, 3$"):
        budget(base, 4)
