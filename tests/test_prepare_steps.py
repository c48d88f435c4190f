import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.records import Interaction, Product
from maxsearch.data.tables.formats import BadRecord
from maxsearch.errors import UsageError
from maxsearch.prepare.run import PrepareOptions, prepare
from maxsearch.prepare.steps import Click, Rules, debiased, read_click, read_product, twin_key, variant_of

BOTH = ("image", "title")


def _picture(value: int, kind: str = "PNG", comment: str = "") -> bytes:
    pixels = np.random.default_rng(value).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"comment": comment} if comment else {}))
    return buffer.getvalue()


def _write(folder: Path, products: str, clicks: str) -> PrepareOptions:
    (folder / "p.csv").write_text(products)
    (folder / "c.csv").write_text(clicks)
    return PrepareOptions(folder / "p.csv", folder / "c.csv", folder / "data")


def test_clicks_low_on_the_page_weigh_more(tmp_path: Path) -> None:
    options = _write(tmp_path, "product_id,title\na,x\nb,y\n", "query,product_id,n,rank\nq,a,2,1\nq,b,2,9\nq,b,1,4.0\n")
    columns = {"weight": "n", "position": "rank"}
    for power, total in ((1.0, 22.0), (0.5, 8.0), (0.0, 3.0)):
        prepare(
            PrepareOptions(options.products, options.interactions, options.out, None, columns, position_power=power)
        )
        assert list(PreparedDataset.open(options.out).interactions) == [
            Interaction("q", 0, 2.0),
            Interaction("q", 1, total),
        ]


def test_a_column_called_position_changes_nothing_unless_it_is_mapped(tmp_path: Path) -> None:
    options = _write(tmp_path, "product_id,title\na,x\n", "query,product_id,position\nq,a,first\nq,a,7\n")
    prepare(options)
    assert PreparedDataset.open(options.out).interactions[0].weight == 2.0


@pytest.mark.parametrize("position", ["", "0", "-1", "1.5", "first", "nan", "1e3", "1" * 400])
def test_bad_positions_are_rejected_rows(tmp_path: Path, position: str) -> None:
    options = _write(tmp_path, "product_id,title\na,x\n", f"query,product_id,rank\nq,a,1\nq,a,{position}\n")
    columns = {"position": "rank"}
    manifest = prepare(replace(options, columns=columns, max_bad_fraction=0.5))
    assert manifest["rejected"]["by_reason"] == {"bad_position": 1}
    letter = json.loads((options.out / "rejected.jsonl").read_text())
    assert (letter["row"], letter["code"]) == (2, "bad_position")
    assert letter["reason"] == f"has the position {position[:40]!r}, which is not a whole number from 1"


def test_a_position_that_makes_a_weight_infinite_is_rejected() -> None:
    with pytest.raises(BadRecord, match="has the position 9, which makes its weight infinite"):
        debiased(1.0, 9, 400.0)
    with pytest.raises(BadRecord, match="has the position 1000, which makes its weight infinite"):
        debiased(1e308, 1000, 1.0)


def test_options_of_the_steps_out_of_range(tmp_path: Path) -> None:
    options = _write(tmp_path, "product_id,title\na,x\n", "query,product_id\nq,a\n")
    for change, message in (
        ({"position_power": -1.0}, "--position-power -1 is out of range: give 0 or more"),
        ({"position_power": float("nan")}, "--position-power nan is out of range"),
        ({"group_duplicates": ("picture",)}, "--group-duplicates picture is no known trait: choose from image, title"),
        ({"workers": -1}, "--workers -1 is out of range: give 0 or more"),
        ({"columns": {"position": "rank"}}, "interactions file .* has no column 'rank' for the field position"),
    ):
        with pytest.raises(UsageError, match=message):
            prepare(replace(options, **change))


def test_what_makes_a_duplicate() -> None:
    png, same, other = _picture(1), _picture(1, "JPEG"), _picture(2)
    shoe = Product("1", "Red  SHOE", (png, other))
    assert twin_key(shoe, BOTH) == twin_key(Product("2", "red shoe", (png,)), ("title", "image"))
    assert twin_key(shoe, ("title",)) == twin_key(Product("2", "red shoe"), ("title",))
    assert twin_key(shoe, ("image",)) != twin_key(Product("1", "Red  SHOE", (same,)), ("image",))
    assert twin_key(shoe, BOTH) != twin_key(Product("2", "red hat", (png,)), BOTH)
    assert twin_key(shoe, BOTH) != twin_key(Product("2", "red shoe", (other, png)), BOTH)
    # The pixels count, not the bytes of the file.
    first, second = (_picture(3, "JPEG", comment) for comment in ("one", "two"))
    assert first != second
    assert twin_key(Product("1", "", (first,)), ("image",)) == twin_key(Product("2", "", (second,)), ("image",))


def test_who_has_no_duplicates() -> None:
    assert twin_key(Product("1", "shoe", (_picture(1),)), ()) == ""
    assert twin_key(Product("1", " ", (_picture(1),)), BOTH) == ""
    assert twin_key(Product("1", "shoe"), BOTH) == ""
    assert variant_of("own", "twin", 5) == "own"
    assert variant_of("", "twin", 1) == ""
    assert variant_of("", "", 5) == ""
    assert variant_of("", "twin", 2) == "duplicate:twin"


def test_duplicates_become_variants_unless_the_catalogue_names_one(tmp_path: Path) -> None:
    products = (
        "product_id,title,variant\na,Red shoe,\nb,red  SHOE,\nc,red shoe,own\nd,hat,\nb,red shoe,\ne,belt,\nf,BELT,\n"
    )
    options = _write(tmp_path, products, "query,product_id\nq,a\n")
    manifest = prepare(replace(options, group_duplicates=("title",), max_bad_fraction=0.2))
    found = {product.product_id: product.variant for product in PreparedDataset.open(options.out, verify=True).products}
    assert list(found) == ["a", "b", "c", "d", "e", "f"]
    assert found["a"] == found["b"] != found["e"] == found["f"]
    assert found["a"].startswith("duplicate:") and found["e"].startswith("duplicate:")
    assert (found["c"], found["d"]) == ("own", "")
    assert manifest["rejected"]["by_reason"] == {"duplicate_id": 1}


def test_a_row_that_repeats_an_id_makes_no_duplicate(tmp_path: Path) -> None:
    options = _write(tmp_path, "product_id,title\na,red shoe\na,red shoe\n", "query,product_id\nq,a\n")
    prepare(replace(options, group_duplicates=("title",), max_bad_fraction=0.5))
    (product,) = PreparedDataset.open(options.out).products
    assert product.variant == ""


def test_steps_go_to_other_processes(tmp_path: Path) -> None:
    options = _write(tmp_path, "product_id,title\na,x\n", "query,product_id\nq,a\n")
    rules = pickle.loads(pickle.dumps(Rules.of(options)))
    bad = pickle.loads(pickle.dumps(read_product({"product_id": "a", "title": ""}, rules)))
    assert isinstance(bad, BadRecord) and (bad.code, bad.reason) == ("no_content", "has neither a title nor an image")
    assert read_click(bad, rules) is bad
    assert pickle.loads(pickle.dumps(read_click({"query": "q", "product_id": "a"}, rules))) == Click("q", "a", 1.0)
