"""Examples per second of the training stream, as one JSON line per setting.

python benchmarks/stream.py                      # a catalogue of 60 x 80 noise JPEGs, made in a temporary folder
python benchmarks/stream.py --data DATA --size 64 48 --threads 0 1 2 --workers 0 2
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.stream import StreamOptions, make_stream
from maxsearch.data.tokenize import TextEncoder, train_tokenizer
from maxsearch.prepare.run import PrepareOptions, prepare

COLOURS = ("navy", "blue", "red", "green", "black", "white")
KINDS = ("shoes", "shirt", "watch", "bag", "dress", "belt")


def make_data(folder: Path, products: int, edge: tuple[int, int]) -> PreparedDataset:
    """Prepares random titles and pictures of (height, width) pixels; noise is the dearest picture to decode."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(products):
        buffer = io.BytesIO()
        coarse = Image.fromarray(rng.integers(0, 256, (max(edge[0] // 4, 1), max(edge[1] // 4, 1), 3), np.uint8))
        coarse.resize((edge[1], edge[0]), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        title = f"{rng.choice(COLOURS)} cotton {rng.choice(KINDS)} for men number {i}"
        rows.append({"product_id": str(i), "title": title, "image": buffer.getvalue()})
    pq.write_table(pa.Table.from_pylist(rows), folder / "products.parquet")
    clicks = [
        {"query": f"{rng.choice(COLOURS)} {rng.choice(KINDS)}", "product_id": str(i % products)}
        for i in range(2 * products)
    ]
    pq.write_table(pa.Table.from_pylist(clicks), folder / "interactions.parquet")
    out = folder / "data"
    prepare(PrepareOptions(folder / "products.parquet", folder / "interactions.parquet", out, image_edge=max(edge)))
    return PreparedDataset.open(out)


def measure(
    source: CatalogueSource,
    encoders: tuple[TextEncoder, TextEncoder],
    size: tuple[int, int],
    options: StreamOptions,
    seconds: float,
) -> dict[str, object]:
    """Draws batches for a while, after the first few have filled the buffers."""
    with make_stream(source, *encoders, size, options) as stream:
        for _ in range(3):
            next(stream)
        started, batches = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            next(stream)
            batches += 1
        elapsed = time.perf_counter() - started
    return {
        "benchmark": "stream",
        "examples_per_second": round(batches * options.batch_size / elapsed, 1),
        "workers": options.num_workers,
        "threads": options.num_threads,
        "batch_size": options.batch_size,
        "size": list(size),
        "cache_images": options.cache_images,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder that `maxsearch prepare` wrote; by default one is made")
    parser.add_argument("--products", type=int, default=2000, help="products of the catalogue that is made")
    parser.add_argument("--edge", type=int, nargs=2, default=(80, 60), help="height and width of its pictures")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 48), help="height and width of the stream's arrays")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache-images", type=int, default=0, help="bytes")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each setting")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data:
            dataset = PreparedDataset.open(arguments.data)
        else:
            dataset = make_data(Path(folder), arguments.products, tuple(arguments.edge))
        source = CatalogueSource(dataset)
        tokenizer = train_tokenizer(source.texts(), 8192)
        encoders = TextEncoder(tokenizer, 16), TextEncoder(tokenizer, 32)
        for workers in arguments.workers:
            for threads in arguments.threads:
                options = StreamOptions(
                    batch_size=arguments.batch_size,
                    num_workers=workers,
                    num_threads=threads,
                    cache_images=arguments.cache_images,
                )
                result = measure(source, encoders, tuple(arguments.size), options, arguments.seconds)
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
