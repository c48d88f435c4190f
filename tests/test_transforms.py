import io
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from maxsearch.data.tables.formats import BadRecord
from maxsearch.data.transforms import (
    WHOLE,
    Augment,
    ImageCache,
    View,
    decode,
    drop_modality,
    drop_words,
    eval_image,
    reduction_of,
    render,
    train_image,
)
from maxsearch.errors import UsageError

STILL = Augment(flip=False, scale=(1.0, 1.0), ratio=(1.0, 1.0))
RED = (255, 0, 0)
sides = st.integers(1, 60)


def encoded(pixels, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def solid(height, width, colour=RED) -> bytes:
    return encoded(np.full((height, width, 3), colour))


def redness(pixels) -> np.ndarray:
    return (pixels == RED).all(-1)


def rng(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_wide_picture_gets_white_above_and_below():
    pixels = eval_image(solid(10, 40), (32, 32))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert redness(pixels)[12:20].all()
    assert (pixels[:12] == 255).all()
    assert (pixels[20:] == 255).all()


def test_a_tall_picture_gets_white_at_its_sides():
    pixels = eval_image(solid(64, 16), (32, 24))
    assert redness(pixels)[:, 8:16].all()
    assert (pixels[:, :8] == 255).all()
    assert (pixels[:, 16:] == 255).all()


def test_no_picture_is_white():
    pixels = eval_image(None, (5, 7))
    assert pixels.shape == (5, 7, 3)
    assert (pixels == 255).all()


def test_a_picture_of_the_target_size_is_kept_exactly():
    pixels = rng().integers(0, 256, (24, 18, 3), np.uint8)
    np.testing.assert_array_equal(eval_image(encoded(pixels), (24, 18)), pixels)


@settings(deadline=None, max_examples=40)
@given(sides, sides, sides, sides)
@example(22, 22, 17, 22)  # margins of half a pixel and two whole ones
def test_training_without_changes_shows_what_evaluation_shows(height, width, H, W):
    data = encoded(rng(height).integers(0, 256, (height, width, 3), np.uint8))
    np.testing.assert_array_equal(train_image(data, (H, W), rng(), STILL), eval_image(data, (H, W)))


@settings(deadline=None, max_examples=100)
@given(sides, sides, st.integers(8, 40), st.integers(8, 40), st.floats(0.05, 1.0), st.integers(0, 2**32))
def test_a_random_box_shows_at_least_as_much_of_the_picture(height, width, H, W, least, seed):
    data = solid(height, width)
    options = Augment(scale=(least, 1.0), ratio=(0.7, 1.4))
    pixels = train_image(data, (H, W), rng(seed), options)
    assert pixels.shape == (H, W, 3)
    shown, whole = redness(pixels), redness(eval_image(data, (H, W)))
    # Rounding to whole pixels may cost one row or column at each side.
    assert shown.any(1).sum() >= whole.any(1).sum() - 2
    assert shown.any(0).sum() >= whole.any(0).sum() - 2
    assert shown.any()


def test_a_random_box_has_the_chosen_size_and_moves():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    data = encoded(ramp)
    starts = []
    for seed in range(40):
        row = train_image(data, (64, 64), rng(seed), Augment(flip=False, scale=(0.25, 0.25), ratio=(1.0, 1.0)))[0, :, 0]
        assert abs(int(row[-1]) - int(row[0]) - 126) <= 3  # half of the ramp
        starts.append(int(row[0]))
    assert min(starts) < 20
    assert max(starts) > 100


def test_half_of_the_pictures_are_mirrored():
    pixels = rng().integers(0, 256, (16, 12, 3), np.uint8)
    data = encoded(pixels)
    options = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    mirrored = 0
    for seed in range(200):
        shown = train_image(data, (16, 12), rng(seed), options)
        if np.array_equal(shown, pixels[:, ::-1]):
            mirrored += 1
        else:
            np.testing.assert_array_equal(shown, pixels)
    assert 70 < mirrored < 130


def test_equal_generators_give_equal_pixels():
    data = encoded(rng().integers(0, 256, (40, 30, 3), np.uint8))
    options = Augment(brightness=0.3, contrast=0.3)
    first, same, other = (train_image(data, (16, 12), rng(seed), options) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_colours_stay_unless_asked():
    data = solid(20, 20, (200, 100, 40))
    assert all((train_image(data, (8, 8), rng(seed), Augment()) == (200, 100, 40)).all() for seed in range(10))


def test_brightness_scales_and_contrast_keeps_the_mean():
    data = solid(20, 20, (100, 100, 100))
    values = [int(train_image(data, (8, 8), rng(seed), Augment(brightness=0.5))[0, 0, 0]) for seed in range(100)]
    assert 50 <= min(values) < 60
    assert 140 < max(values) <= 150
    halves = np.full((20, 20, 3), 100)
    halves[:, 10:] = 150
    spreads = set()
    for seed in range(30):
        pixels = train_image(encoded(halves), (20, 20), rng(seed), Augment(False, (1.0, 1.0), (1.0, 1.0), contrast=0.5))
        assert abs(pixels.mean() - 125) <= 1
        spreads.add(int(pixels.max()) - int(pixels.min()))
    assert min(spreads) < 35
    assert max(spreads) > 65


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    coarse = Image.fromarray(rng().integers(0, 256, (12, 9, 3), np.uint8))
    large = coarse.resize((900, 1200), Image.Resampling.BICUBIC)
    data = encoded(large, "JPEG", quality=95)
    assert reduction_of(data, (64, 48), WHOLE) == 8
    assert decode(data, 8).shape == (150, 113, 3)
    reference = np.asarray(large.resize((48, 64), Image.Resampling.BILINEAR), np.int16)
    assert np.abs(eval_image(data, (64, 48)) - reference).mean() < 2.0


def test_transparency_becomes_white_and_exif_turns():
    half = np.zeros((10, 20, 4), np.uint8)
    half[:, :10] = (255, 0, 0, 255)
    pixels = eval_image(encoded(half), (10, 20))
    assert redness(pixels)[:, :10].all()
    assert (pixels[:, 10:] == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = encoded(np.full((10, 20, 3), 90), "JPEG", exif=exif)
    assert decode(turned, reduction_of(turned, (2, 2), WHOLE)).shape == (20, 10, 3)


def test_grey_pictures_become_rgb():
    for kind in ("PNG", "JPEG", "WEBP"):
        grey = Image.fromarray(np.full((8, 8), 77, np.uint8))
        pixels = eval_image(encoded(grey.convert("RGB") if kind == "WEBP" else grey, kind), (8, 8))
        assert np.abs(pixels.astype(int) - 77).max() <= 2


def test_damaged_pictures_are_bad_records():
    whole = encoded(rng().integers(0, 256, (64, 64, 3), np.uint8), "JPEG")
    for data in (b"", b"no picture", whole[: len(whole) // 2], encoded(np.zeros((9, 9, 3)), "PNG")[:40]):
        with pytest.raises(BadRecord):
            eval_image(data, (8, 8))
        with pytest.raises(BadRecord):
            train_image(data, (8, 8), rng(), Augment())


words = st.lists(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=4), max_size=8)


@given(words, st.floats(0, 1), st.integers(0, 2**32))
def test_dropping_words_leaves_a_part_in_order(words, probability, seed):
    text = " ".join(words)
    left = drop_words(text, probability, rng(seed)).split()
    rest = iter(words)
    assert all(word in rest for word in left)  # a subsequence
    assert bool(left) == bool(words)
    if probability == 0:
        assert left == words
    if probability == 1 and words:
        assert len(left) == 1


def test_words_are_dropped_as_often_as_asked():
    text = " ".join("abcdefghij")
    kept = sum(len(drop_words(text, 0.3, rng(seed)).split()) for seed in range(300))
    assert abs(kept / 3000 - 0.7) < 0.04


def test_a_sample_loses_title_or_image_as_often_as_asked_and_never_both():
    options = Augment(drop_title=0.2, drop_image=0.5)
    kept = [drop_modality(chance, options, True, True) for chance in rng().random(2000)]
    assert (False, False) not in kept
    assert abs(kept.count((False, True)) / 2000 - 0.2) < 0.04
    assert abs(kept.count((True, False)) / 2000 - 0.5) < 0.05
    always = Augment(drop_title=0.5, drop_image=0.5)
    for has in ((True, False), (False, True), (False, False)):
        assert all(drop_modality(chance, always, *has) == has for chance in rng().random(50))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_title": 1.2}, r"augment\.drop_title is 1\.2: choose a number from 0 to 1"),
        ({"query_word_drop": -0.1}, r"augment\.query_word_drop is -0\.1"),
        ({"brightness": float("nan")}, r"augment\.brightness is nan"),
        ({"drop_title": 0.6, "drop_image": 0.6}, r"data\.augment\.drop_title \+ data\.augment\.drop_image is 1\.2"),
        ({"scale": (0.0, 1.0)}, r"augment\.scale is \(0\.0, 1\.0\)"),
        ({"scale": (0.9, 0.5)}, r"augment\.scale"),
        ({"ratio": (1.2, 0.8)}, r"augment\.ratio"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Augment(**options)


def test_the_cache_keeps_to_its_bytes():
    picture = np.zeros((10, 10, 3), np.uint8)
    cache = ImageCache(2 * picture.nbytes + 1)
    for key in range(5):
        cache.put(key, picture)
        cache.put(key, picture)
    assert len(cache) == 2
    assert cache.get(0) is picture
    assert cache.get(4) is None
    copy = pickle.loads(pickle.dumps(cache))
    assert len(copy) == 0
    copy.put("a", picture)
    assert len(copy) == 1
    nothing = ImageCache(0)
    nothing.put(0, picture)
    assert len(nothing) == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(4, 40), st.integers(4, 40), st.floats(0.1, 1.0))
def test_a_reduced_picture_has_a_pixel_for_each_that_is_shown(height, width, H, W, least):
    data = encoded(np.zeros((height, width, 3), np.uint8), "JPEG")
    view = View(width=least, height=least)
    reduction = reduction_of(data, (H, W), view)
    scale = max(width / W, height / H)
    assert reduction in (1, 2, 4, 8)
    assert reduction == 1 or least * scale >= reduction
    assert reduction == 8 or least * scale < 2 * reduction
    assert decode(data, reduction).shape == (-(-height // reduction), -(-width // reduction), 3)


@settings(deadline=None, max_examples=60)
@given(sides, sides, sides, sides, st.integers(0, 2**32))
def test_a_view_is_rendered_alike_into_a_part_of_a_batch(height, width, H, W, seed):
    picture = rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    view = View(0.7, 0.9, 0.2, 1.0, mirror=bool(seed % 2), brightness=1.2, contrast=0.8)
    batch = np.full((3, H, W, 3), 7, np.uint8)
    found = render(picture, (H, W), view, batch[1])
    assert np.shares_memory(found, batch)
    np.testing.assert_array_equal(batch[1], render(picture, (H, W), view))
    assert (batch[[0, 2]] == 7).all()


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_jpegs_are_bad_records_or_pictures(data):
    raw = bytearray(encoded(rng().integers(0, 256, (24, 40, 3), np.uint8), "JPEG"))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = eval_image(bytes(raw[: data.draw(st.integers(1, len(raw)))]), (8, 8))
    except BadRecord:
        return
    assert pixels.shape == (8, 8, 3)
