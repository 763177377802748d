"""The study's images as sides of a vote."""

from typing import TYPE_CHECKING

import numpy as np

from lib.feedback import votes
from lib.ground.cache import Artifact
from lib.images import sampling

if TYPE_CHECKING:
    from lib.study.common import Study


def sides(
    study: "Study", images: list[Artifact], rows: np.ndarray, spec: votes.VoteSpec = votes.VoteSpec()
) -> list[votes.Side]:  # fmt: skip
    """Sides of four-image sets, as rated by nine simulated raters: `rows` int [side, prompt, 4] are indices into the images
    of all artifacts together."""
    shown, looks = [sampling.load_images(s) for s in images], [study.looks(s, "a") for s in images]
    used, places = np.unique(rows, return_inverse=True)
    seen = {head: np.concatenate([x[head] for x in looks])[used] for head in looks[0]}
    pixels = np.concatenate([s.pixels for s in shown])[used]
    named = [(n, p) for s in shown for n, p in zip(s.names, s.prompts, strict=True)]
    names, texts = zip(*[named[i] for i in used], strict=True)
    return votes.sides(seen, study.realism(pixels), names, texts, places.reshape(rows.shape), spec)


def side(
    study: "Study", images: list[Artifact], rows: np.ndarray, spec: votes.VoteSpec = votes.VoteSpec()
) -> votes.Side:  # fmt: skip
    """One side: `rows` int [prompt, 4]."""
    return sides(study, images, rows[None], spec)[0]
