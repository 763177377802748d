"""Distances obey their closed forms, agree with a second route, and refuse too few images."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from lib.images import metrics
from lib.images.metrics import distance_with_interval, diversity, frechet_distance, kernel_distance


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
        with pytest.raises(ValueError, match=f"^need at least 64 images a side, got {len(real)} and {len(fake)}$"):
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


def test_an_interval_needs_as_many_images_a_side():
    with pytest.raises(ValueError, match="^need as many real as generated images, got 80 and 70$"):
        distance_with_interval(normal(80, 8, 0), normal(70, 8, 1))


# ---- kernel distance, features, diversity ----------------------------------------------------------------------------


def test_the_kernel_distance_of_one_distribution_is_about_zero_and_grows_with_a_gap():
    x, y = normal(600, 16, 0), normal(600, 16, 1)
    same, near, far = (kernel_distance(x, y + gap) for gap in (0.0, 0.3, 0.6))
    assert abs(same) < 0.1 * near and near < far


def test_the_kernel_distance_agrees_with_a_second_route():
    """With all images in each subset: unbiased squared gap under (x y / width + 1)^3."""
    x, y = 7 * normal(40, 6, 0), 7 * normal(40, 6, 1) + 3.5
    unit = x.std(0).mean()

    def kernel(a, b):
        return (a @ b.T / unit**2 / 6 + 1) ** 3

    def within(k):
        return (k.sum() - np.trace(k)) / (40 * 39)

    expected = within(kernel(x, x)) + within(kernel(y, y)) - 2 * kernel(x, y).mean()
    drawn = np.mean([kernel_distance(x, y, seed=s) for s in range(8)])
    assert drawn == pytest.approx(1000 * expected, rel=0.1)


def test_the_kernel_distance_repeats_and_leaves_the_global_generator_alone():
    x, y = normal(100, 8, 0), normal(100, 8, 1)
    torch.manual_seed(5)
    first, after = kernel_distance(x, y), torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert first == kernel_distance(x, y) != kernel_distance(x, y, seed=1)


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


def test_diversity_is_the_mean_distance_within_a_prompt():
    x = np.array([[0.0, 0], [3, 4], [0, 0], [1, 0], [2, 0], [7, 7], [7, 7]])
    groups = np.array(["b", "b", "a", "a", "a", "c", "c"])
    np.testing.assert_allclose(diversity(x, groups), [5, 4 / 3, 0])
    order = [2, 0, 5, 3, 1, 4, 6]
    np.testing.assert_allclose(diversity(x[order], groups[order]), [4 / 3, 5, 0])  # by first appearance
    with pytest.raises(ValueError, match="^diversity needs at least two images a prompt, 'c' has 1$"):
        diversity(x[:6], groups[:6])


def test_colourfulness_is_nil_for_grey_and_known_for_one_pure_colour():
    grey = np.full((1, 8, 8, 3), 77, np.uint8)
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 200
    half = red.copy()
    half[:, :4] = 0  # half black: opponents 200 and 100 on one half, 0 on the other
    found = metrics.colourfulness(np.concatenate([grey, red, half]))
    np.testing.assert_allclose(found, [0, 0.3 * np.hypot(200, 100), np.hypot(100, 50) + 0.3 * np.hypot(100, 50)])
