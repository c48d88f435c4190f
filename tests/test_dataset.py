import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maxsearch.cli import main
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.records import Interaction, Product
from maxsearch.errors import MaxsearchError
from maxsearch.prepare.run import PrepareOptions, prepare
from tests import tiny

COUNT = 1200  # more than one block of an iteration, in three shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    products = tmp_path / "p.csv"
    products.write_text("product_id,title\n" + "".join(f"p{i},item {i}\n" for i in range(COUNT)))
    clicks = tmp_path / "c.csv"
    clicks.write_text("query,product_id,weight\n" + "".join(f"q{i},p{i},{i + 1}\n" for i in range(COUNT)))
    prepare(PrepareOptions(products, clicks, tmp_path / "data", shard_records=550))
    return tmp_path / "data"


def _edit(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_records_by_position(folder: Path) -> None:
    data = PreparedDataset.open(folder, verify=True)
    assert (len(data.products), len(data.interactions)) == (COUNT, COUNT)
    for position in (0, 549, 550, 1099, 1100, COUNT - 1):
        assert data.products[position] == Product(f"p{position}", f"item {position}")
        assert data.interactions[position] == Interaction(f"q{position}", position, position + 1.0)
    assert data.products[-1].product_id == f"p{COUNT - 1}"
    assert [product.product_id for product in data.products[548:552]] == ["p548", "p549", "p550", "p551"]
    for position in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError):
            data.products[position]


def test_iteration_gives_every_record_in_order(folder: Path) -> None:
    data = PreparedDataset.open(folder)
    assert [product.product_id for product in data.products] == [f"p{i}" for i in range(COUNT)]
    assert [click.product for click in data.interactions] == list(range(COUNT))
    assert data.fingerprint == data.manifest["fingerprint"]


def test_a_pickled_dataset_reads_the_same_also_from_threads_and_other_folders(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    data = PreparedDataset.open(Path("data"))
    assert data.products[7].product_id == "p7"  # its reader is open when it is pickled
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(data))
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda position: copy.products[position].product_id, range(COUNT)))
    assert ids == [f"p{i}" for i in range(COUNT)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(kind="maxsearch-model"), "is not the manifest of prepared data"),
        (
            lambda m: m.update(schema_version=1),
            "has schema version 1, but this maxsearch reads 2: run `maxsearch prepare` again",
        ),
        (lambda m: m.pop("fingerprint"), "lacks entries or contradicts itself"),
        (lambda m: m["products"].pop("shards"), "lacks entries or contradicts itself"),
        (lambda m: m["products"].update(shards=[]), "lacks entries or contradicts itself"),
        (lambda m: m["products"].update(count=3), "lacks entries or contradicts itself"),
        (lambda m: m["products"]["shards"][0].update(name="../x"), "lacks entries or contradicts itself"),
        (lambda m: m.pop("keywords"), "lacks entries or contradicts itself"),
        (lambda m: m["keywords"]["files"].pop(), "lacks entries or contradicts itself"),
        (lambda m: m["keywords"]["files"][0].update(name="../x"), "lacks entries or contradicts itself"),
        (lambda m: m.update(interactions=None), "lacks entries or contradicts itself"),
        (lambda m: m.update(fingerprint="0" * 64), "was altered: its fingerprint is not that of the checksums"),
        (lambda m: m["products"]["shards"][1].update(sha256="0" * 64), "was altered: its fingerprint is not that of"),
        (lambda m: m["keywords"]["files"][0].update(sha256="0" * 64), "was altered: its fingerprint is not that of"),
        (lambda m: m["products"]["shards"][1].update(sha256=7), "lacks entries or contradicts itself"),
    ],
)
def test_unusable_manifests(folder: Path, change: Callable[[dict], object], message: str) -> None:
    _edit(folder, change)
    with pytest.raises(MaxsearchError, match=message):
        PreparedDataset.open(folder)


def test_no_manifest_and_no_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(MaxsearchError, match="is not valid JSON"):
        PreparedDataset.open(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(
        MaxsearchError, match=r"no data manifest at .*: prepare the folder with `maxsearch prepare --out`"
    ):
        PreparedDataset.open(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(MaxsearchError, match="is not the manifest of prepared data"):
        PreparedDataset.open(folder)


def test_missing_shortened_and_altered_shards(folder: Path) -> None:
    shard = folder / "products-00001-of-00003.array_record"
    content = shard.read_bytes()
    altered = bytearray(content)
    altered[len(altered) // 2] ^= 1
    shard.write_bytes(altered)
    PreparedDataset.open(folder)
    with pytest.raises(MaxsearchError, match=rf"{shard} differs from its checksum in the manifest"):
        PreparedDataset.open(folder, verify=True)
    shard.write_bytes(content[:-1])
    with pytest.raises(MaxsearchError, match=rf"{shard} has [\d,]+ bytes where its manifest says [\d,]+"):
        PreparedDataset.open(folder)
    shard.unlink()
    with pytest.raises(MaxsearchError, match=rf"{shard} is missing: run `maxsearch prepare` again"):
        PreparedDataset.open(folder)


def test_a_shard_that_is_damaged_after_opening(folder: Path) -> None:
    data = PreparedDataset.open(folder)
    shard = folder / "products-00001-of-00003.array_record"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert data.products[0].product_id == "p0"
    assert data.products.where(600) == f"record 50 of the data shard {shard}"
    with pytest.raises(MaxsearchError, match=rf"^record 50 of the data shard {shard} is damaged \(.*\): run `"):
        data.products[600]
    with pytest.raises(MaxsearchError, match=rf"^one of the records 0 to 511 of the data shard {shard} is damaged"):
        list(data.products)


def test_every_file_is_verified_before_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "verify", str(folder)])
    assert capsys.readouterr().out.startswith(f"{folder}: 8 files are as they were written (")
    shard = folder / "interactions-00002-of-00003.array_record"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    code, said = tiny.fails(capsys, "data", "verify", folder)
    assert code == 1
    assert said.startswith(f"maxsearch: the data shard {shard} differs from its checksum in the manifest: run `")
