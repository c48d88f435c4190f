from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.serving import embedding
from maxsearch.serving.build import build_index, embed_share, work_folder
from maxsearch.serving.embedding import Share
from maxsearch.serving.index import open_index
from tests.serving_fakes import CATALOGUE, FakeBatch, FakeEncoder, folder_bytes
from tests.test_index import many


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PART", 4)


class CountingEncoder(FakeEncoder):
    """Notes what it embeds, and fails at a chosen product as a full disk or a signal would."""

    def __init__(self, seed: int = 0, fails_at: str = "") -> None:
        made = FakeEncoder.make(seed)
        super().__init__(made.params, made.config, made.tokenizer)
        self.embedded: list[str] = []
        self.fails_at = fails_at

    def encode_products(self, products: Iterable[Product], batch_size: int = 256) -> Iterator[FakeBatch]:
        for batch in super().encode_products(products, batch_size):
            ids = [product.product_id for product in batch.products]
            if self.fails_at in ids:
                raise KeyboardInterrupt
            self.embedded += ids
            yield batch


def names(*numbers: int) -> list[str]:
    return [f"p{number}" for number in numbers]


def interrupted(out: Path, products: list[Product], at: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(CountingEncoder(fails_at=at), products, out, batch_size=2)
    assert not out.exists()


def test_a_stopped_build_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    products = many(18)
    build_index(FakeEncoder.make(), products, tmp_path / "whole")
    interrupted(tmp_path / "index", products, "p11")
    encoder = CountingEncoder()
    build_index(encoder, products, tmp_path / "index", batch_size=3)
    assert encoder.embedded == names(*range(8, 18))
    assert folder_bytes(tmp_path / "index") == folder_bytes(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "whole"]


def test_a_catalogue_that_changed_in_one_place_is_embedded_there_again(tmp_path: Path) -> None:
    products = many(18)
    interrupted(tmp_path / "index", products, "p17")
    products[5] = Product("p5", products[5].title, (b"another picture",))
    encoder = CountingEncoder()
    build_index(encoder, products, tmp_path / "index")
    assert encoder.embedded == names(4, 5, 6, 7, 16, 17)
    (batch,) = encoder.encode_products([products[5]])
    np.testing.assert_array_equal(open_index(tmp_path / "index").vectors[5:6], batch.p)


def test_another_model_or_a_damaged_part_is_embedded_again(tmp_path: Path) -> None:
    products = many(12)
    interrupted(tmp_path / "index", products, "p11")
    part = work_folder(tmp_path / "index") / "part-000001.arrow"
    part.write_bytes(part.read_bytes()[:-100])
    encoder = CountingEncoder()
    build_index(encoder, products, tmp_path / "index")
    assert encoder.embedded == names(*range(4, 12))
    interrupted(tmp_path / "index2", products, "p11")
    other = CountingEncoder(seed=1)
    build_index(other, products, tmp_path / "index2")
    assert other.embedded == names(*range(12))


def test_shares_of_hosts_are_joined_by_a_build(tmp_path: Path) -> None:
    products, out = many(30), tmp_path / "index"
    build_index(FakeEncoder.make(), products, tmp_path / "whole")
    work = work_folder(out)
    for number, expected in (
        (1, names(0, 1, 2, 3, 12, 13, 14, 15, 24, 25, 26, 27)),
        (3, names(*range(8, 12), *range(20, 24))),
    ):
        encoder = CountingEncoder()
        embedded = embed_share(encoder, products, work, Share(number, 3))
        assert encoder.embedded == expected
        assert embedded.count == 30
    encoder = CountingEncoder()
    build_index(encoder, products, out)
    assert encoder.embedded == names(*range(4, 8), *range(16, 20), 28, 29)  # the second of three never came
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")


def test_a_longer_catalogue_of_before_leaves_nothing_behind(tmp_path: Path) -> None:
    interrupted(tmp_path / "index", many(18), "p17")
    build_index(FakeEncoder.make(), many(6), tmp_path / "index")
    assert open_index(tmp_path / "index").ids == names(*range(6))
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "a/b", "-1/2", "1.5/2", "1/2/3"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no share: give one such as 2/4"):
        Share.parse(text)


def test_a_product_without_an_id_is_refused(tmp_path: Path) -> None:
    assert Share.parse("2/4") == Share(2, 4)
    with pytest.raises(MaxsearchError, match="product 6 of the catalogue has no id"):
        build_index(FakeEncoder.make(), [*CATALOGUE, Product("", "shoes")], tmp_path / "index")
