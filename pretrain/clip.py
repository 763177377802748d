"""mini-clip: a ResNet and a text transformer of open_clip, trained contrastively on the web corpus, and its tokenizer.

The text tower is learnt beside a ViT and saved twice: in mini-clip, and as the CLIPTextModel of mini-sd. The image tower is
learnt after it, against the frozen text transformer (LiT, Zhai et al. 2022): a ResNet sees seven times as many images a
minute.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib.paths import MODELS
from lib.precision import DEVICE, autocast
from lib.prompts import Attributes, web_pair, write
from lib.world import BACKGROUNDS, COLOURS, OBJECTS, render
from pretrain.common import halve, spent, train, write_card
from pretrain.vae import HELD_OUT, random_scene

CONTEXT = 16  # tokens
BATCH = 256
PAIRS = 80_000  # of the image tower, rendered once
VIT = {"image_size": 64, "layers": 4, "width": 192, "head_width": 48, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24}
MORE_WORDS = "weird image. odd image. strange picture. blurry bad good painting of colored , . at night"


def make_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's form, whose merges make one token of every word that captions use."""
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
    """open_clip's configuration of a mini-clip."""
    return {
        "embed_dim": 128,
        "vision_cfg": image_tower,
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": vocabulary, "width": 128, "heads": 4, "layers": 4,
            "hf_tokenizer_name": "mini-clip",
        },
    }  # fmt: skip


def make_clip(config: dict) -> CLIP:
    """An untrained CLIP of that configuration."""
    text = {k: v for k, v in config["text_cfg"].items() if k != "hf_tokenizer_name"}
    return CLIP(config["embed_dim"], config["vision_cfg"], text).to(DEVICE)


def contrastive_loss(logit_scale: torch.Tensor, shown: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """CLIP's (Radford et al. 2021, section 2.3): each image's embedding [pair, 128] picks its caption's, and the other way
    round; in nats. The logits are float32 even inside `autocast`: bfloat16 does not tell one near 100 from one 0.4 away.
    """
    with torch.autocast(shown.device.type, enabled=False):
        shown, said = (F.normalize(x.float(), dim=-1) for x in (shown, said))
        logits = logit_scale.clamp(max=4.6).exp() * shown @ said.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def text_encoder(clip: CLIP, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower of an open_clip model as transformers' CLIPTextModel (same hidden states)."""
    width, layers = clip.positional_embedding.shape[1], len(clip.transformer.resblocks)
    model = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=clip.transformer.resblocks[0].attn.num_heads, max_position_embeddings=CONTEXT,
        hidden_act="gelu", projection_dim=128, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    source, target = clip.state_dict(), {}
    target["embeddings.token_embedding.weight"] = source["token_embedding.weight"]
    target["embeddings.position_embedding.weight"] = source["positional_embedding"]
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
             "attn.out_proj": "self_attn.out_proj"}  # fmt: skip
    for i in range(layers):
        for kind in ("weight", "bias"):
            parts = source[f"transformer.resblocks.{i}.attn.in_proj_{kind}"].chunk(3)
            for letter, part in zip("qkv", parts, strict=True):
                target[f"encoder.layers.{i}.self_attn.{letter}_proj.{kind}"] = part
            for ours, theirs in names.items():
                target[f"encoder.layers.{i}.{theirs}.{kind}"] = source[f"transformer.resblocks.{i}.{ours}.{kind}"]
    for kind in ("weight", "bias"):
        target[f"final_layer_norm.{kind}"] = source[f"ln_final.{kind}"]
    model.load_state_dict(target)
    return model.eval()


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids, int64 [text, CONTEXT]."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(DEVICE)


def batch(seed: int) -> tuple[list[str], torch.Tensor]:
    """Captions and float images [BATCH, 3, 64, 64] in [-1, 1]; every other batch is about four objects only,
    so that telling its images apart takes counts, colours and places."""
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
    """What a linear probe reads: count and colour from text states, count, colour, object, background from images."""
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


def train_image_tower(clip: CLIP, teacher: CLIP, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, minutes) -> CLIP:
    """Fit image tower and projections of `clip` to the frozen text transformer of `teacher`, which it takes over."""
    clip.load_state_dict({k: v for k, v in teacher.state_dict().items() if not k.startswith("visual.")}, strict=False)
    for name, p in clip.named_parameters():
        p.requires_grad_(name.startswith("visual.") or name in ("text_projection", "logit_scale"))
    rng = np.random.default_rng(71)
    pairs = [web_pair(rng) for _ in range(PAIRS)]
    pixels = torch.from_numpy(np.stack([render(s, rng) for _, s in pairs])).permute(0, 3, 1, 2)
    projection, clip.text_projection = clip.text_projection, None
    with torch.no_grad():
        said = torch.cat([
            clip.encode_text(tokens(tokenizer, [c for c, _ in pairs[i : i + 1000]])).cpu() for i in range(0, PAIRS, 1000)
        ])  # fmt: skip
    clip.text_projection = projection

    def loss(step: int) -> torch.Tensor:
        pick = torch.from_numpy(np.random.default_rng((8, step)).choice(PAIRS, BATCH, replace=False))
        with autocast():
            shown = clip.encode_image((pixels[pick].float() / 127.5 - 1).to(DEVICE))
        return contrastive_loss(clip.logit_scale, shown, said[pick].to(DEVICE) @ clip.text_projection)

    def log() -> str:
        clip.eval()
        found = probes(clip, encoder, tokenizer, 1_000)
        clip.train()
        return str(found)

    return train("clip-image", clip, loss, 8_000, minutes=minutes, lr=0.01, adam_lr=1e-3, every=200, log=log)


def main(minutes: float | None = None, image_minutes: float | None = None) -> None:
    """Train a ViT and the text tower, save the text tower; train the ResNet against it, save mini-clip.

    The second part needs no place in line: the generator only waits for the text tower.
    """
    torch.manual_seed(1)
    tokenizer = make_tokenizer()
    clip = make_clip(model_config(len(tokenizer), VIT))

    def loss(step: int) -> torch.Tensor:
        captions, pixels = batch(step)
        with autocast():
            shown, said = clip.encode_image(pixels), clip.encode_text(tokens(tokenizer, captions))
        return contrastive_loss(clip.logit_scale, shown, said)

    train("clip", clip, loss, 1_500, minutes=minutes, lr=0.01, adam_lr=1e-3, every=100)
    encoder, sd = text_encoder(clip, tokenizer), MODELS / "mini-sd"
    tokenizer.save_pretrained(sd / "tokenizer")
    encoder.save_pretrained(sd / "text_encoder", safe_serialization=True)
    halve(sd / "text_encoder" / "model.safetensors")
    config = model_config(len(tokenizer), RESNET)
    clip = train_image_tower(make_clip(config), clip, tokenizer, encoder.to(DEVICE), image_minutes)
    folder = MODELS / "mini-clip"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", {"format": "pt"})
    halve(folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1)
    (folder / "open_clip_config.json").write_text(text + "\n")
    tokenizer.save_pretrained(folder)
    card = {
        "model": "open_clip CLIP: ResNet of four stages, width 24, 64 px; text 4 x 128, 16 tokens; embeddings of 128",
        "data": "web corpus (lib/prompts.py web_pair), noisy captions; every other batch of the ViT of four objects",
        "batch": BATCH, "seed": 1, "text tower, beside a ViT": spent("clip"), "image tower": spent("clip-image"),
        "linear probes, held-out accuracy": probes(clip, encoder.to(DEVICE), tokenizer),
    }  # fmt: skip
    write_card(folder, card)
    write_card(sd / "text_encoder", card | {"model": "CLIPTextModel, the text tower of mini-clip"})


if __name__ == "__main__":
    import sys

    main(*map(float, sys.argv[1:]))
