"""A drawn catalogue with pictures as large as a shop's."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from maxsearch.data.synthetic import VALUES
from maxsearch.data.synthetic_drawing import Look, draw_scene
from maxsearch.prepare.run import PrepareOptions, prepare

SCENE = 512  # pixels that a scene is drawn with; larger pictures are enlarged ones with fresh noise
SCENES = 64  # further products show the same ones, each at another place
LOOKS = ("shape", "colour", "material", "pattern")


def make_data(folder: Path, products: int, edge: tuple[int, int], image_edge: int) -> Path:
    """Draws pictures of (height, width) pixels as JPEGs of quality 90, and prepares them at `image_edge`."""
    rng = np.random.default_rng(0)
    scenes, rows, clicks = [], [], []
    for number in range(products):
        if number < SCENES:
            look = {name: str(rng.choice(VALUES[name])) for name in LOOKS}
            scenes.append((look, Image.fromarray(draw_scene([Look(**look)], SCENE, rng)[0])))
        look, scene = scenes[number % SCENES]
        said = " ".join(look[name] for name in ("colour", "pattern", "material", "shape"))
        title = f"{said} for {rng.choice(('men', 'women', 'girls', 'boys'))}, article {number}"
        rows.append({"product_id": str(number), "title": title, "image": photograph(scene, edge, rng)})
        clicks += [{"query": f"{look['colour']} {look['shape']}", "product_id": str(number)}] * 2
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "products.parquet")
    pq.write_table(pa.Table.from_pylist(clicks), folder / "interactions.parquet")
    out = folder / "data"
    prepare(PrepareOptions(folder / "products.parquet", folder / "interactions.parquet", out, image_edge=image_edge))
    return out


def photograph(scene: Image.Image, edge: tuple[int, int], rng: np.random.Generator) -> bytes:
    """A picture of a scene from a place of its own, with the noise that a camera has."""
    height, width = edge
    larger = max(height, width) * 1.05
    left, top = rng.uniform(0, larger - width), rng.uniform(0, larger - height)
    scale = SCENE / larger
    box = (left * scale, top * scale, (left + width) * scale, (top + height) * scale)
    pixels = np.asarray(scene.resize((width, height), Image.Resampling.BICUBIC, box=box), np.int16)
    noisy = pixels + rng.integers(-3, 4, (height, width, 1), np.int16)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()
