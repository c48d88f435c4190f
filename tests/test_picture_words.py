"""Word precision and the pointing game, on pictures whose words are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from maxsearch.config import Config, ImageConfig, ModelConfig
from maxsearch.data.keywords import Lexicon
from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.explain.pointing import read_alignments
from maxsearch.explain.words import picture_words
from maxsearch.explain.words_table import print_report
from tests.tiny import fails

WORDS = ("shoes", "red", "bag", "blue", "hot", "men")
BEST = {"a": ["red", "shoes", "men"], "b": ["hot", "blue", "bag"], "c": ["red", "men", "hot"]}
VALUES = {"a": ("Red", "Casual Shoe"), "b": ("Blue", "Bags"), "c": ("Blue", "")}


class Seer:
    """Sees a product's three words in patch 0, 1 and 2, the first one best; without the aligner always the same."""

    config = Config(model=ModelConfig(image=ImageConfig(size=(64, 64), patch=32)))
    lexicon = Lexicon(WORDS)
    fingerprint = "f"

    def patch_words(self, products):
        aligned = np.zeros((len(products), 4, len(WORDS)), np.float32)
        for row, product in enumerate(products):
            for place, word in enumerate(BEST[product.product_id]):
                aligned[row, place, WORDS.index(word)] = 0.9 - place / 10
        raw = np.tile(np.linspace(1, 0, len(WORDS), dtype=np.float32), (len(products), 4, 1))
        return aligned, raw, np.ones((len(products), 4), bool)


class HubSeer(Seer):
    """The same, with a last patch that is near every word."""

    def patch_words(self, products):
        aligned, raw, valid = super().patch_words(products)
        aligned[:, 3] = 0.95
        return aligned, raw, valid


def products(**texts) -> list[Product]:
    made = [
        Product(name, name, (b"picture",), attributes=dict(zip(("colour", "kind"), VALUES[name], strict=True)))
        for name in BEST
    ]
    return [*made, Product("d", "no picture", attributes={"colour": "Red", "kind": "Bags"})]


def record(name: str, *boxes: tuple[str, list[int] | None]) -> dict:
    words = [{"word": word, "box": box} for word, box in boxes]
    return {"product_id": name, "image_edge": 64, "title_words": words}


def test_precision_is_counted_by_hand():
    report = picture_words(Seer(), products(), ["colour", "kind"])
    assert report["products"] == 3
    colour = report["attributes"]["colour"]
    assert (colour["products"], colour["asked_words"]) == (3, 2)
    third = pytest.approx
    assert colour["systems"]["aligner"] == {
        "precision@1": third(1 / 3), "hit@3": third(2 / 3), "asked@1": third(2 / 3), "asked@3": 1.0
    }  # fmt: skip
    assert colour["systems"]["raw cosine"]["precision@1"] == 0
    assert colour["systems"]["raw cosine"]["hit@3"] == third(1 / 3)
    assert colour["systems"]["most frequent"]["precision@1"] == third(2 / 3)  # always blue
    assert colour["systems"]["chance"] == {
        "precision@1": third(1 / 6), "hit@3": third(1 / 2), "asked@1": third(1 / 2), "asked@3": 1.0
    }  # fmt: skip
    kind = report["attributes"]["kind"]
    assert kind["products"] == 2  # nothing names what is not said; "shoe" has the stem of "shoes"
    assert kind["systems"]["aligner"]["precision@1"] == 0
    assert kind["systems"]["aligner"]["hit@3"] == 1
    # Of the first three words: red and shoes; blue and bag; none.
    assert report["together"]["aligner"] == {"precision@1": third(1 / 3), "precision@3": third(4 / 9)}
    assert report["examples"][0] == {"product_id": "a", "title": "a", "words": ["red", "shoes", "men"]}
    assert report["pointing"] == {}
    json.dumps(report)


def test_synonyms_count_for_the_value():
    report = picture_words(Seer(), products(), ["colour"], synonyms={"Blue": ("hot",)})
    assert report["attributes"]["colour"]["systems"]["aligner"]["precision@1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("seer", [Seer, HubSeer])
def test_pointing_counts_words_whose_best_patch_lies_in_their_box(capsys, seer):
    top, right = [0, 0, 32, 32], [32, 0, 64, 32]
    known = {
        "a": record("a", ("red", top), ("shoes", top), ("unknown", top)),
        "b": record("b", ("blue", right), ("men", None)),
    }
    report = picture_words(seer(), products(), ["colour"], alignments=known)
    # red's best patch is the first, which is right; shoes' and blue's are the second: wrong, and right.
    two_thirds = pytest.approx(2 / 3)
    systems = {"aligner": two_thirds, "raw cosine": two_thirds, "most frequent": two_thirds, "chance": 0.25}
    assert report["pointing"] == {**systems, "words": 3}
    print_report(report)
    shown = capsys.readouterr().out
    assert "pointing" in shown
    assert "red, shoes, men" in shown or seer is HubSeer


def test_what_is_missing_is_said():
    with pytest.raises(UsageError, match="no product has 'size', choose from colour, kind"):
        picture_words(Seer(), products(), ["size"])
    with pytest.raises(MaxsearchError, match="no product has a picture"):
        picture_words(Seer(), products()[3:], ["colour"])
    with pytest.raises(UsageError, match="names no word"):
        picture_words(Seer(), products(), ["colour"], alignments={"z": record("z")})
    wide = SimpleNamespace(**{name: getattr(Seer(), name) for name in ("lexicon", "fingerprint", "patch_words")})
    wide.config = Config(model=ModelConfig(image=ImageConfig(size=(64, 32), patch=32)))
    with pytest.raises(UsageError, match="square"):
        picture_words(wide, products(), ["colour"], alignments={"a": record("a", ("red", [0, 0, 9, 9]))})


def test_alignments_are_read_or_refused(tmp_path):
    path = tmp_path / "alignments.jsonl"
    path.write_text(json.dumps(record("a", ("red", None))) + "\n")
    assert read_alignments(path)["a"]["image_edge"] == 64
    for text in ("{}\n", "nonsense\n", "3\n"):
        path.write_text(text)
        with pytest.raises(MaxsearchError, match=r"alignments\.jsonl"):
            read_alignments(path)
    with pytest.raises(MaxsearchError, match="cannot be read"):
        read_alignments(tmp_path / "absent")


def test_the_command_asks_for_one_model(capsys, tmp_path):
    code, said = fails(capsys, "words", "--products", tmp_path / "p.csv", "--attributes", "colour")
    assert code == 2
    assert "--run or --model" in said
