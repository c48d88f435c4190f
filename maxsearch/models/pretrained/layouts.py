"""Where each family keeps its parameters: the names in `transformers` files, and in those of OpenAI and open_clip.

Names are as they stand in the files of the Hub, behind the prefix that a model with a head puts before its tower.
"""

from collections.abc import Callable
from dataclasses import dataclass

from maxsearch.models.pretrained.transforms import Part


@dataclass(frozen=True)
class Layout:
    """The names of one tower.

    Attributes:
      anchor: a name that only this tower has; what stands before it in a file is the tower's prefix.
      parts: the tower's parameters for a depth.
      project: the map to the source's own vectors, empty where it has none; its names stand without prefix.
    """

    anchor: str
    parts: Callable[[int], list[Part]]
    project: tuple[Part, ...] = ()


def pair(ours: str, theirs: str) -> list[Part]:
    """A norm: its scale and bias."""
    return [Part(f"{ours}/scale", (f"{theirs}.weight",)), Part(f"{ours}/bias", (f"{theirs}.bias",))]


def affine(ours: str, theirs: str) -> list[Part]:
    """A linear layer of the MLP."""
    return [Part(ours, (f"{theirs}.weight",), "linear"), Part(f"{ours}_add/bias", (f"{theirs}.bias",))]


def layer(number: int, root: str, names: dict[str, str]) -> list[Part]:
    """One layer of a file that keeps query, key and value apart; `names` are those within it, by ours."""
    ours, base = f"layers/layer_{number}", f"{root}.{number}."
    three = [base + names[part] for part in ("query", "key", "value")]
    return [
        *pair(f"{ours}/attention_norm", base + names["attention_norm"]),
        Part(f"{ours}/qkv", tuple(f"{name}.weight" for name in three), "qkv"),
        Part(f"{ours}/qkv_add/bias", tuple(f"{name}.bias" for name in three), "qkv_bias"),
        Part(f"{ours}/out", (f"{base}{names['out']}.weight",), "out"),
        Part(f"{ours}/out_add/bias", (f"{base}{names['out']}.bias",)),
        *pair(f"{ours}/mlp_norm", base + names["mlp_norm"]),
        *affine(f"{ours}/up", base + names["up"]),
        *affine(f"{ours}/down", base + names["down"]),
    ]


BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
MPNET_LAYER = BERT_LAYER | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "out": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}
DISTIL_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "out": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "mlp_norm": "output_layer_norm",
}
VIT_LAYER = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "attention_norm": "layernorm_before",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "layernorm_after",
}
CLIP_LAYER = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "mlp_norm": "layer_norm2",
}


def stack(depth: int, root: str, names: dict[str, str]) -> list[Part]:
    """All layers."""
    return [part for number in range(depth) for part in layer(number, root, names)]


def words(theirs: str = "embeddings.") -> list[Part]:
    """The embeddings that BERT's kind has in common."""
    return [
        Part("embedding", (f"{theirs}word_embeddings.weight",)),
        Part("position", (f"{theirs}position_embeddings.weight",)),
        *pair("embedded", f"{theirs}LayerNorm"),
    ]


def bert(depth: int) -> list[Part]:
    """BERT, RoBERTa, XLM-R."""
    types = Part("types", ("embeddings.token_type_embeddings.weight",))
    return [*words(), types, *stack(depth, "encoder.layer", BERT_LAYER)]


def distilbert(depth: int) -> list[Part]:
    """DistilBERT."""
    return [*words(), *stack(depth, "transformer.layer", DISTIL_LAYER)]


def mpnet(depth: int) -> list[Part]:
    """MPNet."""
    relative = Part("relative", ("encoder.relative_attention_bias.weight",))
    return [*words(), relative, *stack(depth, "encoder.layer", MPNET_LAYER)]


def clip_text(depth: int) -> list[Part]:
    """The text tower of CLIP and of SigLIP."""
    return [
        Part("embedding", ("embeddings.token_embedding.weight",)),
        Part("position", ("embeddings.position_embedding.weight",)),
        *stack(depth, "encoder.layers", CLIP_LAYER),
        *pair("norm", "final_layer_norm"),
    ]


def clip_image(depth: int) -> list[Part]:
    """CLIP's image tower."""
    return [
        Part("stem/kernel", ("embeddings.patch_embedding.weight",), "stem"),
        Part("class_token", ("embeddings.class_embedding",)),
        Part("position", ("embeddings.position_embedding.weight",)),
        *pair("before", "pre_layrnorm"),
        *stack(depth, "encoder.layers", CLIP_LAYER),
        *pair("norm", "post_layernorm"),
    ]


def siglip_image(depth: int) -> list[Part]:
    """SigLIP's image tower; a model that pools by the mean has no use for its head."""
    return [
        Part("stem/kernel", ("embeddings.patch_embedding.weight",), "stem"),
        Part("stem/bias", ("embeddings.patch_embedding.bias",)),
        Part("position", ("embeddings.position_embedding.weight",)),
        *stack(depth, "encoder.layers", CLIP_LAYER),
        *pair("norm", "post_layernorm"),
        Part("head/probe", ("head.probe",), "first"),
        Part("head/qkv", ("head.attention.in_proj_weight",), "fused"),
        Part("head/qkv_add/bias", ("head.attention.in_proj_bias",), "fused_bias"),
        Part("head/out", ("head.attention.out_proj.weight",), "out"),
        Part("head/out_add/bias", ("head.attention.out_proj.bias",)),
        *pair("head/norm", "head.layernorm"),
        *affine("head/up", "head.mlp.fc1"),
        *affine("head/down", "head.mlp.fc2"),
    ]


def vit(depth: int) -> list[Part]:
    """ViT."""
    return [
        Part("stem/kernel", ("embeddings.patch_embeddings.projection.weight",), "stem"),
        Part("stem/bias", ("embeddings.patch_embeddings.projection.bias",)),
        Part("class_token", ("embeddings.cls_token",), "first"),
        Part("position", ("embeddings.position_embeddings",), "places"),
        *stack(depth, "encoder.layer", VIT_LAYER),
        *pair("norm", "layernorm"),
    ]


def open_clip_layers(depth: int) -> list[Part]:
    """The layers of either tower in OpenAI's files and open_clip's."""
    parts = []
    for number in range(depth):
        ours, base = f"layers/layer_{number}", f"transformer.resblocks.{number}"
        parts += [
            *pair(f"{ours}/attention_norm", f"{base}.ln_1"),
            Part(f"{ours}/qkv", (f"{base}.attn.in_proj_weight",), "fused"),
            Part(f"{ours}/qkv_add/bias", (f"{base}.attn.in_proj_bias",), "fused_bias"),
            Part(f"{ours}/out", (f"{base}.attn.out_proj.weight",), "out"),
            Part(f"{ours}/out_add/bias", (f"{base}.attn.out_proj.bias",)),
            *pair(f"{ours}/mlp_norm", f"{base}.ln_2"),
            *affine(f"{ours}/up", f"{base}.mlp.c_fc"),
            *affine(f"{ours}/down", f"{base}.mlp.c_proj"),
        ]
    return parts


def open_clip_text(depth: int) -> list[Part]:
    """CLIP's text tower in OpenAI's files and open_clip's."""
    return [
        Part("embedding", ("token_embedding.weight",)),
        Part("position", ("positional_embedding",)),
        *open_clip_layers(depth),
        *pair("norm", "ln_final"),
    ]


def open_clip_image(depth: int) -> list[Part]:
    """CLIP's image tower in OpenAI's files and open_clip's."""
    return [
        Part("stem/kernel", ("conv1.weight",), "stem"),
        Part("class_token", ("class_embedding",)),
        Part("position", ("positional_embedding",)),
        *pair("before", "ln_pre"),
        *open_clip_layers(depth),
        *pair("norm", "ln_post"),
    ]


WORDS = "embeddings.word_embeddings.weight"
TOKENS = "embeddings.token_embedding.weight"
PATCHES = "embeddings.patch_embedding.weight"
TEXT = {
    "bert": Layout(WORDS, bert),
    "distilbert": Layout(WORDS, distilbert),
    "mpnet": Layout(WORDS, mpnet),
    "clip": Layout(TOKENS, clip_text, (Part("kernel", ("text_projection.weight",), "linear"),)),
    "siglip": Layout(
        TOKENS,
        clip_text,
        (Part("kernel", ("text_model.head.weight",), "linear"), Part("bias", ("text_model.head.bias",))),
    ),
}
IMAGE = {
    "vit": Layout("embeddings.patch_embeddings.projection.weight", vit),
    "clip": Layout(PATCHES, clip_image, (Part("kernel", ("visual_projection.weight",), "linear"),)),
    "siglip": Layout(PATCHES, siglip_image),
}
OPEN_CLIP_TEXT = Layout("token_embedding.weight", open_clip_text, (Part("kernel", ("text_projection",)),))
OPEN_CLIP_IMAGE = Layout("conv1.weight", open_clip_image, (Part("kernel", ("visual.proj",)),))
