"""What a size costs: images drawn, images trained on, runs of the U-Net, hours. In `desk`, as no result depends on it."""

from lib.ground.sizes import SIZES, SamplerSpec, Size, size_named

TRAINED = 5  # arms of `lib.study.lee.ARMS`; the full method is among the lengths that notebook 05 tries
TRIED = 9  # settings that notebook 05 tries: the centre, two other lengths, and six of the centre's length
OTHERS = 16.5  # more training, in runs of the size's own length: 8 of notebook 05's grid, 1.5 of TRUTH, 3 in 07, 4 in 10
SCALES = 19  # points to choose among: 7 guidance scales of the base, 4 more of the full method, and 4 strengths and 4 more
# scales of the reward direction
ALONG = 18  # points of notebook 06 along the guidance scales, besides the study's own
EVENING_HOURS = 1.6  # two cores with bfloat16, nothing cached: 84 minutes of both; 106 by the clock, with other work beside


def work(size: Size) -> dict[str, int]:
    """Images drawn by notebooks 01, 05 and 06 and trained on by 05, 06, 07 and 10; without 10's frontier by choice."""
    runs = size.finetune_seeds
    tuned = TRAINED + 2 * (runs - 1) + runs  # more runs of the full method and of constant reward, and the random control
    asked = -(-120 // size.evaluation_stride)
    drawn = {
        "to label": sum(p * n for p, n in zip(size.prompts, size.images, strict=True)),
        "unlabelled": size.unlabelled,
        "drawn at scale 1": sum(p * n for p, n in zip(size.prompts, size.images, strict=True)) + size.unlabelled,
        "unseen": sum(size.unseen_prompts) * size.unseen_images,
        "choices": (40 * size.selection_images + size.selection_captions) * (SCALES + TRIED),
        "evaluation": asked * size.evaluation_images * (3 + tuned + 4 * runs),  # some at their best scale
        "fidelity": size.fidelity_captions * (1 + TRAINED),
        "along guidance": (asked * size.adapted_images + size.adapted_captions) * ALONG,
    }
    return drawn | {"trained on": round(size.updates * sum(size.batch) * (tuned + OTHERS))}


def unet_runs(work) -> int:
    """Runs of the U-Net for this work: all that it takes to draw an image; training on one costs about three."""
    return sum(n * (3 if what == "trained on" else SamplerSpec().calls) for what, n in work.items())


def cpu_hours(name: str) -> float:
    """Rough time a size takes on two CPU cores, in hours: scaled from evening by the number of U-Net runs."""
    return EVENING_HOURS * unet_runs(work(size_named(name))) / unet_runs(work(SIZES["evening"]))
