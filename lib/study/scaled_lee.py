"""Lee et al.'s study of a setup other than `mini`."""

from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from lib.ground.cache import Artifact, digest_of
from lib.ground.setups import NotServed
from lib.methods import ensemble, reward
from lib.methods.finetune import FinetuneSpec
from lib.scale import hub
from lib.study import people
from lib.study.lee import LeeStudy
from lib.study.scaled import Scaled, weights_of


class ScaledLee(Scaled, LeeStudy):
    """Lee et al.'s study of a setup."""

    def labels_of(self, run: int):
        """People's labels, the same in each run."""
        if not (path := self.setup.raters.labels) or not Path(path).exists():
            missing = f"there is no file {path}" if path else "the setup names no file of labels"
            raise NotServed(f"{missing}: label the images of notebook 01, and name the file in raters.labels")
        return super().labels_of(run)

    @cached_property
    def unseen_labels(self):
        """People's labels of images of unseen objects."""
        if not len(given := people.labels_of(self, self.unseen_images)):
            raise NotServed("nobody has labelled images of unseen objects")
        return given

    def taught(self, specs: list, feedback: tuple, auxiliary=reward.prompt_classification_loss) -> list:
        """Rewards trained on `feedback`, with the setup's CLIP."""
        labels, texts, raters = feedback
        image, text = self.embeddings(self.labelled_images)
        said = [None if np.isnan(y) else [float(y), int(k)] for y, k in zip(labels, raters, strict=True)]
        inputs = {"images": self.labelled_images, "clip": self.clip_digest, "labels": digest_of(said)}
        specs = [replace(spec, epochs=spec.epochs or self.size.reward_epochs) for spec in specs]
        load = partial(hub.load_clip, self.setup.clip)
        found = ensemble.trained(specs, image, text, texts, labels, raters, load, inputs, auxiliary=auxiliary)
        return list(zip(found, specs, strict=True))

    def stated_settings(self) -> dict:
        """The settings of fine-tuning that the setup states, where no panel chooses them."""
        spec = self.finetune_spec()
        return {k: getattr(spec, k) for k in ("learning_rate", "schedule", "beta", "updates")}

    def finetune_spec(self, **chosen) -> FinetuneSpec:
        """Fine-tuning at this size, at the setup's learning rate unless another is chosen."""
        rate = self.setup.training.learning_rate
        return super().finetune_spec(**({"learning_rate": rate} if rate else {}) | chosen)

    def tune(self, sets, rows: np.ndarray, weight: np.ndarray, spec: FinetuneSpec, start=None) -> Artifact:
        """As `lib.study.tuning.tuned`: the U-Net trained on weighted images and on the pre-training pairs."""
        drawn = {"latents": [self.latents(s) for s in sets], "rows": rows.tolist(), "weights": weight.astype(np.float32)}
        config = {"model": drawn, "pretraining": {"latents": self.web_latents()}, "spec": asdict(spec)}
        return self.launched("finetune", config | ({"start": weights_of(start)} if start else {}))

    def reward_direction(self, spec: FinetuneSpec, strength, of: str = ""):
        raise NotServed("the simulated panel chooses the strength of a reward direction")
