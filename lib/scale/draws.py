"""What an update draws, for the whole global batch, from the seed and the update's number; each process takes its share.

So the number of processes changes nothing about what is learnt, and a resumed run needs no data position and no state of a
random generator: the number of the update is both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from lib.methods.denoising import timesteps


def even_timesteps(count: int, g: Generator, steps: int) -> Tensor:
    """Timesteps int64 [count], uniform in [0, steps), each on its own: as both papers train. Ho et al. 2020, Algorithm 1."""
    return torch.randint(steps, (count,), generator=g)


# Laws of timesteps. `scene` suits images of 8 x 8 latents (`lib.methods.denoising.noise_levels`).
LAWS: dict[str, Callable[[int, Generator, int], Tensor]] = {"even": even_timesteps, "scene": timesteps}


def law_named(name: str) -> Callable[[int, Generator, int], Tensor]:
    """A law of timesteps; raises ValueError that lists the known ones."""
    if name not in LAWS:
        raise ValueError(f"unknown law of timesteps {name!r}: expected one of {', '.join(LAWS)}")
    return LAWS[name]


@dataclass(frozen=True)
class Items:
    """Items of the global batch, all on the CPU: the data set and the row in it, timestep (int64 [item] each), noise
    [item, channel, height, width], and the index of the text that replaces the caption, or -1 if it is kept."""

    source: Tensor
    row: Tensor
    timestep: Tensor
    noise: Tensor
    blank: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, which: slice) -> "Items":
        return Items(*(getattr(self, f.name)[which] for f in fields(self)))

    def share(self, process: int, processes: int) -> "Items":
        """Every `processes`-th item, from that of number `process` on: a like mix of all data sets for each process."""
        return self[process::processes]


def items(
    lengths: Sequence[int],
    counts: Sequence[int],
    shape: Sequence[int],
    steps: int,
    law: str,
    generators: Sequence[Generator],
    blanks: Mapping[str, float] | None = None,
    dropout: float = 0.0,
) -> Items:
    """Draw `counts[i]` items from data set i of `lengths[i]` rows by its generator: rows, timesteps out of `steps` by `law`,
    noise of a latent's `shape`. With `blanks`, each item then loses its caption with probability `dropout`, to one of these
    texts by their weights.

    In `mini`'s law these are the draws of `lib.methods.finetune` and `lib.methods.adaptation`.
    """
    drawn = []
    for source, (length, count, g) in enumerate(zip(lengths, counts, generators, strict=True)):
        if count:
            rows = torch.randint(length, (count,), generator=g)
            t = law_named(law)(count, g, steps)
            drawn.append((torch.full((count,), source), rows, t, torch.randn((count, *shape), generator=g)))
    lost = [_blank(n, blanks, dropout, g) for n, g in zip(counts, generators, strict=True)]
    return Items(*(torch.cat(column) for column in zip(*drawn, strict=True)), torch.cat(lost))


def _blank(count: int, blanks: Mapping[str, float] | None, dropout: float, g: Generator) -> Tensor:
    if not blanks:
        return torch.full((count,), -1)
    lost = torch.rand(count, generator=g) < dropout
    return torch.where(lost, torch.tensor(list(blanks.values())).multinomial(count, True, generator=g), -1)
