"""Text-to-image and image-to-text figures beside a plain loop, and the command on downloads and tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.captions import (
    IMAGE_TO_TEXT,
    TEXT_TO_IMAGE,
    CaptionFigures,
    CaptionOptions,
    evaluate_captions,
    figures,
    median_interval,
    read_captions,
)
from maxsearch.evaluation.product_vectors import Source
from tests import tiny
from tests.letter_encoder import LetterEncoder, vector
from tests.test_layouts import picture

COLOURS = [f"#{red:02x}{blue:02x}40" for red in (0, 120, 250) for blue in (0, 90, 180, 250)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, the last without a caption, and a product without a picture."""
    folder = tmp_path_factory.mktemp("captions")
    rows = []
    for number, colour in enumerate(COLOURS):
        picture(folder / f"{number}.jpg", colour)
        rows.append(f"i{number},{number}.jpg,")
    (folder / "products.csv").write_text("\n".join(["product_id,image,title", *rows, "bare,,only a title"]) + "\n")
    captions = [f"i{number},caption {number} {k}" for number in range(11) for k in range(1 + number % 7)]
    captions += ["i0,", "bare,about nothing", "gone,about no product"]
    (folder / "captions.csv").write_text("\n".join(["image_id,caption", *captions]) + "\n")
    return folder


def evaluated(folder: Path, **options: object) -> CaptionFigures:
    source = Source(folder / "products.csv", {}, folder)
    captions = read_captions(folder / "captions.csv", {})
    return evaluate_captions(source, captions, LetterEncoder(), CaptionOptions(**options))  # type: ignore[arg-type]


def by_loop(folder: Path, salt: int, most: int, folds: int) -> dict[str, list[int]]:
    """Ranks by the definition: sort everything, and look for the first that belongs."""
    from maxsearch.data.catalogue import read_products

    rows = read_products(folder / "products.csv", columns={}, image_dir=folder, edge=32)
    images = [(product.product_id, product.image) for _, product in rows if product.image]
    captions: dict[str, list[str]] = {image: [] for image, _ in images}
    for image, text in read_captions(folder / "captions.csv", {}):
        if image in captions and text and len(captions[image]) < most:
            captions[image].append(text)
    ranks: dict[str, list[int]] = {TEXT_TO_IMAGE: [], IMAGE_TO_TEXT: []}
    size = len(images) // folds
    for start in range(0, len(images), size):
        own = images[start : start + size]
        texts = [(image, text) for image, _ in own for text in captions[image]]
        score = {(i, text): vector(text, salt) @ vector(data, 3) for i, data in own for _, text in texts}
        for image, text in texts:
            order = sorted(own, key=lambda other: -score[other[0], text])
            ranks[TEXT_TO_IMAGE].append([name for name, _ in order].index(image) + 1)
        for image, _ in own:
            order = sorted(texts, key=lambda pair: -score[image, pair[1]])
            if captions[image]:
                ranks[IMAGE_TO_TEXT].append([name for name, _ in order].index(image) + 1)
    return ranks


@pytest.mark.parametrize(
    ("tower", "salt", "most", "folds"), [("query", 1, 5, 1), ("title", 2, 3, 4), ("query", 1, 99, 3)]
)
def test_figures_are_those_of_a_plain_loop(pictures: Path, tower: str, salt: int, most: int, folds: int) -> None:
    found = evaluated(pictures, text_encoder=tower, captions_per_image=most, folds=folds)
    ranks = by_loop(pictures, salt, most, folds)
    total = 0.0
    for direction, wanted in ranks.items():
        metrics = found.directions[direction]
        for cut in (1, 5, 10):
            share = np.mean([rank <= cut for rank in wanted])
            assert metrics[f"r@{cut}"].mean == pytest.approx(share)
            assert metrics[f"r@{cut}"].low <= share <= metrics[f"r@{cut}"].high <= 1
            total += 100 * share
        assert metrics["median rank"].mean == np.median(wanted)
        assert metrics["median rank"].low <= np.median(wanted) <= metrics["median rank"].high
    assert found.rsum.mean == pytest.approx(total)
    assert found.rsum.low < total < found.rsum.high


def test_what_is_left_out_is_counted(pictures: Path) -> None:
    assert evaluated(pictures).counts == {
        "images": 12,
        "images_without_captions": 1,
        "captions": 35,
        "captions_empty": 1,
        "captions_beyond_the_first": 3,
        "captions_of_other_images": 1,
        "captions_of_products_without_image": 1,
        "products_without_image": 1,
        "products_rejected": {},
    }


def test_captions_of_one_picture_are_resampled_together() -> None:
    # 50 pictures; the five captions of one are all found or all not: as uncertain as 50 queries, not 250.
    hits = np.arange(50) % 2
    ranks = {TEXT_TO_IMAGE: np.repeat(np.where(hits, 1, 20), 5), IMAGE_TO_TEXT: np.where(hits, 1, 20)}
    found, _ = figures(ranks, np.repeat(np.arange(50), 5))
    assert found[TEXT_TO_IMAGE]["r@1"] == found[IMAGE_TO_TEXT]["r@1"]
    assert found[TEXT_TO_IMAGE]["r@1"].high - found[TEXT_TO_IMAGE]["r@1"].low > 0.2


def test_the_median_of_an_even_number_lies_between() -> None:
    interval = median_interval(np.array([1, 2, 5, 9]), np.arange(4), 4)
    assert interval.mean == 3.5 and interval.low == 1 and interval.high == 9
    assert median_interval(np.array([4, 4, 4]), np.zeros(3, np.int64), 1).high == 4


def test_captions_of_other_pictures_are_refused(pictures: Path) -> None:
    source = Source(pictures / "products.csv", {}, pictures)
    message = r"no caption is of a picture of .*: the captions are of a, b, the pictures are i0, i1, i2, \.\.\.; check"
    with pytest.raises(MaxsearchError, match=message):
        evaluate_captions(source, [("a", "x"), ("b", "y")], LetterEncoder(), CaptionOptions())
    with pytest.raises(MaxsearchError, match="there is no caption with text"):
        evaluate_captions(source, [("i0", "")], LetterEncoder(), CaptionOptions())
    with pytest.raises(UsageError, match="--folds 13 is more than the 12 pictures: give fewer"):
        evaluate_captions(source, [("i0", "x")], LetterEncoder(), CaptionOptions(folds=13))


def test_a_broken_model_is_told(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        LetterEncoder, "encode_queries", lambda self, texts: np.full((len(texts), 6), np.nan, np.float32)
    )
    with pytest.raises(MaxsearchError, match="vectors of the captions by the query tower hold NaN or infinity"):
        evaluated(pictures)


def test_the_command_on_a_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = []
    for number, colour in enumerate(COLOURS):
        picture(tmp_path / "flickr30k-images" / f"{number}.jpg", colour)
        said = [{"raw": f"a  {word} picture", "sentid": 10 * number + k} for k, word in enumerate(("red", "dark"))]
        images.append({"filename": f"{number}.jpg", "split": "test" if number else "val", "sentences": said})
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    source = ["captions", "--model", tiny.model(), "--source", "flickr30k", "--path", tmp_path]
    tiny.quiet(*source, "--out", tmp_path / "out.json")
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (figures["kind"], figures["schema_version"]) == ("maxsearch-captions", 1)
    assert (figures["counts"]["images"], figures["counts"]["captions"]) == (11, 22)
    assert figures["directions"]["text to image"]["r@10"]["mean"] >= 10 / 11 - 1e-9
    said = capsys.readouterr().out
    assert "22 captions of 11 pictures, read by the query tower" in said and "rsum" in said and "image to text" in said
    assert tiny.fails(capsys, *source, "--split", "dev") == (
        2,
        "maxsearch: --split dev is none of flickr30k's: choose from train, val, test, all",
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source", "coco"], "--source coco is read from your own download: name its folder with --path"),
        (["--products", "p.csv"], "there is nothing to rank: give --products and --captions, or --source and --path"),
        (["--path", "x"], "--path and --source-options belong to a public dataset: name it with --source too"),
        (["--source", "coco", "--captions", "x"], "--source stands in place of --products and --captions: give one or"),
        (["--folds", "0"], "--folds 0 leaves no picture: give 1 or more"),
        (["--captions-per-image", "-1"], "--captions-per-image -1 is no number: give 0 for all, or more"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = tiny.fails(capsys, "captions", "--model", "m", *words)
    assert code == 2 and said in message


def test_the_command_needs_a_model(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--products", pictures / "products.csv", "--captions", pictures / "captions.csv"]
    assert tiny.fails(capsys, "captions", *files)[1].endswith("name the model with either --run or --model")
    assert (
        "has no column 'text' for the field caption"
        in tiny.fails(capsys, "captions", "--model", "m", *files, "--map", "caption=text")[1]
    )


def test_a_caption_of_no_picture_names_its_row(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("image_id,caption\na,x\n,y\n")
    with pytest.raises(
        MaxsearchError, match=r"row 2 of the captions file .*c.csv names no picture: fill in its image_id"
    ):
        list(read_captions(tmp_path / "c.csv", {}))
