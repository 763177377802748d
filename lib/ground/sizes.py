"""What each size of the study means; `size` is a parameter of every notebook."""

from dataclasses import dataclass

from lib.ground.domains import check


@dataclass(frozen=True)
class SamplerSpec:
    """How an image is drawn, the same at every size: by DPM-Solver++(2M) with classifier-free guidance.

    The first `guided` steps run the U-Net with and without the prompt. Later ones, when the image is settled, run it with
    the prompt only and reuse the last guidance correction to the noise. Notebook 01 compares this with ten guided steps
    in full precision.
    """

    guidance_scale: float = 3.0  # chosen by the rule of notebook 01, then frozen
    steps: int = 8
    guided: int = 5
    negative_prompt: str = ""
    full_precision: bool = False  # float32 even where bfloat16 is fast

    def __post_init__(self):
        check(self, guidance_scale="in [0, inf)", steps="at least 1", guided=f"in [1, {self.steps}]")

    @property
    def calls(self) -> int:
        """Runs of the U-Net per image."""
        return self.steps + (self.guided if self.guidance_scale != 1 else 0)


EXACT = SamplerSpec(steps=10, guided=10, full_precision=True)  # as the stock pipeline does


@dataclass(frozen=True)
class Size:
    """Prompts, images, updates and seeds of a study of one size; tuples of four are by category, as in CATEGORIES."""

    prompts: tuple[int, int, int, int]  # labelled prompts
    images: tuple[int, int, int, int]  # images per labelled prompt
    unlabelled: int  # further images, scored by the reward alone
    unseen_prompts: tuple[int, int, int, int]
    unseen_images: int  # images per unseen prompt, on which rewards are tested
    evaluation_stride: int  # every n-th of the 120 evaluation prompts; half as sparse of the 40 selection prompts
    evaluation_images: int  # images per evaluation prompt and model
    candidates: int  # images per prompt and model to choose among, including the evaluation images
    references: int  # real renders against which realism is measured in votes on fidelity
    selection_images: int  # images per selection prompt
    selection_captions: int  # a separate set of held-out web captions, for the distances by which something is chosen
    fidelity_captions: int  # held-out web captions for the Fréchet distance
    reward_seeds: int
    reward_epochs: int
    finetune_seeds: int  # runs of the full method, constant reward and `lib.study.wu.RUNS`; other arms have one
    updates: int
    batch: tuple[int, int]  # model-generated, pre-training
    pretraining: int  # web pairs for the pre-training loss
    judged: int  # held-out renders on which judges are tested
    held_out: int  # one labelled prompt in this many is held out to test rewards
    choice_prompts: tuple[int, int]  # prompts on which users choose: training, test
    choosers: int  # users who choose on each of them
    users: int  # the users they are drawn from
    second_prompts: int  # prompts for which the second generator draws two images
    preference_seeds: int
    preference_epochs: int
    adaptation_updates: int
    adapted_images: int  # images per evaluation prompt and adapted model
    adapted_captions: int  # held-out web captions for an adapted model's Fréchet distance

    def __post_init__(self):
        check(self, "at least 1", held_out="at least 2", choosers=f"in [1, {self.users}]")


# What each is for. smoke: a test of the machinery. laptop: the whole study, with real effects and wide intervals, in half an
# hour on two cores. evening: narrower intervals. gpu: the papers' numbers of prompts, images and labels, on one GPU. full:
# their numbers of updates, too.
SIZES = {
    "smoke": Size(
        prompts=(8, 6, 6, 12), images=(4, 4, 4, 4), unlabelled=32, unseen_prompts=(6, 4, 4, 4), unseen_images=4,
        evaluation_stride=8, evaluation_images=2, candidates=8, references=300, selection_images=1, selection_captions=64,
        fidelity_captions=80, reward_seeds=1, reward_epochs=8, finetune_seeds=2, updates=6, batch=(16, 8), pretraining=64,
        judged=200, held_out=2, choice_prompts=(40, 24), choosers=2, users=12, second_prompts=12, preference_seeds=2,
        preference_epochs=2, adaptation_updates=6, adapted_images=2, adapted_captions=64,
    ),
    "laptop": Size(
        prompts=(54, 29, 40, 160), images=(10, 10, 6, 8), unlabelled=600, unseen_prompts=(30, 20, 15, 15),
        unseen_images=8, evaluation_stride=1, evaluation_images=3, candidates=16, references=1_000, selection_images=3,
        selection_captions=160, fidelity_captions=300, reward_seeds=2, reward_epochs=10, finetune_seeds=1, updates=80,
        batch=(32, 16), pretraining=3_000, judged=1_000, held_out=8, choice_prompts=(300, 150), choosers=12, users=400,
        second_prompts=150, preference_seeds=2, preference_epochs=4, adaptation_updates=60, adapted_images=2,
        adapted_captions=120,
    ),
    "evening": Size(
        prompts=(108, 58, 80, 354), images=(12, 12, 6, 8), unlabelled=2_400, unseen_prompts=(30, 20, 15, 15),
        unseen_images=12, evaluation_stride=1, evaluation_images=6, candidates=16, references=2_000, selection_images=5,
        selection_captions=320, fidelity_captions=800, reward_seeds=3, reward_epochs=10, finetune_seeds=2, updates=100,
        batch=(40, 20), pretraining=6_000, judged=2_000, held_out=10, choice_prompts=(800, 360), choosers=12, users=400,
        second_prompts=300, preference_seeds=3, preference_epochs=4, adaptation_updates=110, adapted_images=3,
        adapted_captions=320,
    ),
    "gpu": Size(
        prompts=(108, 58, 80, 2_528), images=(60, 60, 30, 6), unlabelled=16_000, unseen_prompts=(30, 20, 40, 60),
        unseen_images=24, evaluation_stride=1, evaluation_images=8, candidates=16, references=4_000, selection_images=16,
        selection_captions=1_000, fidelity_captions=2_000, reward_seeds=3, reward_epochs=10, finetune_seeds=3,
        updates=2_000, batch=(256, 256), pretraining=20_000, judged=4_000, held_out=10, choice_prompts=(3_500, 1_200),
        choosers=6, users=2_659, second_prompts=1_000, preference_seeds=3, preference_epochs=4, adaptation_updates=600,
        adapted_images=4, adapted_captions=1_000,
    ),
    "full": Size(
        prompts=(108, 58, 80, 2_528), images=(60, 60, 30, 6), unlabelled=16_000, unseen_prompts=(30, 20, 40, 60),
        unseen_images=24, evaluation_stride=1, evaluation_images=16, candidates=16, references=10_000,
        selection_images=16, selection_captions=2_000, fidelity_captions=5_000, reward_seeds=5, reward_epochs=20,
        finetune_seeds=5, updates=10_000, batch=(256, 256), pretraining=100_000, judged=10_000, held_out=10,
        choice_prompts=(3_500, 1_200), choosers=6, users=2_659, second_prompts=1_000, preference_seeds=5,
        preference_epochs=6, adaptation_updates=10_000, adapted_images=8, adapted_captions=5_000,
    ),
}  # fmt: skip


def size_named(name: str) -> Size:
    """The size of this name; raises ValueError that lists the known ones."""
    if name not in SIZES:
        raise ValueError(f"unknown size {name!r}: expected one of {', '.join(SIZES)}")
    return SIZES[name]
