"""What an update draws depends on the seed and the update alone; processes share it out."""

import pytest
import torch

from lib.scale import draws


def drawn(seed=0, counts=(5, 4), law="even", blanks=None, dropout=0.0):
    g = torch.Generator().manual_seed(seed)
    return draws.items([9, 7], counts, (2, 3, 3), 1000, law, [g, g], blanks, dropout)


@pytest.mark.parametrize("processes", [1, 2, 4, 9])
def test_processes_share_out_each_item_once(processes):
    whole, parts = drawn(), [drawn().share(p, processes) for p in range(processes)]
    assert sum(map(len, parts)) == len(whole) == 9 and max(map(len, parts)) - min(map(len, parts)) <= 1
    for name in ("source", "row", "timestep", "noise", "blank"):
        column = torch.empty_like(getattr(whole, name))
        for p, part in enumerate(parts):
            column[p::processes] = getattr(part, name)
        assert torch.equal(column, getattr(whole, name))


def test_items_come_from_their_data_set_and_another_seed_draws_others():
    items = drawn()
    assert items.source.tolist() == [0] * 5 + [1] * 4 and items.row[:5].max() < 9 and items.row[5:].max() < 7
    assert torch.equal(items.noise, drawn().noise) and not torch.equal(items.noise, drawn(1).noise)
    assert (items.blank == -1).all() and drawn(counts=(0, 4)).source.tolist() == [1] * 4


def test_even_timesteps_are_uniform_and_independent():
    g = torch.Generator().manual_seed(0)
    t = torch.stack([draws.even_timesteps(50, g, 1000) for _ in range(400)]).double()
    assert t.min() == 0 and t.max() == 999
    assert t.mean().item() == pytest.approx(499.5, abs=4 * 288.7 / 20_000**0.5)
    assert t.mean(1).var().item() == pytest.approx(288.7**2 / 50, rel=0.3)  # stratified ones would hardly vary


def test_dropped_captions_are_replaced_by_weight():
    blank = drawn(counts=(9_000, 1_000), blanks={"": 0.75, "x": 0.25}, dropout=0.2).blank
    shares = [(blank == k).double().mean().item() for k in (-1, 0, 1)]
    assert shares == pytest.approx([0.8, 0.15, 0.05], abs=0.015)
