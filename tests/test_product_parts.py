"""Products with several pictures and text fields, from the table to the stream."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maxsearch.data.batches import StreamOptions
from maxsearch.data.catalogue import BadRecord, product_columns, product_from_row, read_products
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.records import Product, pack_product, text_fields, unpack_product
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.stream import make_stream
from maxsearch.data.tables.read import parse_mapping
from maxsearch.data.tokenize import TextEncoder, train_tokenizer
from maxsearch.data.transforms import Augment, eval_image
from maxsearch.errors import UsageError
from maxsearch.prepare.run import PrepareOptions, prepare

SIZE = (8, 8)
FIELDS = ("product_id", "title", "image", "text", "weight")
COLUMNS = {"image": ("front", "back"), "text": ("brand", "description")}
SHADES = {"front": 40, "back": 120, "side": 200}
STILL = Augment(flip=False, scale=(1.0, 1.0), ratio=(1.0, 1.0))


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", SIZE[::-1], (shade,) * 3).save(buffer, "JPEG")
    return buffer.getvalue()


def options(tmp_path: Path, count: int = 12) -> PrepareOptions:
    """Product 1 lacks the front picture, 2 the back and 4 the brand; 3 has a damaged back."""
    rows = [
        {
            "product_id": str(i),
            "title": f"shirt {i}",
            "front": None if i == 1 else jpeg(SHADES["front"]),
            "back": {2: None, 3: b"broken"}.get(i, jpeg(SHADES["back"])),
            "brand": "" if i == 4 else "Acme",
            "description": f"soft cotton {i}",
            "colour": "red",
        }
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    clicks = "".join(f"soft shirt {i % 3},{i}\n" for i in range(count))
    (tmp_path / "c.csv").write_text("query,product_id\n" + clicks)
    return PrepareOptions(tmp_path / "p.parquet", tmp_path / "c.csv", tmp_path / "data", columns=COLUMNS)


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    prepare(options(tmp_path))
    return PreparedDataset.open(tmp_path / "data")


def test_a_mapping_may_name_several_columns_of_images_and_texts() -> None:
    pairs = ["image=front", "text=brand", "image=back", "image=side", "title=name"]
    assert parse_mapping(pairs, FIELDS) == {"image": ("front", "back", "side"), "text": "brand", "title": "name"}
    with pytest.raises(UsageError, match=r"--map gives the field 'image' twice \('front' and 'front'\): keep one"):
        parse_mapping(["image=front", "image=front"], FIELDS)


def test_prepared_products_have_all_pictures_and_texts(dataset: PreparedDataset) -> None:
    front, back = jpeg(SHADES["front"]), jpeg(SHADES["back"])
    assert dataset.products[0] == Product(
        "0", "shirt 0", (front, back), attributes={"colour": "red"}, texts=("Acme", "soft cotton 0")
    )
    assert [dataset.products[i].images for i in (1, 2, 3)] == [(back,), (front,), (front,)]
    assert dataset.products[4].texts == ("", "soft cotton 4")
    assert dataset.manifest["attributes"] == ["colour"]


def test_a_bad_picture_among_several_is_left_out_and_counted(dataset: PreparedDataset) -> None:
    assert dataset.manifest["rejected"] == {
        "products": 0,
        "interactions": 0,
        "by_reason": {},
        "images": {"undecodable_image": 1},
        "file": "rejected.jsonl",
    }
    (letter,) = map(json.loads, (dataset.path / "rejected.jsonl").read_text().splitlines())
    assert letter == {
        "file": "p.parquet",
        "row": 4,
        "code": "undecodable_image",
        "reason": "has an image that is not a JPEG, PNG or WebP: the product keeps its other images",
    }


def test_a_product_whose_only_pictures_are_bad_is_rejected() -> None:
    row = {"product_id": "1", "title": "x", "front": b"broken", "back": None}
    columns = {"product_id": "product_id", "title": "title"} | COLUMNS
    with pytest.raises(BadRecord, match="has an image that is not a JPEG"):
        product_from_row(row, columns, image_dir=None, edge=64)
    product, unusable = product_from_row(row | {"back": jpeg(9)}, columns, image_dir=None, edge=64)
    assert product.images == (jpeg(9),)
    assert [bad.code for bad in unusable] == ["undecodable_image"]


def test_a_missing_column_among_several_is_named(tmp_path: Path) -> None:
    path = options(tmp_path).products
    with pytest.raises(UsageError, match=r"no column 'bak' for the field image: did you mean 'back'\? .*--map image="):
        product_columns(path, {"image": ("front", "bak")})


def test_a_list_of_pictures_in_one_column(tmp_path: Path) -> None:
    (tmp_path / "2.jpg").write_bytes(jpeg(2))
    cells = [
        [{"bytes": jpeg(1), "path": None}, {"bytes": None, "path": "2.jpg"}, {"bytes": None, "path": "3.jpg"}],
        [],
        None,
    ]
    table = pa.table(
        {"product_id": ["a", "b", "c"], "title": ["x"] * 3, "image": cells, "text": [["A ", "b"], [], None]}
    )
    pq.write_table(table, tmp_path / "p.parquet")
    found = read_products(tmp_path / "p.parquet", columns={}, image_dir=tmp_path, edge=64)
    a, b, c = (product for _, product in found)
    assert (a.images, a.texts) == ((jpeg(1), jpeg(2)), ("A b",))
    assert b == Product("b", "x") and c == Product("c", "x")


def test_a_column_of_pictures_that_is_not_mapped_is_no_attribute(tmp_path: Path) -> None:
    table = pa.table({"product_id": ["a"], "title": ["x"], "gallery": [[{"bytes": jpeg(1)}]], "sizes": [["S"]]})
    pq.write_table(table, tmp_path / "p.parquet")
    ((_, product),) = read_products(tmp_path / "p.parquet", columns={}, image_dir=None, edge=64)
    assert product.attributes == {"sizes": '["S"]'}


def test_products_survive_packing() -> None:
    for product in (Product("1", "x"), Product("1", "x", (b"a", b"b"), "v", {"c": "d"}, ("", "y"))):
        assert unpack_product(pack_product(product)) == product
    assert text_fields("x", ("y", "z"), 2) == ["x", "y"]
    assert text_fields("x", (), 3) == ["x", "", ""]


def batch_of(dataset: PreparedDataset, tokens: int = 6, **changes: object) -> tuple[dict[str, np.ndarray], TextEncoder]:
    source = CatalogueSource(dataset, 0.0)
    encoder = TextEncoder(train_tokenizer(source.texts(), 320), tokens)
    settings = StreamOptions(12, num_threads=0, augment=None)
    with make_stream(source, encoder, encoder, SIZE, replace(settings, **changes), lexicon=source.lexicon) as stream:
        return next(stream), encoder


def test_the_stream_shows_pictures_in_their_order(dataset: PreparedDataset) -> None:
    batch, _ = batch_of(dataset, images=3)
    assert (batch["image"].shape, batch["image_present"].shape) == ((12, 3, *SIZE, 3), (12, 3))
    for row, product in enumerate(batch["product"]):
        images = dataset.products[int(product)].images
        assert batch["image_present"][row].tolist() == [place < len(images) for place in range(3)]
        for place in range(3):
            expected = eval_image(images[place] if place < len(images) else None, SIZE)
            np.testing.assert_array_equal(batch["image"][row, place], expected)


def test_of_more_pictures_than_fit_some_are_drawn_in_order(tmp_path: Path) -> None:
    shades = (40, 80, 120, 160)
    row = {"product_id": "1", "title": "x", **{f"image{i}": jpeg(shade) for i, shade in enumerate(shades)}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    (tmp_path / "c.csv").write_text("query,product_id\nx,1\n")
    columns = {"image": tuple(f"image{i}" for i in range(4))}
    prepare(PrepareOptions(tmp_path / "p.parquet", tmp_path / "c.csv", tmp_path / "data", columns=columns))
    data = PreparedDataset.open(tmp_path / "data")
    still, _ = batch_of(data, images=2)
    assert {tuple(pair) for pair in still["image"][:, :, 0, 0, 0].round(-1).tolist()} == {(40, 80)}
    drawn, _ = batch_of(data, images=2, batch_size=64, augment=STILL)
    pairs = {tuple(pair) for pair in drawn["image"][:, :, 0, 0, 0].round(-1).tolist()}
    assert pairs == {(a, b) for a in shades for b in shades if a < b}


def test_text_fields_have_places_of_their_own(dataset: PreparedDataset) -> None:
    batch, encoder = batch_of(dataset, texts=3, words=True)
    assert batch["title_ids"].shape == batch["title_mask"].shape == batch["title_word"].shape == (12, 18)
    for row, number in enumerate(batch["product"]):
        product = dataset.products[int(number)]
        for field, text in enumerate((product.title, *product.texts)):
            places = slice(6 * field, 6 * field + 6)
            ids, mask = encoder([text])
            np.testing.assert_array_equal(batch["title_ids"][row, places], ids[0])
            np.testing.assert_array_equal(batch["title_mask"][row, places], mask[0])
            words = encoder.words([text])[0]
            np.testing.assert_array_equal(batch["title_word"][row, places], np.where(mask[0], words + 6 * field, -1))
    one, _ = batch_of(dataset)
    np.testing.assert_array_equal(one["title_ids"], batch["title_ids"][:, :6])
    assert "title_word" not in one


def test_a_dropped_title_takes_all_texts_with_it(dataset: PreparedDataset) -> None:
    batch, _ = batch_of(dataset, texts=2, augment=replace(STILL, drop_title=1.0))
    assert not batch["title_mask"].any()
    batch, _ = batch_of(dataset, images=2, augment=replace(STILL, drop_image=1.0))
    assert not batch["image_present"].any() and (batch["image"] == 255).all()


def test_word_drop_leaves_the_further_texts_alone(dataset: PreparedDataset) -> None:
    batch, _ = batch_of(dataset, texts=3, augment=replace(STILL, title_word_drop=1.0))
    whole, _ = batch_of(dataset, texts=3)
    assert batch["title_mask"][:, :6].sum() < whole["title_mask"][:, :6].sum()
    np.testing.assert_array_equal(batch["title_mask"][:, 6:], whole["title_mask"][:, 6:])


def test_keywords_of_a_batch_are_of_the_whole_texts(dataset: PreparedDataset) -> None:
    lexicon = dataset.keywords.lexicon
    assert set(lexicon.words) == {"soft", "shirt"}
    batch, _ = batch_of(dataset, augment=replace(STILL, drop_title=1.0, query_word_drop=0.9))
    assert (batch["query_keywords"].shape, batch["product_keywords"].shape) == ((12, 16), (12, 48))
    assert {batch[name].dtype for name in ("query_keywords", "product_keywords")} == {np.dtype(np.int32)}
    for name in ("query_keywords", "product_keywords"):
        assert {frozenset(row.tolist()) for row in batch[name]} == {frozenset({0, 1, -1})}
    assert not batch["query_covered"].any()  # "soft shirt 1" also asks for a number


def test_a_shorter_lexicon_knows_fewer_keywords(dataset: PreparedDataset) -> None:
    source = CatalogueSource(dataset, 0.0)
    encoder = TextEncoder(train_tokenizer(source.texts(), 320), 6)
    settings = StreamOptions(12, num_threads=0, augment=None)
    for lexicon in (source.lexicon.top(1), None):
        with make_stream(source, encoder, encoder, SIZE, settings, lexicon=lexicon) as stream:
            batch = next(stream)
        if lexicon:
            assert batch["query_keywords"].max() == batch["product_keywords"].max() == 0
        else:
            assert not batch.keys() & {"query_keywords", "query_covered", "product_keywords"}
