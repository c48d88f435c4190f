"""SearchModel in PyTorch, of open_clip's blocks; attributes have the names that our parameters have.

Where open_clip has the part it is open_clip's: Transformer and its blocks, LayerNorm, patches by a convolution. The
rest (convolutional stem, masked mean, fusion) is plain PyTorch.

B batch, T words, P patches, C channels, D width, E size of the compared vectors.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from open_clip.transformer import LayerNorm, Transformer
from torch import Tensor, nn
from torch.nn import functional

from maxsearch.config import Config, FusionConfig, ImageConfig, ModelConfig, TextConfig
from maxsearch.errors import UsageError

Norm = partial(LayerNorm, eps=1e-6)
Gelu = partial(nn.GELU, approximate="tanh")
HIDDEN = -1e30  # added to the logit of a token that is not there


@dataclass
class Vectors:
    """Unit vectors of a batch, each [B, E], and what multiplies their cosines."""

    query: Tensor
    title: Tensor
    image: Tensor
    product: Tensor
    logit_scale: Tensor


class PaddedAttention(nn.MultiheadAttention):
    """What open_clip's default block calls, given its mask as one row [B, T] per text and not one per head and word."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return super().forward(query, key, value, key_padding_mask=attn_mask, need_weights=need_weights)


class Blocks(nn.Module):
    """open_clip's Transformer without biases, reading a mask of real tokens."""

    def __init__(self, tower: TextConfig | ImageConfig | FusionConfig, model: ModelConfig, block: str) -> None:
        super().__init__()
        self.layers = Transformer(
            tower.width, tower.depth, tower.heads, tower.mlp_ratio, act_layer=Gelu, norm_layer=Norm, block_type=block
        )
        self.layers.grad_checkpointing = model.remat == "full"
        self.custom = block == "custom"
        if self.custom and self.layers.grad_checkpointing:
            raise UsageError("open_clip's custom block cannot be checkpointed: give --block default, or --remat none")
        for layer in self.layers.resblocks:
            if self.custom:
                layer.attn.in_proj_bias = None
                layer.attn.out_proj.bias = None
            else:
                layer.attn = PaddedAttention(tower.width, tower.heads, bias=False, batch_first=True)
            layer.mlp.c_fc.bias = layer.mlp.c_proj.bias = None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, T, D]; `mask` [B, T] says which tokens are real, None that all are."""
        if not len(self.layers.resblocks):
            return x
        if mask is not None:
            mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill_(~mask, HIDDEN)
            mask = mask[:, None, None, :] if self.custom else mask
        return self.layers(x, attn_mask=mask)


class TextEncoder(nn.Module):
    """Word embeddings, positions and blocks."""

    def __init__(self, tower: TextConfig, model: ModelConfig, block: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(model.vocab_size, tower.width)
        self.position = nn.Parameter(torch.empty(tower.max_tokens, tower.width))
        self.blocks = Blocks(tower, model, block)
        self.norm = Norm(tower.width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token states [B, T, D]."""
        return self.norm(self.blocks(self.embedding(ids) + self.position[: ids.shape[1]], mask))


class PatchStem(nn.Module):
    """open_clip's VisionTransformer.conv1, with a bias."""

    def __init__(self, image: ImageConfig) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, image.width, image.patch, stride=image.patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, P, D]."""
        return self.project(x).flatten(2).transpose(1, 2)


class ConvStem(nn.Module):
    """4x4 of stride 4, then 3x3 of stride 2, each with a norm over channels and a GELU; maps stay channels-last.

    PyTorch pads by 1 on both sides where XLA's SAME pads the far side alone. On a mirrored image with mirrored kernels
    the two are the same function, so `weights.py` mirrors both and nothing is padded by hand in the step.
    """

    def __init__(self, image: ImageConfig) -> None:
        super().__init__()
        widths = [image.stem_width * 2**stage for stage in range(int(math.log2(image.patch)) - 1)]
        stages: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=4)]
        stages += [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)]
        self.stages = nn.ModuleDict({f"stage_{i}": stage for i, stage in enumerate(stages)})
        self.norms = nn.ModuleDict({f"stage_{i}": Norm(width) for i, width in enumerate(widths)})
        self.project = nn.Linear(widths[-1], image.width)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, P, D]."""
        for name, stage in self.stages.items():
            x = stage(x).permute(0, 2, 3, 1)  # channels-last memory: a view, no copy
            x = functional.gelu(self.norms[name](x), approximate="tanh").permute(0, 3, 1, 2)
        return self.project(x.flatten(2).transpose(1, 2))


class ImageEncoder(nn.Module):
    """Patches, positions and blocks."""

    def __init__(self, model: ModelConfig, block: str) -> None:
        super().__init__()
        image = model.image
        rows, columns = image.grid
        self.stem = PatchStem(image) if image.stem == "patch" else ConvStem(image)
        self.position = nn.Parameter(torch.empty(rows * columns, image.width))
        self.blocks = Blocks(image, model, block)
        self.norm = Norm(image.width)

    def forward(self, image: Tensor) -> Tensor:
        """Patch states [B, P, D] of uint8 images [B, H, W, 3]."""
        pixels = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.norm(self.blocks(self.stem(pixels) + self.position))


class GatedFusion(nn.Module):
    """A weighted sum of the title's and the image's unit vectors, and a residual of both together."""

    def __init__(self, model: ModelConfig, block: str) -> None:
        super().__init__()
        D = model.fusion.width
        self.modality = nn.Parameter(torch.empty(2, D))
        self.blocks = Blocks(model.fusion, model, block)
        self.norm = Norm(D)
        self.gate_in, self.gate_out = nn.Linear(2 * D, D), nn.Linear(D, 2)
        self.residual_in, self.residual_out = nn.Linear(2 * D, 2 * D), nn.Linear(2 * D, model.dim)
        self.residual_scale = nn.Parameter(torch.empty(()))

    def forward(
        self,
        words: tuple[Tensor, Tensor],
        patches: tuple[Tensor, Tensor],
        vectors: tuple[Tensor, Tensor],
        present: Tensor,
    ) -> Tensor:
        """The product vector [B, E], not normalised.

        Args:
          words, patches: states [B, T, D] and which are real [B, T].
          vectors: of the title and of the image, [B, E].
          present: which of the two a product has, [B, 2].
        """
        T = words[1].shape[1]
        states = torch.cat([words[0] + self.modality[0], patches[0] + self.modality[1]], dim=1)
        states = self.norm(self.blocks(states, torch.cat([words[1], patches[1]], dim=1)))
        means = masked_mean(states[:, :T], words[1]), masked_mean(states[:, T:], patches[1])
        together = torch.cat(means, dim=1)
        logits = self.gate_out(functional.gelu(self.gate_in(together), approximate="tanh"))
        weights = logits.masked_fill(~present, HIDDEN).softmax(dim=1)
        residual = self.residual_out(functional.gelu(self.residual_in(together), approximate="tanh"))
        return weights[:, :1] * vectors[0] + weights[:, 1:] * vectors[1] + self.residual_scale * residual


class TorchSearchModel(nn.Module):
    """Query, title and image encoders and the fusion tower."""

    def __init__(self, config: Config, block: str = "default") -> None:
        super().__init__()
        model = config.model
        self.query_encoder = TextEncoder(model.query, model, block)
        self.title_encoder = TextEncoder(model.title, model, block)
        self.image_encoder = ImageEncoder(model, block)
        self.query_project = nn.Linear(model.query.width, model.dim)
        self.title_project = nn.Linear(model.title.width, model.dim)
        self.image_project = nn.Linear(model.image.width, model.dim)
        self.title_to_fusion = nn.Linear(model.title.width, model.fusion.width)
        self.image_to_fusion = nn.Linear(model.image.width, model.fusion.width)
        self.title_null = nn.Parameter(torch.empty(model.title.width))
        self.image_null = nn.Parameter(torch.empty(model.image.width))
        self.fusion = GatedFusion(model, block)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = nn.Parameter(torch.empty(()))

    def forward(self, batch: dict[str, Tensor]) -> Vectors:
        """The unit vectors of a batch of data/layout.py."""
        query = self.query_encoder(batch["query_ids"], batch["query_mask"])
        query = functional.normalize(self.query_project(masked_mean(query, batch["query_mask"])), dim=1)
        present = torch.stack([batch["title_mask"].any(dim=1), batch["image_present"].any(dim=1)], dim=1)
        title = self.title_encoder(batch["title_ids"], batch["title_mask"])
        words = with_null(title, batch["title_mask"], present[:, 0], self.title_null)
        image = self.image_encoder(batch["image"].flatten(0, 1))
        seen = batch["image_present"].expand(-1, image.shape[1])
        patches = with_null(image, seen, present[:, 1], self.image_null)
        vectors = (
            functional.normalize(self.title_project(masked_mean(*words)), dim=1),
            functional.normalize(self.image_project(masked_mean(*patches)), dim=1),
        )
        fused = self.fusion(
            (self.title_to_fusion(words[0]), words[1]), (self.image_to_fusion(patches[0]), patches[1]), vectors, present
        )
        return Vectors(query, *vectors, functional.normalize(fused, dim=1), self.logit_scale.exp())


def with_null(states: Tensor, mask: Tensor, present: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
    """Where a modality is missing: one real token, the learned null."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return torch.where(present[:, None, None], states, null), torch.where(present[:, None], mask, first)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean [B, D] over the tokens of x [B, T, D] whose mask [B, T] holds."""
    weights = mask.to(x.dtype)[..., None]
    return (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
