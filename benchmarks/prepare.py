"""Time and memory of `maxsearch prepare` by the size of the catalogue, as one JSON line per size.

python benchmarks/prepare.py                               # 10^4 and 10^5 products
python benchmarks/prepare.py --products 1000000 --workers 0 2 --keep /tmp/drawn

Every product has a title of its own and a JPEG of its own, of 96 x 72 pixels unless --edges says otherwise, which
`prepare` decodes, shrinks to --image-edge and encodes again. There are four clicks a product, in CSV, and about one
distinct query for seven products. The memory is the resident size of the command and its worker processes together,
sampled ten times a second; pages that they share count as often as they are mapped.
"""

import argparse
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = ("navy", "blue", "red", "green", "black", "white", "beige", "grey", "pink", "olive", "gold", "teal")
KINDS = ("shoes", "shirt", "watch", "bag", "dress", "belt", "scarf", "jacket", "jeans", "hat", "socks", "skirt")
MATERIALS = ("cotton", "leather", "linen", "wool", "denim", "silk")
SHOPPERS = ("men", "women", "girls", "boys")
WORDS = (COLOURS, KINDS, MATERIALS, SHOPPERS)
CLICKS = 4
BLOCK, PART = 2000, 100_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def draw(folder: Path, products: int, edges: tuple[int, int]) -> None:
    """Writes products/ and clicks/, tables in parts; those that are there already stay."""
    for name in ("products", "clicks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for start in range(0, products, PART):
        done = folder / "clicks" / f"{start:09d}.csv"
        if not done.exists():
            draw_part(folder, range(start, min(start + PART, products)), products, edges)


def draw_part(folder: Path, numbers: range, products: int, edges: tuple[int, int]) -> None:
    """Writes the products of these numbers, and the clicks on them."""
    rng = np.random.default_rng(numbers.start)
    schema = pa.schema([("product_id", pa.string()), ("title", pa.string()), ("image", pa.binary())])
    clicks = folder / "clicks" / f"{numbers.start:09d}.csv"
    draft = folder / f"{numbers.start}.draft"
    with (
        pq.ParquetWriter(folder / "products" / f"{numbers.start:09d}.parquet", schema) as table,
        draft.open("w", newline="") as stream,
    ):
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(("query", "product_id", "weight"))
        for start in range(numbers.start, numbers.stop, BLOCK):
            block = range(start, min(start + BLOCK, numbers.stop))
            pixels = rng.integers(0, 256, (len(block), 8, 6, 3), np.uint8)
            words = [[kinds[at] for at in rng.integers(len(kinds), size=len(block))] for kinds in WORDS]
            strays = rng.integers(products * 10, size=(len(block), CLICKS))  # one click in ten strays
            rows = []
            for k, (i, colour, kind, material, shopper) in enumerate(zip(block, *words, strict=True)):
                brand = f"brand{i % (products // 100 + 1)}"
                # The code is a word of its own: the vocabulary grows with the catalogue, as it does in shops.
                rows.append(
                    (f"p{i}", f"{brand} {colour} {material} {kind} for {shopper} k{i:x}", picture(pixels[k], edges))
                )
                asked = (f"{colour} {kind}", f"{brand} {kind}", f"{material} {kind} {shopper}", f"{brand} {colour}")
                lines.writerows(
                    (query, f"p{stray if stray < products else i}", 1.1)
                    for query, stray in zip(asked, strays[k].tolist(), strict=True)
                )
            table.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema))
    draft.rename(clicks)


def picture(coarse: np.ndarray, edges: tuple[int, int]) -> bytes:
    """A JPEG of coloured blobs, (height, width) pixels."""
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((edges[1], edges[0]), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def family(process: int) -> Iterator[int]:
    """A process and all that it has started."""
    yield process
    try:
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from family(int(child))
    except OSError:
        return  # it has ended meanwhile


def resident(process: int) -> int:
    """Bytes that a process and its workers hold."""
    total = 0
    for one in family(process):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * PAGE
        except OSError:
            continue
    return total


def measure(folder: Path, out: Path, image_edge: int, workers: int | None) -> tuple[float, int]:
    """Seconds and peak bytes of one run of the command."""
    command = [sys.executable, "-m", "maxsearch", "prepare", "--products", folder / "products"]
    command += ["--interactions", folder / "clicks", "--image-edge", str(image_edge), "--out", out]
    command += [] if workers is None else ["--workers", str(workers)]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        assert process.stderr is not None
        if process.returncode:
            raise SystemExit(process.stderr.read())
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--edges", type=int, nargs=2, default=(96, 72), help="height and width of the pictures")
    parser.add_argument("--image-edge", type=int, default=64, help="what prepare shrinks them to")
    parser.add_argument("--workers", type=int, nargs="+", default=[None], help="as prepare's; by default its default")
    parser.add_argument("--keep", type=Path, help="a folder for the drawn catalogues, used again when they are there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for products in arguments.products:
            kept = arguments.keep or Path(temporary)
            folder = kept / f"{products}-{arguments.edges[0]}x{arguments.edges[1]}"
            draw(folder, products, tuple(arguments.edges))
            for workers in arguments.workers:
                out = Path(temporary) / "out"
                seconds, peak = measure(folder, out, arguments.image_edge, workers)
                manifest = json.loads((out / "manifest.json").read_text())
                shutil.rmtree(out)
                records = products * (1 + CLICKS)
                result = {
                    "benchmark": "prepare",
                    "products": products,
                    "clicks": products * CLICKS,
                    "interactions": manifest["interactions"]["count"],
                    "queries": manifest["interactions"]["queries"],
                    "edges": list(arguments.edges),
                    "image_edge": arguments.image_edge,
                    "workers": workers,
                    "cores": len(os.sched_getaffinity(0)),
                    "seconds": round(seconds, 1),
                    "products_per_second": round(products / seconds, 1),
                    "records_per_second": round(records / seconds, 1),
                    "peak_rss_mb": round(peak / 1e6),
                }
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
