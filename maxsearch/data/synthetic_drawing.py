"""Draws the pictures of the synthetic catalogue: a main product and small secondary ones on a light background.

A shape is a list of strokes on a 100 x 100 sheet. `body` strokes carry the pattern; `trim` strokes (handles, legs,
rims) stay free of it; `hole` strokes cut through both. Colour, material and pattern are painted in the object's own
coordinates, so they turn with it.
"""

import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 28, 36),
    "orange": (246, 132, 20),
    "yellow": (248, 214, 30),
    "green": (40, 150, 60),
    "turquoise": (40, 196, 190),
    "blue": (32, 84, 212),
    "purple": (126, 48, 170),
    "pink": (248, 140, 184),
    "brown": (120, 72, 36),
    "black": (30, 30, 34),
    "grey": (136, 138, 142),
    "white": (250, 250, 248),
}

Stroke = tuple[
    str, str, tuple[float, ...]
]  # layer, method of ImageDraw, coordinates and then the method's further numbers

_STAR = tuple(
    coordinate
    for i in range(10)
    for radius in (48 if i % 2 == 0 else 21,)
    for coordinate in (50 + radius * math.sin(math.pi * i / 5), 52 - radius * math.cos(math.pi * i / 5))
)

SHAPES: dict[str, tuple[Stroke, ...]] = {
    "bag": (
        ("body", "polygon", (20, 38, 80, 38, 92, 94, 8, 94)),
        ("trim", "arc", (30, 6, 70, 70, 180, 360, 8)),
        ("trim", "rectangle", (43, 38, 57, 52)),
    ),
    "bottle": (
        ("body", "rectangle", (29, 46, 71, 97)),
        ("body", "polygon", (29, 46, 42, 26, 58, 26, 71, 46)),
        ("trim", "rectangle", (40, 3, 60, 26)),
    ),
    "chair": (
        ("body", "rectangle", (22, 4, 78, 44)),
        ("body", "polygon", (20, 54, 80, 54, 90, 68, 10, 68)),
        ("trim", "rectangle", (27, 44, 35, 54)),
        ("trim", "rectangle", (65, 44, 73, 54)),
        ("trim", "rectangle", (12, 68, 21, 98)),
        ("trim", "rectangle", (79, 68, 88, 98)),
    ),
    "clock": (
        ("trim", "ellipse", (4, 4, 96, 96)),
        ("body", "ellipse", (14, 14, 86, 86)),
        ("trim", "line", (50, 50, 50, 22, 8)),
        ("trim", "line", (50, 50, 70, 60, 8)),
    ),
    "cup": (
        ("trim", "arc", (56, 30, 98, 74, -90, 90, 10)),
        ("body", "polygon", (8, 20, 76, 20, 66, 92, 18, 92)),
        ("trim", "ellipse", (8, 12, 76, 28)),
    ),
    "hat": (
        ("body", "chord", (20, 12, 80, 124, 180, 360)),
        ("trim", "ellipse", (2, 60, 98, 86)),
        ("body", "rectangle", (21, 52, 79, 64)),
    ),
    "lamp": (
        ("trim", "rectangle", (45, 52, 55, 88)),
        ("trim", "ellipse", (24, 84, 76, 98)),
        ("body", "polygon", (34, 4, 66, 4, 92, 56, 8, 56)),
    ),
    "ring": (
        ("body", "ellipse", (12, 24, 88, 100)),
        ("hole", "ellipse", (34, 46, 66, 78)),
        ("trim", "polygon", (36, 2, 64, 2, 74, 14, 50, 38, 26, 14)),
    ),
    "shoe": (
        ("body", "polygon", (6, 28, 34, 28, 44, 46, 72, 56, 92, 64, 96, 78, 6, 78)),
        ("trim", "polygon", (4, 78, 97, 78, 95, 90, 4, 90)),
        ("trim", "line", (44, 56, 52, 45, 4)),
        ("trim", "line", (55, 60, 63, 49, 4)),
    ),
    "star": (("body", "polygon", _STAR),),
    "table": (
        ("body", "polygon", (20, 26, 80, 26, 98, 54, 2, 54)),
        ("trim", "rectangle", (4, 54, 12, 92)),
        ("trim", "rectangle", (88, 54, 96, 92)),
        ("trim", "rectangle", (28, 54, 34, 78)),
        ("trim", "rectangle", (66, 54, 72, 78)),
    ),
    "umbrella": (
        ("body", "chord", (2, 6, 98, 102, 180, 360)),
        ("hole", "ellipse", (2, 47, 34, 63)),
        ("hole", "ellipse", (34, 47, 66, 63)),
        ("hole", "ellipse", (66, 47, 98, 63)),
        ("trim", "rectangle", (47, 48, 54, 88)),
        ("trim", "arc", (33, 78, 54, 98, 0, 180, 7)),
    ),
}

MATERIALS = ("metal", "wood", "glass", "fabric", "leather", "plastic")
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag")

_SHEET = 192  # pixels of a stencil's edge
_OVERSAMPLE = 2
_PLACES = 16  # tries to find a free place for a secondary object
_FREE = 0.06  # share of a secondary object that may hide others


@dataclass(frozen=True)
class Look:
    """What an object looks like: names from SHAPES, COLOURS, MATERIALS and PATTERNS."""

    shape: str
    colour: str
    material: str = "plastic"
    pattern: str = "plain"


@dataclass(frozen=True)
class Drawn:
    """An object and where it is, in pixels of the picture: [x0, y0, x1, y1], the second corner excluded.

    `body_box` bounds the part that carries the pattern.
    """

    look: Look
    box: tuple[int, int, int, int]
    body_box: tuple[int, int, int, int]


@functools.cache
def _stencil(shape: str) -> Image.Image:
    """Channels: body, trim, and depth below the silhouette's edge (0 at the edge, 255 well inside)."""
    layers = {name: Image.new("L", (_SHEET, _SHEET)) for name in ("body", "trim")}
    for layer, method, numbers in SHAPES[shape]:
        corners = len(numbers) if method == "polygon" else 4
        points = [n * _SHEET / 100 for n in numbers[:corners]]
        further = list(numbers[corners:])
        if method in ("arc", "line"):
            further[-1] = round(further[-1] * _SHEET / 100)
        for name, image in layers.items():
            pen = ImageDraw.Draw(image)
            ink = 255 if name == layer else 0  # a later stroke hides the other layer
            if method == "arc":
                pen.arc(points, further[0], further[1], fill=ink, width=int(further[2]))
            elif method == "chord":
                pen.chord(points, further[0], further[1], fill=ink)
            elif method == "line":
                pen.line(points, fill=ink, width=int(further[0]))
            else:
                getattr(pen, method)(points, fill=ink)
    margin = _SHEET // 16
    padded = [Image.new("L", (_SHEET + 2 * margin,) * 2) for _ in layers]
    for sheet, image in zip(padded, layers.values(), strict=True):
        sheet.paste(image, (margin, margin))
    silhouette = Image.fromarray(np.maximum(*(np.asarray(sheet) for sheet in padded)))
    blurred = np.asarray(silhouette.filter(ImageFilter.GaussianBlur(_SHEET / 22)), dtype=np.float32)
    depth = np.clip((blurred - 127.5) * 2, 0, 255).astype(np.uint8)
    return Image.merge("RGB", [*padded, Image.fromarray(depth)])


def _ink(pattern: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the pattern's second colour lies, from 0 to 1; u and v run from -0.5 to 0.5 over the object."""
    if pattern == "striped":
        return np.clip(3 * np.cos(2 * np.pi * 5.5 * u) + 0.2, 0, 1)
    if pattern == "dotted":
        row = np.round(v * 5.5)
        du = (u * 5.5 + 0.5 * (row % 2)) % 1 - 0.5
        return np.clip((0.34 - np.hypot(du, v * 5.5 - row)) * 8, 0, 1)
    if pattern == "checked":
        return np.clip(0.5 + 4 * np.sin(2 * np.pi * 2.6 * u) * np.sin(2 * np.pi * 2.6 * v), 0, 1)
    if pattern == "zigzag":
        wave = np.abs((u * 3.2) % 1 - 0.5) * 1.4
        return np.clip(3 * np.cos(2 * np.pi * (v * 4.2 + wave)) + 0.2, 0, 1)
    return np.zeros_like(u)


def _surface(
    material: str, u: np.ndarray, v: np.ndarray, depth: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns light (a factor), gloss (share of white) and opacity of the material at each point."""
    phase = rng.uniform(0, 2 * np.pi)
    one = np.ones_like(u)
    if material == "metal":
        across = 0.85 * u + 0.5 * v
        light = 0.82 + 0.34 * np.cos(2 * np.pi * 1.7 * across + 0.4 * phase)
        gloss = 0.8 * np.exp(-(((across + 0.12) / 0.05) ** 2)) + 0.5 * np.exp(-(((across - 0.3) / 0.03) ** 2))
        return light, gloss, one
    if material == "wood":
        grain = np.sin(2 * np.pi * (7.5 * v + 0.55 * np.sin(4 * u + phase) + 0.25 * np.sin(11 * u)))
        return 0.93 - 0.42 * np.clip(grain, 0, 1) ** 3 + 0.06 * grain, 0 * one, one
    if material == "glass":
        rim = np.clip((0.95 - depth) * 4, 0, 1)
        streak = np.exp(-(((u + 0.6 * v + 0.16) / 0.05) ** 2)) + 0.6 * np.exp(-(((u + 0.6 * v + 0.02) / 0.025) ** 2))
        return one, 0.85 * streak, np.clip(0.42 + 0.58 * rim + 0.2 * streak, 0, 1)
    if material == "fabric":
        weave = np.sign(np.sin(2 * np.pi * 9 * (u + v)) * np.sin(2 * np.pi * 9 * (u - v)))
        return 0.9 + 0.17 * weave, 0.06 * (weave > 0), one
    if material == "leather":
        mottle = np.sin(17 * u + phase) * np.sin(15 * v - phase) + np.sin(29 * v + 23 * u + phase)
        stitch = (np.abs(depth - 0.88) < 0.09) & (np.sin(26 * np.arctan2(v, u)) > -0.2)
        return 0.84 + 0.07 * mottle, 0.9 * stitch, one
    blob = ((u + 0.17) / 0.1) ** 2 + ((v + 0.16) / 0.15) ** 2
    return 1.04 - 0.14 * v, 0.9 * np.clip(1.6 - blob, 0, 1), one


def _paint(
    look: Look, size: float, stretch: float, angle: float, mirrored: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns colour [h, w, 3] from 0 to 1, opacity, silhouette and body [h, w] of one object."""
    stencil = _stencil(look.shape)
    if mirrored:
        stencil = stencil.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    whole = size * (1 + 2 / 16)
    stencil = stencil.resize(
        (max(8, round(whole * stretch)), max(8, round(whole / stretch))), Image.Resampling.BILINEAR
    )
    stencil = stencil.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    body, trim, depth = np.moveaxis(np.asarray(stencil, dtype=np.float32) / 255, 2, 0)
    height, width = body.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (x - (width - 1) / 2) / size, (y - (height - 1) / 2) / size
    turn = math.radians(angle)
    u, v = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)

    base = np.array(COLOURS[look.colour], dtype=np.float32) / 255
    brightness = float(base @ np.array([0.3, 0.59, 0.11], dtype=np.float32))
    second = base * 0.42 if brightness > 0.62 else base + (1 - base) * 0.78
    trimmed = base * 0.66 if brightness > 0.2 else base + (1 - base) * 0.25
    ink = (_ink(look.pattern, u, v) * body)[..., None]
    silhouette = np.clip(body + trim, 0, 1)
    share = (trim / np.maximum(silhouette, 1e-6))[..., None]
    colour = (base + ink * (second - base)) * (1 - share) + trimmed * share
    light, gloss, opacity = _surface(look.material, u, v, depth, rng)
    colour = np.clip(colour * light[..., None], 0, 1)
    colour = colour + (1 - colour) * np.clip(gloss * (0.4 + 0.6 * (1 - share[..., 0])), 0, 1)[..., None]
    outline = np.clip((0.42 - depth) * 5, 0, 1)[..., None]
    colour = colour * (1 - outline) + base * 0.4 * outline
    rows, columns = np.flatnonzero(silhouette.any(axis=1)), np.flatnonzero(silhouette.any(axis=0))
    tight = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    opacity = np.maximum(opacity, outline[..., 0]) * silhouette
    return colour[tight], opacity[tight], silhouette[tight], body[tight]


def _background(edge: int, rng: np.random.Generator) -> np.ndarray:
    tint = rng.uniform(0.84, 0.97) + rng.uniform(-0.04, 0.04, 3)
    y, x = np.mgrid[0:edge, 0:edge].astype(np.float32) / edge
    direction = rng.uniform(0, 2 * np.pi)
    canvas = np.asarray(tint + 0.06 * ((x - 0.5) * np.cos(direction) + (y - 0.5) * np.sin(direction))[..., None])
    if rng.random() < 0.4:
        canvas = canvas * (1 - rng.uniform(0.04, 0.1) * (y > rng.uniform(0.55, 0.8)))[..., None]  # a table edge
    return np.clip(canvas, 0, 1).astype(np.float32)


def _box(mask: np.ndarray, left: int, top: int) -> tuple[int, int, int, int]:
    inside = mask > 0.5
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    down, up = (lambda n: int(n) // _OVERSAMPLE), (lambda n: -(-int(n) // _OVERSAMPLE))
    return (
        down(left + columns[0]),
        down(top + rows[0]),
        up(left + columns[-1] + 1),
        up(top + rows[-1] + 1),
    )


def draw_scene(
    looks: list[Look], edge: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "edge edge 3"], list[Drawn]]:
    """Draws the first look large and the others small, each where it hides little of the rest.

    Args:
      looks: the main object, then the secondary ones.
      edge: the picture's edge in pixels.
      rng: decides place, scale, turn, background and noise.

    Returns:
      The picture, and the objects that found a place: always the main one, then secondary ones in their order.
    """
    side = edge * _OVERSAMPLE
    canvas = _background(side, rng)
    taken = np.zeros((side, side), dtype=np.float32)
    drawn = []
    for index, look in enumerate(looks):
        size = side * (rng.uniform(0.56, 0.74) if index == 0 else rng.uniform(0.25, 0.32))
        painted = _paint(look, size, rng.uniform(0.92, 1.08), rng.uniform(-14, 14), bool(rng.random() < 0.5), rng)
        colour, opacity, silhouette, body = painted
        height, width = silhouette.shape
        for _ in range(_PLACES):
            top, left = int(rng.integers(0, side - height + 1)), int(rng.integers(0, side - width + 1))
            spot = (slice(top, top + height), slice(left, left + width))
            if (taken[spot] * silhouette).sum() <= _FREE * silhouette.sum():
                break
        else:
            continue
        _cast_shadow(canvas, silhouette, top, left)
        canvas[spot] = canvas[spot] * (1 - opacity[..., None]) + colour * opacity[..., None]
        taken[spot] = np.maximum(taken[spot], silhouette)
        drawn.append(Drawn(look, _box(silhouette, left, top), _box(body, left, top)))
    picture = canvas.reshape(edge, _OVERSAMPLE, edge, _OVERSAMPLE, 3).mean(axis=(1, 3))
    picture = picture + rng.normal(0, rng.uniform(0.005, 0.02), picture.shape)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), drawn


def _cast_shadow(canvas: np.ndarray, silhouette: np.ndarray, top: int, left: int) -> None:
    side = canvas.shape[0]
    shadow = Image.new("L", (side, side))
    shadow.paste(Image.fromarray((silhouette * 255).astype(np.uint8)), (left + side // 64, top + side // 32))
    blurred = np.asarray(shadow.filter(ImageFilter.BoxBlur(side / 48)), dtype=np.float32) / 255
    canvas *= (1 - 0.24 * blurred)[..., None]


def encode_jpeg(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """JPEG bytes; colours are not subsampled, since a small picture would lose them."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=92, subsampling=0)
    return stream.getvalue()


def coverage(box: Sequence[float | int], edge: int, cells: int) -> Float[np.ndarray, "cells cells"]:
    """Share of each cell of a cells x cells grid over an edge x edge picture that lies in `box`; row, then column."""
    cell = edge / cells
    starts = np.arange(cells) * cell
    across, down = (
        np.clip(np.minimum(starts + cell, high) - np.maximum(starts, low), 0, None) / cell
        for low, high in ((box[0], box[2]), (box[1], box[3]))
    )
    return np.outer(down, across)
