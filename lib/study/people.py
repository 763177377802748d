"""People's labels in Lee et al.'s study (a LeeStudy): in place of the simulated labellers', or added to them."""

import numpy as np
import pandas as pd

from lib.feedback import people
from lib.feedback.labels import refuse_strangers
from lib.ground.cache import Artifact, digest_of
from lib.images import embedding, models, sampling
from lib.methods import ensemble, reward


def labels_of(study, images: Artifact) -> pd.DataFrame:
    """The labels of these images in the file that `study.raters` names.

    Raises ValueError if a label of the file is neither of a labelled image nor of one of an unseen object: people's labels
    are of the very pixels that they saw.
    """
    table = people.labels_in(study.raters)
    shown = [sampling.load_images(s) for s in (study.labelled_images, study.unseen_images)]
    digests, prompts = ([x for s in shown for x in getattr(s, name)] for name in ("digests", "prompts"))
    refuse_strangers("labels", zip(table.image, table.prompt, strict=True), digests, prompts)
    return table[table.image.isin(sampling.load_images(images).digests)].reset_index(drop=True)


def rewards(study, table: pd.DataFrame, pixels: np.ndarray, added: bool = False) -> list:
    """Rewards as `study.rewards()` gives them, trained on labels of images that the study need not have drawn.

    `table` are labels in the schema of `lib.feedback.labels`, `pixels` uint8 [row, height, width, 3] their images; with
    `added`, the study's own labels are learnt from, too. There are as many updates as with the study's own labels alone.
    """
    clip, preprocess, tokenizer = models.load_clip()
    own, prompts, raters = study.feedback
    parts = [(
        embedding.embed_images(clip, preprocess, pixels), embedding.embed_texts(clip, tokenizer, list(table.prompt)),
        table.label.map({"good": 1.0, "bad": 0.0, "skip": 0.5}).astype(float).to_numpy(), table.prompt.to_numpy(str),
        pd.factorize(table.rater, sort=True)[0] + raters.max() + 1,
    )]  # fmt: skip
    if added:
        parts.append((*study.embeddings(study.labelled_images), own, np.array(prompts), raters))
    image, text, y, asked, codes = map(np.concatenate, zip(*parts, strict=True))
    used = np.isfinite(y) & (y != 0.5)  # skips are left out of training
    epochs = max(1, round(study.size.reward_epochs * (np.isfinite(own) & (own != 0.5)).sum() / used.sum()))
    specs = [reward.RewardSpec(seed=seed, epochs=epochs) for seed in range(study.size.reward_seeds)]
    said = [[float(v), int(k)] if np.isfinite(v) else None for v, k in zip(y, codes, strict=True)]
    inputs = {"images": digest_of(list(table.image)), "clip": study.clip_digest, "labels": digest_of(said)}
    inputs |= {"own images": study.labelled_images} if added else {}
    found = ensemble.trained(specs, image, text, asked.tolist(), y, codes, models.load_clip, inputs)
    return list(zip(found, specs, strict=True))
