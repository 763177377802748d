"""People's labels in Lee et al.'s study (a LeeStudy): in place of the simulated labellers', or added to them."""

from dataclasses import replace

import numpy as np
import pandas as pd

from lib.feedback import people
from lib.feedback.labels import refuse_strangers
from lib.ground.cache import digest_of
from lib.images import embedding, models, sampling
from lib.methods import ensemble, reward


def labels_of(study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The labels in the file that `study.raters` names: of the labelled images, and of images of unseen objects.

    Raises ValueError if a label is about neither: people's labels are of the very pixels that they saw.
    """
    table, shown = people.labels_in(study.raters), [sampling.load_images(s) for s in (study.labelled_images, study.unseen_images)]
    digests, prompts = ([x for s in shown for x in getattr(s, name)] for name in ("digests", "prompts"))
    refuse_strangers("labels", zip(table.image, table.prompt, strict=True), digests, prompts)
    seen = table.image.isin(shown[0].digests)
    return table[seen].reset_index(drop=True), table[~seen].reset_index(drop=True)


def rewards(study, table: pd.DataFrame, pixels: np.ndarray, added: bool = False) -> list:
    """Rewards as `study.rewards()` gives them, trained on labels of images that the study need not have drawn.

    `table` are labels in the schema of `lib.feedback.labels`, `pixels` uint8 [row, height, width, 3] its images; with `added`,
    the study's own labels are learnt from, too. There are as many updates as with the study's own labels.
    """
    clip, preprocess, tokenizer = models.load_clip()
    images, texts = [embedding.embed_images(clip, preprocess, pixels)], [embedding.embed_texts(clip, tokenizer, table.prompt)]
    own, prompts, raters = study.feedback
    labels = [table.label.map({"good": 1.0, "bad": 0.0, "skip": 0.5}).astype(float).to_numpy()]
    names, codes = [list(table.prompt)], [pd.factorize(table.rater, sort=True)[0] + 1 + int(raters.max())]
    if added:
        for kept, more in zip((images, texts, labels, names, codes), (*study.embeddings(study.labelled_images), own, prompts, raters)):
            kept.append(more)
    image, text, y, code = (np.concatenate(x) for x in (images, texts, labels, codes))
    known = np.isfinite(y)
    epochs = round(study.size.reward_epochs * np.isfinite(own).sum() / known.sum())
    specs = [reward.RewardSpec(seed=seed, epochs=epochs) for seed in range(study.size.reward_seeds)]
    learnt = [[float(v), int(c)] if k else None for v, c, k in zip(y, code, known, strict=True)]
    inputs = {"images": digest_of([*table.image]), "clip": study.clip_digest, "labels": digest_of(learnt)}
    inputs |= {"own images": study.labelled_images} if added else {}
    said = [x for part in names for x in part]
    return list(zip(ensemble.trained(specs, image, text, said, y, code, models.load_clip, inputs), specs, strict=True))
