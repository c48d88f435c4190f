"""Each public dataset's layout, from small files in the true format."""

import csv
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.layouts import LAYOUTS, open_layout
from maxsearch.data.layouts.wands import split_of
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.judgments import read_qrels, read_queries
from maxsearch.prepare.run import PrepareOptions, prepare
from tests import tiny


def picture(path: Path, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def table(
    path: Path, names: str, *rows: tuple[object, ...], delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator="\n")
        writer.writerows([names.split(), *rows])


def prepared(tmp_path: Path, name: str, split: str, *options: str, image_dir: Path | None = None) -> dict[str, Any]:
    """What the source becomes: products, (query, product, weight), and grades by the text of the query."""
    out = tmp_path / f"out-{split}"
    words = ["prepare", "--source", name, "--path", tmp_path / "raw", "--split", split, "--out", out, "--keywords", 0]
    words += ["--source-options", *options] if options else []
    words += ["--image-dir", image_dir] if image_dir else []
    tiny.quiet(*words)
    data = PreparedDataset.open(out)
    products = list(data.products)
    grades: dict[str, dict[str, int]] = {}
    if "judgments" in data.manifest:
        queries = read_queries(out / "judgments" / "queries.csv", {})
        qrels = read_qrels(out / "judgments" / "qrels.tsv", {})
        assert queries.keys() == qrels.keys()
        grades = {queries[query]: judged for query, judged in qrels.items()}
    return {
        "products": {product.product_id: product for product in products},
        "clicks": [(click.query, products[click.product].product_id, click.weight) for click in data.interactions],
        "grades": grades,
        "manifest": data.manifest,
    }


def write_esci(folder: Path, label: str = "S") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    product = (
        "product_id product_title product_description product_bullet_point product_brand product_color product_locale"
    )
    products = [
        ("B1", "red shoe", "<p>soft</p>", None, "Acme", "red", "us"),
        ("B2", "blue shoe", None, "light", None, None, "us"),
        ("B1", "roter Schuh", None, None, None, None, "es"),
        ("B3", "lace", None, None, None, None, "us"),
        ("B4", "hat", None, None, None, None, "us"),
    ]
    rows = [dict(zip(product.split(), cells, strict=True)) for cells in products]
    pq.write_table(pa.Table.from_pylist(rows), folder / "shopping_queries_dataset_products.parquet")
    example = "example_id query query_id product_id product_locale esci_label small_version large_version split"
    examples = [
        (0, "shoe  in red", 7, "B1", "us", "E", 1, 1, "train"),
        (1, "shoe  in red", 7, "B2", "us", label, 1, 1, "train"),
        (2, "shoe  in red", 7, "B3", "us", "C", 1, 1, "train"),
        (3, "blue", 8, "B2", "us", "E", 1, 1, "test"),
        (4, "blue", 8, "B1", "us", "I", 1, 1, "test"),
        (5, "zapato", 9, "B1", "es", "E", 1, 1, "train"),
        (6, "cap", 10, "B4", "us", "E", 0, 1, "train"),
    ]
    rows = [dict(zip(example.split(), cells, strict=True)) for cells in examples]
    pq.write_table(pa.Table.from_pylist(rows), folder / "shopping_queries_dataset_examples.parquet")


def test_esci(tmp_path: Path) -> None:
    write_esci(tmp_path / "raw" / "shopping_queries_dataset")
    train = prepared(tmp_path, "esci", "train")
    assert train["clicks"] == [("shoe in red", "B1", 1.0), ("shoe in red", "B2", 0.1), ("shoe in red", "B3", 0.01)]
    assert train["grades"] == {"shoe in red": {"B1": 3, "B2": 2, "B3": 1}}
    assert list(train["products"]) == ["B1", "B2", "B3"]
    shoe = train["products"]["B1"]
    assert (shoe.title, shoe.texts, shoe.images) == ("red shoe", ("Acme", "red", "", "<p>soft</p>"), ())
    test = prepared(tmp_path, "esci", "test")
    assert test["clicks"] == [("blue", "B2", 1.0)]
    assert test["grades"] == {"blue": {"B2": 3, "B1": 0}}
    assert [click[0] for click in prepared(tmp_path, "esci", "train", "version=large")["clicks"]][-1] == "cap"
    assert prepared(tmp_path, "esci", "train", "locale=es")["products"]["B1"].title == "roter Schuh"


def test_a_download_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write_esci(tmp_path)
    download = open_layout("esci", tmp_path, "train")
    again = pickle.loads(pickle.dumps(download))
    assert list(again.interactions.rows("clicks")) == list(download.interactions.rows("clicks"))
    assert again.products.names("products") == download.products.names("products")


def test_an_unknown_label_names_its_row(tmp_path: Path) -> None:
    write_esci(tmp_path / "raw", label="Q")
    download = open_layout("esci", tmp_path / "raw", "train")
    message = r"row 2 of the ESCI examples file .*examples.parquet has the label 'Q', which is none of E, S, C, I: give"
    with pytest.raises(MaxsearchError, match=message):
        prepare(PrepareOptions(download.products, download.interactions, tmp_path / "out"))


def test_sqid_takes_the_pictures_that_are_there(tmp_path: Path) -> None:
    write_esci(tmp_path / "raw")
    red = picture(tmp_path / "raw" / "images" / "B1.jpg", "red")
    blue = picture(tmp_path / "raw" / "images" / "x" / "81w+9L._SY385_.jpg", "blue")
    url = "https://m.media-amazon.com/images/I"
    table(
        tmp_path / "raw" / "sqid" / "product_image_urls.csv", "product_id image_url", ("B1", f"{url}/1.jpg"), ("B3", "")
    )
    table(
        tmp_path / "raw" / "sqid" / "supp_product_image_urls.csv",
        "product_id image_url",
        ("B2", f"{url}/81w+9L._SY385_.jpg"),
    )
    products = prepared(tmp_path, "sqid", "train")["products"]
    assert {name: product.images for name, product in products.items()} == {"B1": (red,), "B2": (blue,), "B3": ()}
    (tmp_path / "raw" / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="has no folder images: SQID lists URLs only"):
        open_layout("sqid", tmp_path / "raw", "train")


def write_wands(folder: Path, label: str = "Irrelevant", queries: int = 40) -> None:
    def tabbed(name: str, names: str, *rows: tuple[object, ...]) -> None:
        table(folder / name, names.replace(" ", "\0").replace("|", " "), *rows, delimiter="\t")
        path = folder / name
        path.write_text(path.read_text().replace("\0", " "))

    names = "product_id|product_name|product_class|category hierarchy|product_description|product_features|rating_count"
    tabbed(
        "product.csv",
        names,
        (0, "solid wood bed", "Beds", "Furniture / Beds", "good , deep sleep", "height:64.7|wood : oak", 15.0),
        (1, "slow cooker", "", "", "", "", ""),
        (2, "lamp", "Lamps", "", "", "", ""),
    )
    tabbed("query.csv", "query_id|query|query_class", *((i, f"query {i}", "Beds") for i in range(queries)))
    labels = [
        (number, query, product, ("Exact", "Partial", label)[product])
        for number, (query, product) in enumerate((query, product) for query in range(queries) for product in range(3))
    ]
    tabbed("label.csv", "id|query_id|product_id|label", *labels)


def test_wands(tmp_path: Path) -> None:
    write_wands(tmp_path / "raw" / "dataset")
    splits = {split: prepared(tmp_path, "wands", split) for split in ("train", "dev", "test", "all")}
    for split, found in splits.items():
        names = [i for i in range(40) if split in ("all", split_of(str(i)))]
        assert found["clicks"] == [(f"query {i}", str(p), 1.0 - 0.5 * p) for i in names for p in (0, 1)]
        assert found["grades"] == {f"query {i}": {"0": 2, "1": 1, "2": 0} for i in names}
        assert len(found["products"]) == 3
    assert 20 < len(splits["train"]["grades"]) < 40 and splits["dev"]["grades"] and splits["test"]["grades"]
    bed = splits["all"]["products"]["0"]
    assert (bed.title, bed.texts) == ("solid wood bed", ("Beds", "good , deep sleep", "height:64.7|wood : oak"))
    assert bed.attributes == {"category hierarchy": "Furniture / Beds", "rating_count": "15.0"}


def test_wands_that_contradicts_itself(tmp_path: Path) -> None:
    write_wands(tmp_path / "raw", label="Maybe")
    download = open_layout("wands", tmp_path / "raw", "all")
    with pytest.raises(MaxsearchError, match=r"row 3 of the WANDS labels file .*label.csv has the label 'Maybe'"):
        list(download.interactions.rows("interactions file"))
    table(tmp_path / "raw" / "query.csv", "query_id query query_class", (5, "x", "y"), delimiter="\t")
    with pytest.raises(MaxsearchError, match=r"row 1 of .* has the query_id '0', which .*query.csv lacks"):
        list(download.interactions.rows("interactions file"))


PAIRS = [
    ("wrap dress", "111", 1, "Red dress", 100.0, 1.0),
    ("wrap dress", "222", 51, "Blue dress", 50.0, 0.02),
    ("summer  sale", "222", 2, "Blue dress", 99.0, 0.5),
    ("summer  sale", "111", 100, "Red dress", 1.0, 0.01),
]
PAIR_GRADES = {"wrap dress": {"111": 4, "222": 2}, "summer sale": {"222": 4, "111": 1}}
PAIR_NAMES = "query product_id position title score_linear score_reciprocal image_local"


def test_marqo_gs_csv(tmp_path: Path) -> None:
    red, blue = (picture(tmp_path / "pictures" / "ab" / f"{name}.jpg", name) for name in ("red", "blue"))
    rows = [(*row, f"ab/{'red' if row[1] == '111' else 'blue'}.jpg") for row in PAIRS]
    for name in ("query_0_product_id_0.csv", "query_1_product_id_1.csv"):
        table(tmp_path / "raw" / name, PAIR_NAMES, *rows, quoting=csv.QUOTE_ALL)
    for split in ("train", "zero_shot"):
        found = prepared(tmp_path, "marqo-gs", split, image_dir=tmp_path / "pictures")
        assert found["clicks"] == [(" ".join(row[0].split()), row[1], row[4]) for row in PAIRS]
        assert found["grades"] == PAIR_GRADES
        assert {name: product.images for name, product in found["products"].items()} == {"111": (red,), "222": (blue,)}
        assert found["manifest"]["rejected"]["by_reason"] == {}
    reciprocal = prepared(tmp_path, "marqo-gs", "train", "score=score_reciprocal", image_dir=tmp_path / "pictures")
    assert [click[2] for click in reciprocal["clicks"]] == [1.0, 0.02, 0.5, 0.01]
    with pytest.raises(UsageError, match=r"has no file query_0_product_id_1.csv or novel_document-\*.parquet"):
        open_layout("marqo-gs", tmp_path / "raw", "novel_corpus")


def test_marqo_gs_parquet(tmp_path: Path) -> None:
    red = picture(tmp_path / "red.jpg")
    rows = [
        dict(zip(PAIR_NAMES.split()[:-1], row, strict=True)) | {"image": {"bytes": red, "path": None}} for row in PAIRS
    ]
    (tmp_path / "raw" / "data").mkdir(parents=True)
    for number in (0, 1):
        part = pa.Table.from_pylist(rows[2 * number : 2 * number + 2])
        pq.write_table(part, tmp_path / "raw" / "data" / f"in_domain-0000{number}-of-00002.parquet")
    found = prepared(tmp_path, "marqo-gs", "train")
    assert found["clicks"] == [(" ".join(row[0].split()), row[1], row[4]) for row in PAIRS]
    assert found["grades"] == PAIR_GRADES
    assert found["products"]["222"].images == (red,)


def test_marqo_gs_score_out_of_range(tmp_path: Path) -> None:
    table(
        tmp_path / "raw" / "query_0_product_id_0.csv", PAIR_NAMES, (*PAIRS[0], "a.jpg"), ("q", "1", 1, "t", 101, 1, "b")
    )
    download = open_layout("marqo-gs", tmp_path / "raw", "train")
    assert download.judgments is not None
    with pytest.raises(
        MaxsearchError, match=r"row 2 of the Marqo-GS pairs file .* has the score_linear '101', which is"
    ):
        list(download.judgments())


def test_esspr_sample_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "eSSPR_same_items_pairs_information"
    pictures = {i: picture(folder / f"item_{i}.jpg", c) for i, c in ((1, "red"), (2, "blue"), (3, "green"))}
    (folder / "same_trigger_recall_pairs_information").write_text(
        "trigger_id, trigger_title, trigger_image_name, recall_id, recall_title, recall_image_name\n"
        'item_1,14" table,item_1.jpg,item_2,glass table,item_2.jpg\n'
        "item_3,desk,item_3.jpg,item_2,glass table,item_2.jpg\n"
    )
    found = prepared(tmp_path, "esspr", "all")
    assert found["clicks"] == [('14" table', "item_2", 1.0), ("desk", "item_2", 1.0)]
    assert {name: (product.variant, product.images) for name, product in found["products"].items()} == {
        f"item_{i}": ("item_1", (content,)) for i, content in pictures.items()
    }
    assert found["grades"] == {}
    test = prepared(tmp_path, "esspr", "test")
    assert list(test["products"]) == ["item_2"]
    assert test["grades"] == {'14" table': {"item_2": 1}, "desk": {"item_2": 1}}


def test_esspr_released_columns(tmp_path: Path) -> None:
    names = "cate_lv1_name cate_name trigger_id tirgger_title recall_id recall_title trigger_img recall_img label"
    rows = [
        ("Home", "Tables", 1, "table, glass", 2, "glass table", "", "", 1),
        ("Home", "Tables", 1, "table, glass", 3, "bag", "", "", 0),
    ]
    table(tmp_path / "raw" / "eval.csv", names, *rows)
    found = prepared(tmp_path, "esspr", "test")
    assert found["clicks"] == [("table, glass", "2", 1.0)]
    assert found["grades"] == {"table, glass": {"2": 1, "3": 0}}
    everything = prepared(tmp_path, "esspr", "all")
    assert {name: product.variant for name, product in everything["products"].items()} == {"1": "1", "2": "1", "3": ""}
    table(tmp_path / "raw" / "eval.csv", names, rows[0], (*rows[0][:-1], "same"))
    download = open_layout("esspr", tmp_path / "raw", "all")
    with pytest.raises(MaxsearchError, match=r"row 2 of .*eval.csv.* has the label 'same', which is none of 1, 0"):
        list(download.interactions.rows("interactions file"))


def test_coco(tmp_path: Path) -> None:
    red = picture(tmp_path / "raw" / "train2017" / "000000000009.jpg")
    content = {
        "info": {},
        "licenses": [],
        "images": [{"id": 9, "file_name": "000000000009.jpg", "height": 8, "width": 8}],
        "annotations": [
            {"id": 661611, "image_id": 9, "caption": "A red\nsquare."},
            {"id": 661977, "image_id": 9, "caption": "Red."},
        ],
    }
    path = tmp_path / "raw" / "annotations" / "captions_train2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    found = prepared(tmp_path, "coco", "train")
    assert found["clicks"] == [("A red square.", "000000000009", 1.0), ("Red.", "000000000009", 1.0)]
    assert found["grades"] == {"A red square.": {"000000000009": 1}, "Red.": {"000000000009": 1}}
    product = found["products"]["000000000009"]
    assert (product.title, product.images) == ("", (red,))
    for split, options, message in [
        ("val", (), "has no file captions_val2017.json"),
        ("train", ("year=2014",), "has no file captions_train2014.json"),
        ("test", (), "no public captions: choose another --split, or splits=karpathy"),
        ("test", ("splits=karpathy",), "has no file dataset_coco.json"),
    ]:
        with pytest.raises(UsageError, match=message):
            open_layout("coco", tmp_path / "raw", split, options)
    content["annotations"][0]["image_id"] = 10
    path.write_text(json.dumps(content))
    with pytest.raises(MaxsearchError, match=r"captions_train2017.json has no images and annotations as COCO's"):
        list(open_layout("coco", tmp_path / "raw", "train").products.rows("products file"))


def karpathy(*images: tuple[str, str, list[str]], **more: str) -> str:
    numbers = iter(range(100))
    return json.dumps(
        {
            "dataset": "x",
            "images": [
                {
                    "filename": name,
                    "split": split,
                    "imgid": number,
                    "sentids": [],
                    "sentences": [{"raw": text, "sentid": next(numbers), "tokens": text.split()} for text in texts],
                    **more,
                }
                for number, (name, split, texts) in enumerate(images)
            ],
        }
    )


def test_karpathys_splits_of_coco(tmp_path: Path) -> None:
    for folder, name in (("train2014", "a"), ("val2014", "b"), ("val2014", "c")):
        picture(tmp_path / "raw" / "images" / folder / f"{name}.jpg")
    (tmp_path / "raw" / "dataset_coco.json").write_text(
        karpathy(("b.jpg", "restval", ["one"]), ("c.jpg", "test", ["two"]), filepath="val2014")
    )
    train = prepared(tmp_path, "coco", "train", "splits=karpathy")
    assert train["clicks"] == [("one", "b", 1.0)] and train["products"]["b"].images
    assert prepared(tmp_path, "coco", "test", "splits=karpathy")["grades"] == {"two": {"c": 1}}


def test_flickr30k(tmp_path: Path) -> None:
    for name in ("1000092795", "10002456"):
        picture(tmp_path / "raw" / "flickr30k-images" / f"{name}.jpg")
    token = tmp_path / "raw" / "results_20130124.token"
    token.write_text(
        "1000092795.jpg#0\tTwo young guys .\n1000092795.jpg#1\tTwo men\n10002456.jpg#0\tSeveral men in hard hats .\n"
    )
    found = prepared(tmp_path, "flickr30k", "all")
    assert found["clicks"] == [
        ("Two young guys .", "1000092795", 1.0),
        ("Two men", "1000092795", 1.0),
        ("Several men in hard hats .", "10002456", 1.0),
    ]
    assert found["grades"]["Two men"] == {"1000092795": 1}
    with pytest.raises(UsageError, match=r"--split test of Flickr30k is told by dataset_flickr30k.json"):
        open_layout("flickr30k", tmp_path / "raw", "test")
    (tmp_path / "raw" / "dataset_flickr30k.json").write_text(
        karpathy(("1000092795.jpg", "train", ["Two men"]), ("10002456.jpg", "test", ["Hats", "Several men"]))
    )
    test = prepared(tmp_path, "flickr30k", "test")
    assert list(test["products"]) == ["10002456"]
    assert test["grades"] == {"Hats": {"10002456": 1}, "Several men": {"10002456": 1}}
    (tmp_path / "raw" / "dataset_flickr30k.json").unlink()
    token.write_text("1000092795.jpg#0\tTwo\nno tab\n")
    with pytest.raises(MaxsearchError, match=r"line 2 of the captions file .*token is not PICTURE#NUMBER"):
        list(open_layout("flickr30k", tmp_path / "raw", "all").products.rows("products file"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_empty_folder_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path}.*(has no f|stands for no file)"):
        open_layout(name, tmp_path, LAYOUTS[name].splits[0])


def test_a_missing_column_is_told(tmp_path: Path) -> None:
    write_wands(tmp_path)
    table(tmp_path / "label.csv", "id query_id product_id grade", delimiter="\t")
    with pytest.raises(
        UsageError, match=r"the WANDS labels file .*label.csv has no column 'label' \(it has id, query_id"
    ):
        open_layout("wands", tmp_path, "train")


def test_what_a_source_cannot_be(tmp_path: Path) -> None:
    for words, message in [
        (("escy", tmp_path, "train"), r"--source escy is no known dataset: did you mean 'esci'\?"),
        (("esci", tmp_path / "none", "train"), "--path .*none is not a folder"),
        (("esci", tmp_path, "dev"), "--split dev is none of esci's: choose from train, test"),
        (("esci", tmp_path, "test", ["locale"]), "'locale' is not of the form KEY=VALUE"),
        (("esci", tmp_path, "test", ["local=us"]), "'local=us' is no option of esci: did you mean 'locale'"),
        (("esci", tmp_path, "test", ["locale=de"]), "'locale=de' has an unknown value: .*choose from us, es, jp"),
        (("wands", tmp_path, "test", ["a=b"]), "wands has no options"),
    ]:
        with pytest.raises(UsageError, match=message):
            open_layout(*words)


def test_judgments_are_part_of_the_folder(tmp_path: Path) -> None:
    write_esci(tmp_path / "raw")
    first = prepared(tmp_path, "esci", "train")["manifest"]
    assert first["judgments"]["queries"] == 1 and first["judgments"]["judgments"] == 3
    again = prepared(tmp_path, "esci", "train")["manifest"]
    assert again == first
