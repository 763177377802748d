"""The base moved along what one training taught and another did not."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.ground.cache import Artifact
from lib.methods import arithmetic


def weights(seed):
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(3, 2, generator=g), "b": torch.randn(4, generator=g)}


BASE, PLUS, MINUS = weights(0), weights(1), weights(2)


def test_the_difference_is_added_to_the_base_so_many_times():
    found = arithmetic.moved(BASE, PLUS, MINUS, 2.0)
    for k in BASE:
        torch.testing.assert_close(found[k], BASE[k] + 2 * PLUS[k] - 2 * MINUS[k])


def test_a_model_less_itself_leaves_the_base_and_a_model_less_the_base_is_that_model():
    same, whole = arithmetic.moved(BASE, PLUS, PLUS, 4.0), arithmetic.moved(BASE, PLUS, BASE, 1.0)
    for k in BASE:
        assert torch.equal(same[k], BASE[k])
        torch.testing.assert_close(whole[k], PLUS[k])


def test_weights_of_another_network_and_strengths_that_are_no_number_are_refused():
    with pytest.raises(ValueError, match="different networks: b are not"):
        arithmetic.moved(BASE, {"a": PLUS["a"]}, MINUS, 1.0)
    with pytest.raises(ValueError, match="strength"):
        arithmetic.moved(BASE, PLUS, MINUS, float("nan"))


@pytest.fixture
def tuned(make_pipe, tmp_path):
    """A base, and two tuned U-Nets as stages leave them."""
    pipe, found = make_pipe(), []
    for seed in (1, 2):
        g, path = torch.Generator().manual_seed(seed), tmp_path / f"tuned {seed}"
        path.mkdir()
        moved = {k: (w + 0.1 * torch.randn(w.shape, generator=g)).half() for k, w in pipe.unet.named_parameters()}
        save_file({k: w.detach().contiguous() for k, w in moved.items()}, path / "unet-3.safetensors")
        found.append((Artifact("unet", str(seed), path, str(seed), 0.0), 3))
    return pipe, *found


def test_the_stage_moves_the_base_towards_the_first_and_away_from_the_second(tuned, empty_cache):
    pipe, plus, minus = tuned
    unet, updates = arithmetic.along(lambda: pipe, plus, minus, 0.5, "base")
    found, p, m = (load_file(u.path / "unet-3.safetensors") for u in (unet, plus[0], minus[0]))
    assert updates == 3
    for k, w in pipe.unet.named_parameters():
        torch.testing.assert_close(found[k].float(), w + 0.5 * (p[k].float() - m[k].float()), atol=2e-3, rtol=2e-3)
    assert arithmetic.along(lambda: pipe, minus, plus, 0.5, "base")[0].key != unet.key


def test_models_of_other_lengths_are_refused(tuned):
    pipe, plus, (minus, _) = tuned
    with pytest.raises(ValueError, match="3 updates and the other 4: both need the same number"):
        arithmetic.along(lambda: pipe, plus, (minus, 4), 1.0, "base")
