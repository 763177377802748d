"""The generator's text encoder and tokenizer: the text tower of an open_clip model, trained contrastively on the web corpus.

mini-CLIP, on which the rewards are built, continues from it: `pretrain.mini_clip`.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib.ground.paths import MODELS
from lib.ground.precision import DEVICE, autocast
from lib.world.prompts import Attributes, write
from lib.world.scenes import BACKGROUNDS, COLOURS, OBJECTS, render
from lib.world.web import web_pair
from pretrain.common import halve, spent, train, write_card
from pretrain.vae import HELD_OUT, random_scene

CONTEXT = 16  # tokens
BATCH = 256
VIT = {"image_size": 64, "layers": 4, "width": 192, "head_width": 48, "patch_size": 8}
MORE_WORDS = "weird image. odd image. strange picture. blurry bad good painting of colored , . at night"


def make_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's format, whose merges turn every word used in captions into one token."""
    rng = np.random.default_rng(0)
    corpus = [web_pair(rng)[0].lower() for _ in range(30_000)] + [MORE_WORDS] * 100
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=2_000, min_frequency=2, end_of_word_suffix="</w>", show_progress=False, initial_alphabet=[]
    ))  # fmt: skip
    learnt = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    words = letters + [x + "</w>" for x in letters] + ["".join(m) for m in merges]
    words = list(dict.fromkeys(words)) + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={w: i for i, w in enumerate(words)}, merges=merges, model_max_length=CONTEXT
    )  # the end token has the highest id, as CLIP's pooling expects


def model_config(vocabulary: int, image_tower: dict) -> dict:
    """open_clip's configuration of a mini-CLIP."""
    return {
        "embed_dim": 128,
        "vision_cfg": image_tower,
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": vocabulary, "width": 128, "heads": 4, "layers": 4,
            "hf_tokenizer_name": "mini-clip",
        },
    }  # fmt: skip


def make_clip(config: dict) -> CLIP:
    """An untrained CLIP with this configuration."""
    text = {k: v for k, v in config["text_cfg"].items() if k != "hf_tokenizer_name"}
    return CLIP(config["embed_dim"], config["vision_cfg"], text).to(DEVICE)


def contrastive_loss(logit_scale: torch.Tensor, shown: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """CLIP's loss (Radford et al. 2021, section 2.3), in nats: each image's embedding [pair, 128] is to pick its caption's,
    and vice versa. The logits are float32 even inside `autocast`: near 100, bfloat16 cannot resolve differences of 0.4.
    """
    with torch.autocast(shown.device.type, enabled=False):
        shown, said = (F.normalize(x.float(), dim=-1) for x in (shown, said))
        logits = logit_scale.clamp(max=4.6).exp() * shown @ said.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def text_names(layers: int) -> dict[str, tuple[str, int | None]]:
    """The open_clip name of each weight of a CLIPTextModel; a number says which third of the open_clip weight it is."""
    names = {
        "embeddings.token_embedding.weight": ("token_embedding.weight", None),
        "embeddings.position_embedding.weight": ("positional_embedding", None),
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
             "attn.out_proj": "self_attn.out_proj"}  # fmt: skip
    for kind in ("weight", "bias"):
        names[f"final_layer_norm.{kind}"] = (f"ln_final.{kind}", None)
        for i in range(layers):
            ours, theirs = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
            for third, letter in enumerate("qkv"):
                names[f"{theirs}.self_attn.{letter}_proj.{kind}"] = (f"{ours}.attn.in_proj_{kind}", third)
            for a, b in parts.items():
                names[f"{theirs}.{b}.{kind}"] = (f"{ours}.{a}.{kind}", None)
    return names


def text_encoder(clip: CLIP, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower of an open_clip model as transformers' CLIPTextModel (same hidden states)."""
    width, layers = clip.positional_embedding.shape[1], len(clip.transformer.resblocks)
    model = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=clip.transformer.resblocks[0].attn.num_heads, max_position_embeddings=CONTEXT,
        hidden_act="gelu", projection_dim=128, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    source = clip.state_dict()
    model.load_state_dict({
        theirs: source[ours] if third is None else source[ours].chunk(3)[third]
        for theirs, (ours, third) in text_names(layers).items()
    })  # fmt: skip
    return model.eval()


def take_text_encoder(clip: CLIP, encoder: CLIPTextModel) -> None:
    """Copy the weights of a CLIPTextModel into an open_clip model: the inverse of `text_encoder`."""
    target, source = clip.state_dict(), encoder.state_dict()
    with torch.no_grad():
        for theirs, (ours, third) in text_names(len(clip.transformer.resblocks)).items():
            place = target[ours] if third is None else target[ours].chunk(3)[third]
            place.copy_(source[theirs])


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids, int64 [text, CONTEXT]."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(DEVICE)


def batch(seed: int) -> tuple[list[str], torch.Tensor]:
    """Captions and float images [BATCH, 3, 64, 64] in [-1, 1]; every other batch shows only four kinds of object, so that
    its images can only be told apart by counts, colours and places."""
    rng = np.random.default_rng((7, seed))
    objects = OBJECTS if seed % 2 else tuple(str(o) for o in rng.choice(OBJECTS, 4, replace=False))
    pairs = [web_pair(rng, objects=objects) for _ in range(BATCH)]
    pixels = torch.from_numpy(np.stack([render(s, rng) for _, s in pairs])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return [c for c, _ in pairs], pixels.to(DEVICE)


def probe(x: torch.Tensor, y: np.ndarray, train_share: float = 0.7) -> float:
    """Held-out accuracy of a ridge classifier from features [item, dimension] to labels [item]."""
    x = torch.cat([x.float(), torch.ones(len(x), 1)], 1).double()
    n = int(train_share * len(x))
    labels = torch.as_tensor(y)
    targets = F.one_hot(labels).double()
    ridge = x[:n].T @ x[:n] + 1e-2 * torch.eye(x.shape[1], dtype=torch.double)
    weights = torch.linalg.solve(ridge, x[:n].T @ targets[:n])
    return float(((x[n:] @ weights).argmax(1) == labels[n:]).double().mean())


@torch.no_grad()
def probes(clip: CLIP, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, count: int = 3_000) -> dict[str, float]:
    """Accuracy of linear probes: count and colour from text states; count, colour, object and background from images."""
    rng = np.random.default_rng(HELD_OUT)
    scenes = [random_scene(rng) for _ in range(count)]
    prompts = [write(Attributes(s.object, s.count, s.colour, s.background)) for s, _ in scenes]
    states = torch.cat([
        encoder(tokens(tokenizer, prompts[i : i + 500])).last_hidden_state.cpu() for i in range(0, count, 500)
    ]).flatten(1)  # fmt: skip
    pixels = torch.from_numpy(np.stack([render(s, rng) for s, _ in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
    shown = torch.cat([clip.encode_image(pixels[i : i + 250].to(DEVICE)).cpu() for i in range(0, count, 250)])
    labels = {
        "count": np.array([s.count - 1 for s, _ in scenes]),
        "colour": np.array([0 if s.colour is None else 1 + COLOURS.index(s.colour) for s, _ in scenes]),
        "object": np.array([OBJECTS.index(s.object) for s, _ in scenes]),
        "background": np.array([BACKGROUNDS.index(s.background) for s, _ in scenes]),
    }
    out = {f"text {k}": probe(states, labels[k]) for k in ("count", "colour")}
    return {k: round(v, 3) for k, v in (out | {f"image {k}": probe(shown, v) for k, v in labels.items()}).items()}


def main(minutes: float | None = None) -> None:
    """Train the text tower together with a ViT; save it and the tokenizer as parts of mini-sd."""
    torch.manual_seed(1)
    tokenizer = make_tokenizer()
    clip = make_clip(model_config(len(tokenizer), VIT))

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        captions, pixels = batch(step)
        return pixels, tokens(tokenizer, captions)

    def loss(pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        with autocast():
            shown, said = clip.encode_image(pixels), clip.encode_text(ids)
        return contrastive_loss(clip.logit_scale, shown, said)

    train("clip", clip, draw, loss, 1_500, minutes=minutes, lr=0.01, adam_lr=1e-3, every=100)
    encoder, sd = text_encoder(clip, tokenizer), MODELS / "mini-sd"
    tokenizer.save_pretrained(sd / "tokenizer")
    encoder.save_pretrained(sd / "text_encoder", safe_serialization=True)
    halve(sd / "text_encoder" / "model.safetensors")
    found = probes(clip, encoder.to(DEVICE), tokenizer)
    write_card(sd / "text_encoder", {
        "model": f"CLIPTextModel: text 4 x 128, {CONTEXT} tokens, learnt contrastively beside a ViT",
        "data": "web corpus (lib/world/prompts.py web_pair), noisy captions; every other batch of four objects",
        "batch": BATCH, "seed": 1, **spent("clip"), "linear probes, held-out accuracy": found,
    })  # fmt: skip


if __name__ == "__main__":
    import sys

    main(*map(float, sys.argv[1:]))
