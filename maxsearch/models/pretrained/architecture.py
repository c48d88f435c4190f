"""Reads from a source's config what a tower has to be, and puts it into the run's config."""

from dataclasses import replace
from typing import Any

from maxsearch.config import Config, ImageConfig, ImageSource, TextConfig, TextSource
from maxsearch.config.pretrained import Activation
from maxsearch.errors import UsageError
from maxsearch.files import read_json
from maxsearch.models.pretrained.layouts import IMAGE, OPEN_CLIP_IMAGE, OPEN_CLIP_TEXT, TEXT, Layout
from maxsearch.models.pretrained.source import OPEN_CLIP_CONFIG, Source, find_source

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
BERT_KIND = ("bert", "roberta", "xlm-roberta", "camembert")
OFFSET_KIND = ("roberta", "xlm-roberta", "camembert", "mpnet")
TEXT_KINDS = (*BERT_KIND, "distilbert", "mpnet", "clip", "siglip")
IMAGE_KINDS = ("vit", "clip", "siglip")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OPEN_CLIP_HEAD = 64  # width of a head where the config does not say
TOWERS = ("query", "title", "image")


def settle_sources(config: Config, known: Config | None = None) -> Config:
    """The config with the architecture of every pretrained tower, and the vocabulary of its text towers.

    Args:
      config: of the run.
      known: a config that has the architectures already, such as that of the run that goes on; a tower of it that was
        read from the same source is taken, and the source need not be there.

    Raises:
      UsageError: a source cannot be had, is of no kind that is known, or two text towers have different ones.
      MaxsearchError: a file is damaged.
    """
    model = config.model
    texts = {tower.pretrained for tower in (model.query, model.title) if tower.pretrained}
    if len(texts) > 1:
        raise UsageError(
            f"--model.query.pretrained and --model.title.pretrained differ ({' and '.join(sorted(texts))}), and both "
            "share one tokenizer: give them the same source, or leave one out"
        )
    changes: dict[str, Any] = {}
    for name in TOWERS:
        tower = getattr(model, name)
        found = getattr(known.model, name) if known is not None else None
        if not tower.pretrained:
            changes[name] = replace(tower, source=None)
        elif known is not None and knows(found, tower):
            fields = ("width", "depth", "heads", "source", *(("patch",) if name == "image" else ()))
            changes[name] = replace(tower, **{field: getattr(found, field) for field in fields})
            if name != "image":
                changes["vocab_size"] = known.model.vocab_size
        elif name == "image":
            changes[name] = image_tower(find_source(tower.pretrained), tower)
        else:
            changes[name], changes["vocab_size"] = text_tower(find_source(tower.pretrained), tower)
    return replace(config, model=replace(model, **changes))


def knows(found: TextConfig | ImageConfig | None, tower: TextConfig | ImageConfig) -> bool:
    """Whether a tower has the architecture that another one asks for."""
    if found is None or found.source is None:
        return False
    return found.source.name == tower.pretrained and found.keep_layers == tower.keep_layers


def text_tower(source: Source, tower: TextConfig) -> tuple[TextConfig, int]:
    """A text tower's config by its source, and the size of the vocabulary.

    Raises:
      UsageError: the source has no text tower of a kind that is known.
    """
    if source.open_clip:
        return open_clip_text(source, tower)
    own = source.config
    kind = kind_of(source, own, "text", TEXT_KINDS)
    family: Any = "bert" if kind in BERT_KIND else kind
    own = getattr(own, "text_config", own)
    distil = kind == "distilbert"
    offset = own.pad_token_id + 1 if kind in OFFSET_KIND else 0
    if getattr(own, "position_embedding_type", None) not in (None, "absolute"):
        raise UsageError(f"{source.name} has {own.position_embedding_type} positions, and only absolute ones are read")
    kept = TextSource(
        name=tower.pretrained,
        family=family,
        hidden=own.hidden_dim if distil else own.intermediate_size,
        activation=activation(source, own.activation if distil else own.hidden_act),
        epsilon=1e-12 if distil else own.layer_norm_eps,
        positions=max(own.max_position_embeddings, offset + tower.max_tokens),
        offset=offset,
        types=own.type_vocab_size if kind in BERT_KIND else 0,
        buckets=own.relative_attention_num_buckets if kind == "mpnet" else 0,
        pad=own.pad_token_id if kind == "siglip" else 0,
        projection=projection_of(source, TEXT[family]),
    )
    return replace(tower, **sizes(source, own, tower), source=kept), own.vocab_size


def image_tower(source: Source, tower: ImageConfig) -> ImageConfig:
    """An image tower's config by its source; its size stays as it is.

    Raises:
      UsageError: the source has no image tower of a kind that is known, or its patches do not divide the pictures.
    """
    if source.open_clip:
        return open_clip_image(source, tower)
    own = source.config
    kind = kind_of(source, own, "image", IMAGE_KINDS)
    own = getattr(own, "vision_config", own)
    mean, std = pixels(source, kind)
    kept = ImageSource(
        name=tower.pretrained,
        family=kind,
        hidden=own.intermediate_size,
        activation=activation(source, own.hidden_act),
        epsilon=own.layer_norm_eps,
        projection=projection_of(source, IMAGE[kind]),
        mean=mean,
        std=std,
    )
    return with_patch(tower, own.patch_size, sizes(source, own, tower), kept)


def with_patch(tower: ImageConfig, patch: int, fields: dict[str, Any], kept: ImageSource) -> ImageConfig:
    """The tower with the source's patch, which must divide the run's pictures."""
    if any(edge % patch for edge in tower.size):
        raise UsageError(
            f"{kept.name} cuts patches of {patch} x {patch} pixels, which do not divide --model.image.size "
            f"{tower.size[0]} {tower.size[1]}: choose multiples of {patch}"
        )
    return replace(tower, **fields, patch=patch, stem="patch", stem_blocks=0, colour_width=0, source=kept)


def sizes(source: Source, own: Any, tower: TextConfig | ImageConfig) -> dict[str, Any]:
    """Width, depth and heads; DistilBERT's config answers to the common names too."""
    depth = kept_depth(source, own.num_hidden_layers, tower)
    return {"width": own.hidden_size, "depth": depth, "heads": own.num_attention_heads}


def kept_depth(source: Source, depth: int, tower: TextConfig | ImageConfig) -> int:
    """How many of the source's layers the tower has.

    Raises:
      UsageError: it asks for more than there are.
    """
    if tower.keep_layers > depth:
        raise UsageError(f"{source.name} has {depth} layers, so keep_layers cannot be {tower.keep_layers}")
    return tower.keep_layers or depth


def projection_of(source: Source, layout: Layout) -> int:
    """The size of the source's own vectors, 0 where its files hold no projection to them."""
    if not layout.project:
        return 0
    kernel = layout.project[0]
    prefix = source.prefix(kernel.theirs[0])
    return 0 if prefix is None else source.shape(prefix + kernel.theirs[0])[0 if kernel.kind == "linear" else 1]


def kind_of(source: Source, own: Any, what: str, kinds: tuple[str, ...]) -> Any:
    """The family of a source by its config's model_type.

    Raises:
      UsageError: there is no such tower.
    """
    kind = own.model_type
    if kind == "siglip2":
        raise UsageError(
            f"{source.name} is a SigLIP 2 of flexible resolution (NaFlex), which is not read: take one of a fixed "
            "resolution, such as google/siglip2-base-patch16-224"
        )
    for end in (f"_{'vision' if what == 'image' else 'text'}_model", ""):
        if kind.removesuffix(end) in kinds:
            return kind.removesuffix(end)
    raise UsageError(
        f"{source.name} is of model_type {kind}, which has no {what} tower that is read: choose one of "
        f"{', '.join(kinds)}"
    )


def activation(source: Source, name: str) -> Activation:
    """Our name of an activation.

    Raises:
      UsageError: it is another.
    """
    if name not in ACTIVATIONS:
        raise UsageError(f"{source.name} has the activation {name}, and only {', '.join(ACTIVATIONS)} are read")
    return ACTIVATIONS[name]


def pixels(source: Source, kind: str) -> tuple[Any, Any]:
    """Mean and standard deviation of the source's pixels: its preprocessor's, or those of its family."""
    mean, std = (CLIP_MEAN, CLIP_STD) if kind == "clip" else ((0.5,) * 3, (0.5,) * 3)
    path = source.folder / "preprocessor_config.json"
    if path.is_file():
        value = read_json(path, what="preprocessor's config", remedy="fetch or write it again")
        value = value if isinstance(value, dict) else {}
        mean, std = value.get("image_mean") or mean, value.get("image_std") or std
    if not all(isinstance(x, list | tuple) and len(x) == 3 for x in (mean, std)):
        raise UsageError(f"{path} must give image_mean and image_std three numbers each")
    return tuple(map(float, mean)), tuple(map(float, std))


def open_clip_config(source: Source) -> dict[str, Any]:
    """The file that open_clip writes beside its weights; empty where only OpenAI's weights stand."""
    path = source.folder / OPEN_CLIP_CONFIG
    if not path.is_file():
        return {}
    value = read_json(path, what="open_clip config", remedy="fetch or write it again")
    return value if isinstance(value, dict) else {}


def open_clip_prefix(source: Source, anchor: str, what: str) -> str:
    """What stands before the names of a tower in open_clip's layout."""
    prefix = source.prefix(anchor)
    if prefix is None:
        raise UsageError(
            f"{source.name} has no {what} tower in the layout of OpenAI's CLIP: use its transformers files"
        )
    return prefix


def open_clip_sizes(
    source: Source, prefix: str, width: int, heads: int, tower: TextConfig | ImageConfig
) -> tuple[dict[str, Any], int]:
    """Width, depth and heads of a tower, and the width of its MLP, by the shapes of its arrays."""
    blocks = f"{prefix}transformer.resblocks."
    depth = 1 + max(int(n.removeprefix(blocks).split(".")[0]) for n in source.places if n.startswith(blocks))
    fields = {"width": width, "depth": kept_depth(source, depth, tower), "heads": heads}
    return fields, source.shape(f"{blocks}0.mlp.c_fc.weight")[0]


def open_clip_activation(source: Source) -> Activation:
    """OpenAI's weights are of quick_gelu; open_clip's config says when its own are."""
    config = open_clip_config(source)
    return "quick_gelu" if config.get("model_cfg", {}).get("quick_gelu", not config) else "gelu"


def open_clip_text(source: Source, tower: TextConfig) -> tuple[TextConfig, int]:
    """`text_tower` in the layout of OpenAI and open_clip."""
    prefix = open_clip_prefix(source, OPEN_CLIP_TEXT.anchor, "text")
    vocabulary, width = source.shape(prefix + OPEN_CLIP_TEXT.anchor)
    config = open_clip_config(source).get("model_cfg", {}).get("text_cfg", {})
    fields, hidden = open_clip_sizes(source, prefix, width, config.get("heads", width // OPEN_CLIP_HEAD), tower)
    kept = TextSource(
        name=tower.pretrained,
        family="clip",
        hidden=hidden,
        activation=open_clip_activation(source),
        epsilon=1e-5,
        positions=max(source.shape(f"{prefix}positional_embedding")[0], tower.max_tokens),
        projection=projection_of(source, OPEN_CLIP_TEXT),
    )
    return replace(tower, **fields, source=kept), vocabulary


def open_clip_image(source: Source, tower: ImageConfig) -> ImageConfig:
    """`image_tower` in the layout of OpenAI and open_clip."""
    prefix = open_clip_prefix(source, OPEN_CLIP_IMAGE.anchor, "image")
    width, _, patch, _ = source.shape(prefix + OPEN_CLIP_IMAGE.anchor)
    config = open_clip_config(source)
    heads = width // config.get("model_cfg", {}).get("vision_cfg", {}).get("head_width", OPEN_CLIP_HEAD)
    fields, hidden = open_clip_sizes(source, prefix, width, heads, tower)
    told = config.get("preprocess_cfg", {})
    kept = ImageSource(
        name=tower.pretrained,
        family="clip",
        hidden=hidden,
        activation=open_clip_activation(source),
        epsilon=1e-5,
        projection=projection_of(source, OPEN_CLIP_IMAGE),
        mean=tuple(told.get("mean", CLIP_MEAN)),
        std=tuple(told.get("std", CLIP_STD)),
    )
    return with_patch(tower, patch, fields, kept)
