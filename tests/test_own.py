"""A rater, an auxiliary loss, a prompt grid and a weighting of one's own: each runs, and none takes another's result."""

import functools
import json
from dataclasses import replace
from types import FunctionType

import numpy as np
import pytest
import torch

from lib.desk import report
from lib.feedback.panel import RaterSpec
from lib.ground.cache import NotMade, only_found
from lib.ground.functions import written_digest
from lib.ground.paths import ROOT
from lib.ground.sizes import SIZES
from lib.images import sampling
from lib.methods import ensemble
from lib.methods.ablation import joined
from lib.methods.reward import RewardSpec, prompt_classification_loss
from lib.study import common, own
from lib.study.lee import CONSTANT, FULL_METHOD, LeeStudy

CELLS = json.loads((ROOT / "notebooks" / "11_bring_your_own.ipynb").read_text("utf-8"))["cells"]


@pytest.fixture
def small(monkeypatch, patched, tmp_path):
    """Size smoke with few images and updates; embeddings of perturbed prompts are drawn at random."""
    size = replace(
        SIZES["smoke"], prompts=(2, 2, 2, 2), images=(4, 4, 4, 4), unlabelled=4, held_out=10**9, reward_seeds=2, updates=4,
        batch=(2, 1), pretraining=2, evaluation_stride=60, unseen_prompts=(2, 2, 2, 2), adapted_images=1,
    )  # fmt: skip
    monkeypatch.setattr(common, "size_named", lambda name: size)
    bank = np.random.default_rng(1).normal(size=(8640, 128)).astype(np.float32)
    monkeypatch.setattr(ensemble, "perturbed_embeddings", lambda form, load, digest: bank)
    monkeypatch.setenv("STUDY_REPORTS", str(tmp_path / "reports"))
    settings = dict(learning_rate=1e-3, schedule="falling", beta=0.25, updates=4, drawn_at=1.5)
    report.write("settings", settings, "smoke", "05_fine_tuning")
    return LeeStudy("smoke")


def same(a: list, b: list) -> bool:
    """Whether two lists of rewards have the same weights."""
    states = ([network.state_dict() for network, _ in rewards] for rewards in (a, b))
    return all(torch.equal(x[k], y[k]) for x, y in zip(*states, strict=True) for k in x)


# ---- the notebook -------------------------------------------------------------------------------------------------


def run(edit=lambda source: source) -> dict:
    """What the notebook's code cells leave at size smoke, after an edit of their text."""
    left = {"__name__": "notebook"}
    for cell in (c for c in CELLS if c["cell_type"] == "code"):
        source = "".join(cell["source"]).replace('size = "laptop"', 'size = "smoke"')
        exec(compile(edit(source), cell["id"], "exec"), left)
    return left


def test_the_notebooks_recipes_run_and_each_changes_what_it_replaces(small):
    left = run()
    rewards, names = left["rewards"], {"reward", "reward, lambda = 0", "noisier labellers", "strict rater", "margin loss"}
    assert set(rewards) == names and all(len(r) == small.size.reward_seeds for r in rewards.values())
    assert [n for n in names if same(rewards[n], rewards["reward"])] == ["reward"]
    assert set(left["tables"]) == set(left["raters"]) == {"noisier labellers", "strict rater"}
    assert len(sampling.load_images(left["images"])) == len(left["grid"]) == 8
    (full, updates), steeper = left["tuned"].values()
    assert steeper[1] == updates == left["spec"].updates == 4 and steeper[0].digest != full.digest
    for name in ("own_raters", "own_rewards", "own_weighting"):
        assert report.read(name, "smoke")


def test_a_variant_of_two_fields_is_refused_by_its_name_in_the_notebook(small):
    two = "replace(base, auxiliary_weight=0.0, temperature=0.5)"
    with pytest.raises(ValueError, match="^'reward, lambda = 0' changes auxiliary_weight and temperature: change only"):
        run(lambda source: source.replace("replace(base, auxiliary_weight=0.0)", two))


# ---- the study ----------------------------------------------------------------------------------------------------


def test_a_recipe_that_changes_nothing_is_the_study_itself_and_equal_weights_are_the_control(small):
    assert own.labelled(small, RaterSpec()).equals(small.labels)
    assert same(own.rewards(small), small.rewards()) and same(own.rewards(small, small.labels), small.rewards())
    spec = small.finetune_spec(learning_rate=1e-3)
    with only_found(), pytest.raises(NotMade):
        small.finetuned(FULL_METHOD, spec)
    for arm, weighting in ((FULL_METHOD, lambda r, prompts: r), (CONSTANT, lambda r, prompts: np.full(len(r), 7))):
        unet, updates = own.finetuned(small, weighting, spec)
        with only_found():
            assert small.finetuned(arm, spec) == unet and updates == spec.updates


def test_a_loss_is_found_again_as_long_as_it_does_the_same(small):
    first = own.rewards(small, auxiliary=margin_loss(0.2))
    with only_found():
        assert same(own.rewards(small, auxiliary=margin_loss(0.2)), first)
        for other in (margin_loss(0.3), lambda rewards, temperature: rewards[..., 0]):
            with pytest.raises(NotMade):
                own.rewards(small, auxiliary=other)
    by_hand = own.rewards(small, auxiliary=lambda rewards, t: -(rewards / t).log_softmax(-1)[..., 0])
    assert same(by_hand, small.rewards()) and not same(first, by_hand)


def margin_loss(margin: float):
    return lambda rewards, temperature: (margin - rewards[..., :1] + rewards[..., 1:]).clamp(min=0).mean(-1)


@pytest.mark.parametrize(
    "loss, got", [(lambda rewards, t: rewards.mean(), r"0\.\d+"), (lambda rewards, t: rewards, r"\(1, \d+, 6\)"),
                  (lambda rewards, t: 0.5, "0.5")],
)  # fmt: skip
def test_a_loss_that_is_not_one_number_an_image_is_refused(small, loss, got):
    with pytest.raises(ValueError, match=rf"^the auxiliary loss gave {got}: expected a tensor.* = \(1, \d+\)$"):
        own.rewards(small, auxiliary=loss)


def test_raters_and_weights_that_cannot_be_meant_are_refused_in_a_line(small):
    for rater, said in (
        (lambda chances, prompts: ["good"], "gave 1 labels for 32 images: expected one for each$"),
        (lambda chances, prompts: [True] * len(prompts), "^unknown label .*True.* in row 0: expected one of good, bad"),
    ):
        with pytest.raises(ValueError, match=said):
            own.labelled(small, rater)
    for weighting, said in (
        (lambda r, prompts: r - 1, r"gave weights of shape \(36,\), -.*: expected 36, at least 0 and not all 0$"),
        (lambda r, prompts: 0 * r, "gave weights of .* 0 to 0: expected"),
        (lambda r, prompts: r[1:], r"gave weights of shape \(35,\)"),
        (lambda r, prompts: r + np.nan, "^36 of 36 values of weights are NaN"),
    ):
        with pytest.raises(ValueError, match=said):
            own.finetuned(small, weighting, small.finetune_spec())


def test_each_variant_is_made_ahead_and_comes_back_by_name(monkeypatch):
    asked, study = [], LeeStudy("smoke")
    monkeypatch.setattr(LeeStudy, "ahead", lambda self, *wanted: asked.extend(wanted))
    monkeypatch.setattr(LeeStudy, "finetuned", named := lambda self, arm, spec: f"{arm} by {spec}")
    named.__name__ = "finetuned"
    assert study.each(study.finetuned, {"a": "one arm", "b": "another"}, 3) == {"a": "one arm by 3", "b": "another by 3"}
    assert asked == [("finetuned", "one arm", 3), ("finetuned", "another", 3)]
    assert study.each(study.finetuned, ["x", "y"], 3) == {"x": "x by 3", "y": "y by 3"} and len(asked) == 4


# ---- the digest of a function -------------------------------------------------------------------------------------

LOSS = "def loss(r, t=2.0, *, k=1):\n    return [helper(x) * power + k for x in r if x in {'a', 'b'}]"
AROUND = "import numpy as np\npower, unused = 2.0, 5\nscale = 3\ndef helper(x):\n    return np.exp(x) * scale\n"


def written(source: str = LOSS, around: str = AROUND) -> FunctionType:
    left = {"__name__": "notebook"}
    exec(around + source, left)
    return left["loss"]


@pytest.mark.parametrize(
    "source, around",
    [(LOSS.replace("    return", "    # why\n\n    return  "), AROUND), (LOSS, "# moved\n\n" + AROUND),
     (LOSS, AROUND.replace("unused = 2.0, 5", "unused = 2.0, 6"))],
)  # fmt: skip
def test_comments_layout_and_what_it_does_not_use_leave_a_functions_digest(source, around):
    assert written_digest(written(source, around)) == written_digest(written())


@pytest.mark.parametrize(
    "source, around",
    [(LOSS.replace("* power", "/ power"), AROUND), (LOSS.replace("t=2.0", "t=2.5"), AROUND),
     (LOSS.replace("k=1", "k=2"), AROUND),
     (LOSS.replace("'b'", "'c'"), AROUND), (LOSS.replace("+ k", "- k"), AROUND),
     (LOSS, AROUND.replace("power, unused = 2.0", "power, unused = 3.0")),  # used in a comprehension alone
     (LOSS, AROUND.replace("scale = 3", "scale = 4")), (LOSS, AROUND.replace("np.exp", "np.log")),
     (LOSS, AROUND.replace("import numpy as np", "import math as np"))],
)  # fmt: skip
def test_an_edit_of_it_or_of_what_it_uses_changes_a_functions_digest(source, around):
    assert (source, around) != (LOSS, AROUND) and written_digest(written(source, around)) != written_digest(written())


def test_two_lambdas_of_one_line_differ_and_a_function_that_ran_often_does_not():
    a, b = lambda r: r + 1, lambda r: r + 2
    assert written_digest(a) != written_digest(b)
    before = written_digest(f := margin_loss(0.1))
    for _ in range(200):
        f(torch.zeros(2, 3), 1.0)
    assert written_digest(f) == before != written_digest(margin_loss(0.2))


def test_functions_may_call_themselves_and_each_other():
    around = "def even(n):\n    return n == 0 or loss(n - 1)\n"
    loss = "def loss(n):\n    return n > {} and even(n - 1)"
    assert written_digest(written(loss.format(0), around)) != written_digest(written(loss.format(1), around))


@pytest.mark.parametrize(
    "around, kind", [("import numpy as np\ntable = np.ones(3)", "ndarray"), ("table = {'a': 1}", "dict"),
                     ("import functools\n@functools.cache\ndef table(): return 1", "_lru_cache_wrapper"),
                     ("class table: pass", "type"), ("table = [].append", "builtin_function_or_method")],
)  # fmt: skip
def test_what_no_key_can_hold_is_refused_by_name(around, kind):
    with pytest.raises(ValueError, match=f"^loss uses table, a {kind}: only numbers, text and functions can"):
        written_digest(written("def loss(r):\n    return r * table", around + "\n"))


def test_only_functions_have_a_digest_and_those_of_the_study_count_with_their_module():
    for wrong in (0.5, functools.partial(max), "loss"):
        with pytest.raises(ValueError, match="^expected a function written with def or lambda, got "):
            written_digest(wrong)
    uses = "def loss(r):\n    return table(r)"
    of = [written_digest(written(uses, f"from lib.{where} as table\n")) for where in (
        "methods.reward import prompt_classification_loss", "methods.reward import scaled", "ground.stats import Interval")]
    assert of[0] == of[1] != of[2]  # of one module, whose whole source counts
    assert written_digest(prompt_classification_loss) and joined(RewardSpec())
