"""Endless batches as each contender makes them: pictures, tokens of queries and tokens of titles.

Each function takes a `Work`. All decode JPEGs, show a random box (area 0.7 to 1, aspect ratio 0.85 to 1.18) half of the
time mirrored, and tokenise a query and a title.
"""

import random
from collections.abc import Iterator
from typing import Any

from benchmarks.streams.work import AUGMENT, BUFFERED, QUERY_TOKENS, TITLE_TOKENS, Work


def maxsearch(work: Work) -> Iterator[Any]:
    """Our stream with worker processes."""
    return our_stream(work, num_workers=work.workers, num_threads=1)


def maxsearch_threads(work: Work) -> Iterator[Any]:
    """Our stream with threads in place of worker processes: decoding and resizing leave Python's lock to the others."""
    return our_stream(work, num_workers=0, num_threads=max(work.workers, 1))


def our_stream(work: Work, **options: int) -> Iterator[Any]:
    """Exact resume, the same batches on any hosts and workers, masks and hashes included."""
    from maxsearch.data.batches import StreamOptions
    from maxsearch.data.dataset import PreparedDataset
    from maxsearch.data.sources import CatalogueSource
    from maxsearch.data.stream import make_stream
    from maxsearch.data.tokenize import TextEncoder, load_tokenizer

    tokenizer = load_tokenizer(work.tokenizer)
    source = CatalogueSource(PreparedDataset.open(work.data), 0.0)
    encoders = TextEncoder(tokenizer, QUERY_TOKENS), TextEncoder(tokenizer, TITLE_TOKENS)
    settings = StreamOptions(work.batch_size, prefetch=BUFFERED, augment=AUGMENT, **options)
    with make_stream(source, *encoders, work.size, settings) as stream:
        for batch in stream:
            yield batch["image"][:, 0], batch["query_ids"], batch["title_ids"]


def torch_pillow(work: Work) -> Iterator[Any]:
    """PyTorch's DataLoader with Pillow and torchvision's transforms, as most write it; records lie in memory."""
    from torchvision.transforms import v2

    return torch_loader(work, [decode_pillow, *boxes(work), v2.PILToTensor()])


def torch_native(work: Work) -> Iterator[Any]:
    """The same with torchvision's own decoder and its transforms of uint8 tensors, the fastest that it has."""
    return torch_loader(work, [decode_torch, *boxes(work)])


def open_clip(work: Work) -> Iterator[Any]:
    """open_clip's WebDataset pipeline with its own transform (bicubic, float32, no mirror image) and tokenizer."""
    from open_clip import AugmentationCfg, SimpleTokenizer, image_transform

    augment = AugmentationCfg(scale=AUGMENT.scale)
    tokenizer = SimpleTokenizer(context_length=QUERY_TOKENS + TITLE_TOKENS)
    return web_dataset(work, image_transform(work.size, is_train=True, aug_cfg=augment), tokenizer)


def open_clip_light(work: Work) -> Iterator[Any]:
    """The same pipeline with the bilinear transform, uint8 pictures and tokenizer of the others."""
    from torchvision.transforms import v2

    tokens = tokenize(work)
    transform = v2.Compose([*boxes(work), v2.PILToTensor()])
    return web_dataset(work, transform, lambda text: [tuple(x[0] for x in tokens([tuple(text.split("\t"))]))])


CONTENDERS = {
    "maxsearch": maxsearch,
    "maxsearch_threads": maxsearch_threads,
    "torch_pillow": torch_pillow,
    "torch_native": torch_native,
    "open_clip": open_clip,
    "open_clip_light": open_clip_light,
}


def decode_pillow(data: bytes) -> Any:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def decode_torch(data: bytes) -> Any:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def boxes(work: Work) -> list[Any]:
    """Random box, size and mirror image."""
    from torchvision.transforms import v2

    aspect = work.size[1] / work.size[0]
    ratio = tuple(aspect * each for each in AUGMENT.ratio)
    return [v2.RandomResizedCrop(work.size, scale=AUGMENT.scale, ratio=ratio), v2.RandomHorizontalFlip()]


def tokenize(work: Work) -> Any:
    """Pairs of query and title to two int tensors, with the Rust tokenizer that ours has."""
    import torch
    from tokenizers import Tokenizer

    def encoder(length: int) -> Tokenizer:
        tokenizer = Tokenizer.from_file(str(work.tokenizer / "tokenizer.json"))
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length)
        return tokenizer

    encoders = encoder(QUERY_TOKENS), encoder(TITLE_TOKENS)

    def apply(pairs: list[tuple[str, ...]]) -> tuple[Any, ...]:
        texts = zip(*pairs, strict=True)
        return tuple(
            torch.tensor([encoding.ids for encoding in encoder.encode_batch(list(side))], dtype=torch.int32)
            for encoder, side in zip(encoders, texts, strict=True)
        )

    return apply


def torch_loader(work: Work, steps: list[Any]) -> Iterator[Any]:
    """A map-style dataset in memory, shuffled; texts are tokenised a batch at a time, where the batch is made."""
    import torch
    from torchvision.transforms import v2

    transform, tokens = v2.Compose(steps), tokenize(work)
    examples = list(work.examples())

    class Examples(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(examples)

        def __getitem__(self, place: int) -> Any:
            query, title, image = examples[place]
            return transform(image), (query, title)

    def collate(rows: list[Any]) -> Any:
        pictures = torch.stack([row[0] for row in rows])
        return (pictures, *tokens([row[1] for row in rows]))

    more = {"prefetch_factor": BUFFERED, "persistent_workers": True} if work.workers else {}
    loader = torch.utils.data.DataLoader(
        Examples(), work.batch_size, shuffle=True, num_workers=work.workers, collate_fn=collate, drop_last=True, **more
    )
    while True:
        yield from loader


def write_tars(work: Work, shards: int = 8) -> None:
    """The examples in random order as WebDataset shards: a JPEG, and a text of query, tab and title."""
    import webdataset

    examples = list(work.examples())
    random.Random(0).shuffle(examples)
    work.tars.mkdir()
    for shard in range(shards):
        with webdataset.TarWriter(str(work.tars / f"{shard:05d}.tar")) as tar:
            for number in range(shard, len(examples), shards):
                query, title, image = examples[number]
                tar.write({"__key__": f"{number:08d}", "jpg": image, "txt": f"{query}\t{title}"})


def web_dataset(work: Work, transform: Any, tokenizer: Any) -> Iterator[Any]:
    """What open_clip trains from (`open_clip_train.data.get_wds_dataset`)."""
    from open_clip_train.data import get_wds_dataset

    settings = argparse_like(
        train_data=str(work.tars / "{00000..00007}.tar"),
        train_data_upsampling_factors=None,
        train_num_samples=10**9,
        dataset_resampled=True,
        seed=0,
        batch_size=work.batch_size,
        workers=work.workers,
        world_size=1,
    )
    return iter(get_wds_dataset(settings, transform, is_train=True, tokenizer=tokenizer).dataloader)


def argparse_like(**values: Any) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(**values)
