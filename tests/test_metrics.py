"""Distances obey their closed forms, agree with a second route, and refuse too few images."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from lib.images import metrics
from lib.images.metrics import distance_change, distance_with_interval, diversity, floor_band, frechet_distance


def normal(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


def whitened(count: int, width: int, seed: int) -> np.ndarray:
    """Features whose sample mean is exactly 0 and whose sample covariance is exactly the identity."""
    x = normal(count, width, seed)
    q, _ = np.linalg.qr(x - x.mean(0))
    return q * np.sqrt(count - 1)


def correlated(count: int, width: int, seed: int) -> np.ndarray:
    return normal(count, width, seed) @ normal(width, width, seed + 1) + normal(1, width, seed + 2)


# ---- Fréchet distance -----------------------------------------------------------------------------------------------


def test_a_set_is_at_no_distance_from_itself_or_from_its_shuffle():
    x = correlated(300, 12, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x[::-1].copy()) == pytest.approx(0, abs=1e-6)


def test_with_equal_covariances_it_is_the_squared_gap_of_means():
    x, gap = correlated(300, 12, 0), np.linspace(-1, 2, 12)
    assert frechet_distance(x, x + gap) == pytest.approx((gap**2).sum(), rel=1e-6)


def test_with_commuting_covariances_it_adds_the_squared_gaps_of_deviations():
    x, y = whitened(300, 12, 0), whitened(200, 12, 1)
    scale, gap = np.linspace(0.2, 3, 12), np.linspace(-1, 2, 12)
    expected = (gap**2).sum() + ((scale - 1) ** 2).sum()
    assert frechet_distance(x, y * scale + gap) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_a_second_route(seed):
    x, y = correlated(90, 16, 10 * seed), correlated(70, 16, 10 * seed + 5)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_it_is_symmetric_and_blind_to_order():
    x, y = correlated(90, 16, 0), correlated(70, 16, 5)
    shuffled = np.random.default_rng(0).permutation(y)
    assert frechet_distance(x, shuffled) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-6)


def test_fewer_images_than_features_are_refused():
    x = normal(64, 64, 0)
    assert frechet_distance(x, normal(64, 64, 1)) > 0
    for real, fake in ((x[:63], x), (x, x[:63])):
        with pytest.raises(ValueError, match=f"^need at least 64 images per side, got {len(real)} and {len(fake)}$"):
            frechet_distance(real, fake)


# ---- interval ------------------------------------------------------------------------------------------------------


def test_the_interval_holds_the_value_repeats_with_its_seed_and_narrows_with_images():
    x, y = normal(800, 8, 0), normal(800, 8, 1) + 0.3
    wide, narrow = distance_with_interval(x[:200], y[:200]), distance_with_interval(x, y)
    for d, n in ((wide, 200), (narrow, 800)):
        assert 0 <= d.low < d.value < d.high and d.n == n
    assert narrow.value == frechet_distance(x, y)
    assert narrow.high - narrow.low < 0.75 * (wide.high - wide.low)
    assert narrow == distance_with_interval(x, y) != distance_with_interval(x, y, seed=1)


def test_the_intervals_width_is_that_of_new_samples():
    """Twenty new samples of 400 spread as much as the interval of one says (within a factor of two)."""
    pairs = [(normal(400, 8, i), normal(400, 8, 100 + i) + 0.3) for i in range(20)]
    spread = 1.96 * np.std([frechet_distance(*p) for p in pairs], ddof=1)
    said = np.mean([d.high - d.value for d in (distance_with_interval(*p) for p in pairs[:5])])
    assert spread / 2 < said < 2 * spread


def test_halves_of_prompts_say_what_single_images_of_them_say_and_halves_of_images_too_little():
    """Each of 150 images eight times, as a chosen image is: no more is known than by one of each."""
    x, y, other = (normal(150, 8, i) for i in range(3))
    eight, prompts = [np.repeat(part, 8, 0) for part in (x, y + 0.4, other + 0.2)], np.repeat(np.arange(150), 8)
    once, clustered = distance_with_interval(x, y + 0.4), distance_with_interval(*eight[:2], clusters=prompts)
    assert clustered.high - clustered.value == pytest.approx(once.high - once.value, rel=0.02) and clustered.n == 1200
    blind = distance_with_interval(*eight[:2])
    assert blind.value == clustered.value and blind.high - blind.value < 0.6 * (clustered.high - clustered.value)
    change, alone = distance_change(*eight, clusters=prompts), distance_change(x, y + 0.4, other + 0.2)
    for end in ("high", "relative_high"):
        middle = {"high": "value"}.get(end, "relative")
        reach, wanted = (getattr(c, end) - getattr(c, middle) for c in (change, alone))
        assert reach == pytest.approx(wanted, rel=0.02)
    few = distance_with_interval(*(part[:80] for part in eight[:2]), clusters=prompts[:80])  # 10 prompts, a half is 5
    whole = distance_with_interval(x[:8], y[:8], clusters=np.arange(8))
    assert few.high > few.value and whole.low == whole.high == frechet_distance(x[:8], y[:8])
    with pytest.raises(ValueError, match="^need one cluster per image, got 3 for 150 images$"):
        distance_with_interval(x, y, clusters=[1, 2, 3])


def test_an_interval_needs_as_many_images_a_side():
    with pytest.raises(ValueError, match="^need as many real as generated images, got 80 and 70$"):
        distance_with_interval(normal(80, 8, 0), normal(70, 8, 1))


# ---- differences of distances, floors --------------------------------------------------------------------------------


def three(seed: int, count: int = 400, width: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Real features, and those of two models that err alike, the first by more."""
    real, other = normal(count, width, seed), normal(count, width, seed + 100) + 0.4
    return real, other + 0.2 + 0.1 * normal(count, width, seed + 200), other


def test_a_change_is_the_difference_of_the_two_distances_and_its_share_of_the_second():
    real, fake, other = three(0)
    mine, base = frechet_distance(real, fake), frechet_distance(real, other)
    found = distance_change(real, fake, other)
    assert found.value == pytest.approx(mine - base) and found.relative == pytest.approx(mine / base - 1)
    assert mine > base and 0 < found.low < found.value < found.high and found.n == 400
    assert found.relative_low < found.relative < found.relative_high
    assert found.value - found.low == pytest.approx(found.high - found.value)
    assert found == distance_change(real, fake, other) != distance_change(real, fake, other, seed=1)


def test_a_model_less_itself_is_nothing_for_certain():
    real, fake, _ = three(0)
    found = distance_change(real, fake, fake.copy())
    assert found == metrics.Change(0, 0, 0, 0, 0, 0, 400)


def test_swapped_sides_turn_a_change_round():
    real, fake, other = three(3)
    one, back = distance_change(real, fake, other), distance_change(real, other, fake)
    assert (back.value, back.low, back.high) == pytest.approx((-one.value, -one.high, -one.low))
    assert 1 + back.relative == pytest.approx(1 / (1 + one.relative))


def test_both_models_are_measured_on_the_same_halves_paired_by_caption():
    """What makes a half hard for both cancels: a change is surer than two distances apart, unless its rows are shuffled."""
    real, fake, other = three(0)
    paired = distance_change(real, fake, other)
    apart = np.hypot(*(d.high - d.value for d in (distance_with_interval(real, x) for x in (fake, other))))
    shuffled = distance_change(real, fake, np.random.default_rng(0).permutation(other))
    assert paired.high - paired.value < 0.7 * apart
    assert shuffled.value == pytest.approx(paired.value)
    assert shuffled.high - shuffled.value > 1.2 * (paired.high - paired.value)


def test_a_model_that_is_thrice_as_far_on_every_half_is_so_for_certain(monkeypatch):
    real, fake, other = three(0)
    monkeypatch.setattr(metrics, "frechet_distance", lambda real, x: real.var() * (3 if x[0, 0] in fake[:, 0] else 1))
    found = distance_change(real, fake, other)
    assert (found.relative, found.relative_low, found.relative_high) == pytest.approx((2, 2, 2))
    assert found.value - found.low > 0.01


def test_the_changes_widths_are_those_of_new_samples():
    """Of forty new samples, the value and the share spread as much as five intervals say (within a factor of 1.6)."""
    samples = [three(1000 * i) for i in range(40)]
    distances = np.array([[frechet_distance(r, x) for x in pair] for r, *pair in samples])
    said = [distance_change(*s) for s in samples[:5]]
    for spread, found in (
        (np.std(distances[:, 0] - distances[:, 1], ddof=1), np.mean([c.high - c.value for c in said])),
        (np.std(distances[:, 0] / distances[:, 1], ddof=1), np.mean([c.relative_high - c.relative for c in said])),
    ):
        assert 1.96 * spread / 1.6 < found < 1.6 * 1.96 * spread


def test_a_change_refuses_sets_of_other_sizes_and_a_share_of_nothing(monkeypatch):
    real, fake, other = three(0, 80)
    with pytest.raises(ValueError, match="^need as many real as generated images, got 80 and 80 and 70$"):
        distance_change(real, fake, other[:70])
    monkeypatch.setattr(metrics, "frechet_distance", lambda real, fake: float(fake is not other))
    with pytest.raises(ValueError, match="^the other model is at distance 0"):
        distance_change(real, fake, other)


def test_a_floor_is_a_band_over_eight_draws_or_more():
    real, redraws = normal(100, 8, 0), [normal(100, 8, i) for i in range(1, 10)]
    each = [frechet_distance(real, x) for x in redraws]
    found = floor_band(real, redraws)
    assert (found.mean, found.lowest, found.highest) == pytest.approx((np.mean(each), min(each), max(each)))
    assert found.lowest < found.mean < found.highest and (found.draws, found.n) == (9, 100)
    with pytest.raises(ValueError, match="^a band needs at least 8 draws, got 7$"):
        floor_band(real, redraws[:7])
    with pytest.raises(ValueError, match="^need as many redrawn as real images, got .90, 100"):
        floor_band(real, [redraws[0][:90], *redraws[1:]])


# ---- features, diversity ---------------------------------------------------------------------------------------------


def test_features_keep_order_whatever_the_batch():
    class Corner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x[:, :, 0, 0] * self.weight

    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    seen = metrics.features(Corner(), images, batch=2)
    assert seen.dtype == np.float64
    np.testing.assert_allclose(seen, images[:, 0, 0] / 127.5 - 1, atol=1e-6)


def test_the_inception_score_is_one_where_images_are_alike_and_the_number_of_classes_where_each_has_its_own():
    sure = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    assert metrics.inception_score(sure) == pytest.approx(3)
    assert metrics.inception_score(sure[[0, 0, 0]]) == pytest.approx(1)
    assert metrics.inception_score(np.full((4, 3), 1 / 3)) == pytest.approx(1)


def test_the_inception_score_is_mutual_information_of_image_and_class_whatever_their_numbers():
    """exp of the classes' entropy less the mean entropy of an image, where axes cannot be taken for each other."""
    p = np.random.default_rng(0).dirichlet([0.5, 1, 2, 4, 8], size=7)

    def entropy(x):
        return -(x * np.log(x)).sum(-1)

    assert metrics.inception_score(p) == pytest.approx(np.exp(entropy(p.mean(0)) - entropy(p).mean()))
    assert metrics.inception_score(np.concatenate([p, p])) == pytest.approx(metrics.inception_score(p))


def test_diversity_is_the_mean_distance_within_a_prompt():
    x = np.array([[0.0, 0], [3, 4], [0, 0], [1, 0], [2, 0], [7, 7], [7, 7]])
    groups = np.array(["b", "b", "a", "a", "a", "c", "c"])
    np.testing.assert_allclose(diversity(x, groups), [5, 4 / 3, 0])
    order = [2, 0, 5, 3, 1, 4, 6]
    np.testing.assert_allclose(diversity(x[order], groups[order]), [4 / 3, 5, 0])  # by first appearance
    with pytest.raises(ValueError, match="^diversity needs at least two images per prompt, but 'c' has 1$"):
        diversity(x[:6], groups[:6])


def test_colourfulness_is_nil_for_grey_and_known_for_one_pure_colour():
    grey = np.full((1, 8, 8, 3), 77, np.uint8)
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 200
    half = red.copy()
    half[:, :4] = 0  # half black: opponents 200 and 100 on one half, 0 on the other
    found = metrics.colourfulness(np.concatenate([grey, red, half]))
    np.testing.assert_allclose(found, [0, 0.3 * np.hypot(200, 100), np.hypot(100, 50) + 0.3 * np.hypot(100, 50)])
