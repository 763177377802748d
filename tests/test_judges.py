"""A judge's verdict is right when all that the prompt names is right; the two judges see with different eyes."""

import numpy as np
import pytest
import torch

from lib.feedback.judges import attribute_chances, look, match, truth, verdicts
from lib.images.networks import COLOUR_CLASSES, HEADS, FeatureNet, Judge, Residual, StridedTrunk
from lib.world.prompts import Attributes, write
from lib.world.scenes import BACKGROUNDS, COLOURS, OBJECTS, Scene

PROMPT = "Two blue dogs in the forest"
DOGS = Scene(2, "blue", "dog", "forest")


def sees(*classes: dict[str, int], sure: float = 0.6) -> dict[str, np.ndarray]:
    """What a judge sees that gives the chance `sure` to one class a head and spreads the rest evenly."""
    out = {}
    for head, n in HEADS.items():
        out[head] = np.full((len(classes), n), (1 - sure) / (n - 1), np.float32)
        for i, seen in enumerate(classes):
            out[head][i, seen[head]] = sure
    return out


def verdict(prompt: str, scene: Scene, **changed: int) -> bool:
    return bool(verdicts(sees(truth(scene) | changed), [prompt])[0])


def test_a_verdict_is_right_when_every_named_attribute_is():
    assert verdict(PROMPT, DOGS)
    for head in HEADS:
        right = truth(DOGS)[head]
        others = [k for k in range(HEADS[head]) if k != right]
        assert not any(verdict(PROMPT, DOGS, **{head: k}) for k in others), head


@pytest.mark.parametrize(
    "prompt, matters",
    [("Two dogs", {"object", "count"}), ("A blue colored dog", {"object", "colour"}),
     ("A dog in the forest", {"object", "background"}), ("Two blue dogs", {"object", "count", "colour"})],
)  # fmt: skip
def test_what_a_prompt_does_not_name_may_be_anything(prompt, matters):
    for head, n in HEADS.items():
        right = [verdict(prompt, DOGS, **{head: k}) for k in range(n)]
        assert sum(right) == (1 if head in matters else n), head


def test_a_natural_apple_is_a_red_apple_and_a_natural_dog_is_no_red_dog():
    assert verdict("A red colored apple", Scene(1, None, "apple", "moon"))
    assert verdict("A red colored apple", Scene(1, "red", "apple", "moon"))
    assert not verdict("A green colored apple", Scene(1, None, "apple", "moon"))
    assert not verdict("A red colored dog", Scene(1, None, "dog", "moon"))
    assert not verdict("A red colored apple", Scene(1, None, "apple", "moon"), colour=HEADS["colour"] - 1)


def test_verdicts_agree_with_the_world_on_every_kind_of_clean_scene():
    rng = np.random.default_rng(0)

    def pick(options, chance=1.0):
        return options[rng.integers(len(options))] if rng.random() < chance else None

    some = ("apple", "dog", "rose")
    scenes = [Scene(int(rng.integers(1, 4)), pick((None, "red", "white")), pick(some), pick(("moon", "sea")))
              for _ in range(1500)]  # fmt: skip
    asked = [Attributes(pick(some), pick((1, 2), 0.4), pick(("red", "white"), 0.4), "moon") for _ in scenes]
    right = verdicts(sees(*map(truth, scenes)), [write(a) for a in asked])
    assert right.tolist() == [a.matches(s) for a, s in zip(asked, scenes, strict=True)]
    assert 50 < right.sum() < 1450


def test_the_chance_of_an_attribute_sums_its_right_classes():
    other = 0.4 / (HEADS["colour"] - 1)
    seen = sees(truth(DOGS), truth(Scene(1, None, "apple", "sea")), truth(Scene(6, None, "dog", "sea")))
    found = attribute_chances(seen, [PROMPT, "A red colored apple", "A red colored dog"])
    assert found["object"] == pytest.approx([0.6, 0.6, 0.6])
    assert found["colour"] == pytest.approx([0.6, 0.6 + other, other])  # an apple is red by nature, a dog is not
    for head in ("count", "background"):
        assert found[head] == pytest.approx([0.6, np.nan, np.nan], nan_ok=True)  # nothing is asked


def test_match_is_the_logit_of_all_that_the_prompt_names_and_is_capped():
    seen = sees(truth(DOGS), truth(Scene(1, None, "apple", "sea")))
    found = match(seen, [PROMPT, "Two apples"], 9.0)
    p = np.array([0.6**4, 0.6 * seen["count"][1, 2]])
    assert found == pytest.approx(np.log(p / (1 - p)))
    assert match(seen, [PROMPT, "Two apples"], 0.5).tolist() == [-0.5, -0.5]


def test_the_truth_of_a_scene_is_a_class_of_its_own_by_head():
    assert truth(DOGS) == {"count": 2, "colour": 4, "object": 0, "background": 0}
    for head, values in (("colour", COLOUR_CLASSES), ("object", OBJECTS), ("background", BACKGROUNDS)):
        scenes = [Scene(1, **{"colour": None, "object": "dog", "background": "sea", head: v}) for v in values]
        assert [truth(s)[head] for s in scenes] == list(range(len(values)))
    # The classes left over are those of bad scenes: none and more than six, mixed colour, mixed object.
    assert HEADS["count"] == 8 and HEADS["colour"] == len(COLOURS) + 2 and HEADS["object"] == len(OBJECTS) + 1


# ---- networks -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {"a": Judge("a").eval(), "b": Judge("b").eval(), "features": FeatureNet().eval(),
            "votes": FeatureNet(StridedTrunk()).eval()}  # fmt: skip


@pytest.mark.parametrize("kind", ["a", "b"])
def test_a_judge_gives_chances_by_head_whatever_the_batch(networks, images, kind):
    seen = look(networks[kind], images, batch=2)
    assert {head: x.shape for head, x in seen.items()} == {head: (5, n) for head, n in HEADS.items()}
    whole = look(networks[kind], images[::-1])
    for head, x in seen.items():
        assert x.dtype == np.float32 and (x >= 0).all()
        np.testing.assert_allclose(x.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(x, whole[head][::-1], atol=1e-5)


@pytest.mark.parametrize("kind", ["features", "votes"])
def test_the_feature_networks_give_64_features(networks, kind):
    with torch.no_grad():
        assert networks[kind](torch.zeros(3, 3, 64, 64)).shape == (3, 64)


def test_the_judges_differ_in_make_and_no_network_shares_a_weight(networks):
    def kinds(network):
        return {type(m) for m in network.trunk.modules()}

    assert torch.nn.MultiheadAttention in kinds(networks["b"]) - kinds(networks["a"])
    names = {k: {n for n, _ in net.trunk.named_parameters()} for k, net in networks.items()}
    assert not names["a"] & names["b"]
    assert Residual in kinds(networks["a"]) & kinds(networks["features"]) - kinds(networks["votes"])
    shapes = {k: sorted(tuple(p.shape) for p in net.parameters()) for k, net in networks.items()}
    assert len({str(s) for s in shapes.values()}) == 4
    homes = [p.data_ptr() for net in networks.values() for p in net.parameters()]
    assert len(homes) == len(set(homes))


@pytest.mark.parametrize("kind", ["a", "b"])
@pytest.mark.parametrize("shown", range(8))
def test_a_judge_counts_by_adding_up_places(kind, shown):
    judge = Judge(kind)
    torch.nn.init.zeros_(judge.heads["count"].weight), torch.nn.init.zeros_(judge.heads["count"].bias)
    places = torch.full((1, 1, 8, 8), -30.0)
    places.view(-1)[torch.randperm(64)[:shown]] = 30.0
    judge.one_here.forward = lambda grid: places
    assert judge(torch.zeros(1, 3, 64, 64))["count"].argmax() == shown


def test_an_unknown_judge_is_refused():
    with pytest.raises(ValueError, match="^unknown judge 'c': expected one of a, b$"):
        Judge("c")
