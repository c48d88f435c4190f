"""The top of a ranking in the order of the matching head: which products are read, and what becomes of the ranks."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from maxsearch import encode
from maxsearch.data.records import Product
from maxsearch.data.tokenize import train_tokenizer
from maxsearch.encode import Encoder
from maxsearch.errors import UsageError
from maxsearch.evaluation import rerank as rerank_module
from maxsearch.evaluation.embedded import ProductsFile
from maxsearch.evaluation.evaluate import evaluate
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.evaluation.rerank import rerank
from maxsearch.training.state import model_graph
from tests import tiny
from tests.judged_words import WordEncoder, options, png
from tests.small import CONFIG, lively_params, with_model

__all__ = ["options"]  # the fixture

TITLES = ["red shoe", "blue shoe", "green hat", "red hat", "black belt", "blue belt"]


class PairWordEncoder(WordEncoder):
    """Ranks all products alike, and matches by the number of shared words."""

    matches = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []
        self.blocks: list[int] = []

    def encode_products(self, products: Iterable[Product]):
        for batch in super().encode_products(products):
            batch.p = np.zeros_like(batch.p)
            yield batch

    def match(self, queries: Sequence[str], products: Sequence[Product], pairs: np.ndarray) -> np.ndarray:
        self.blocks.append(len(products))
        texts = [(queries[q], products[p].title) for q, p in pairs]
        self.asked += texts
        return np.array([len(set(q.split()) & set(title.split())) for q, title in texts], np.float32)


@pytest.fixture
def file(tmp_path: Path) -> ProductsFile:
    path = tmp_path / "titles.csv"
    rows = [f"p{number},{title}" for number, title in enumerate(TITLES)]
    rows.insert(2, "p0,a repeated identifier")  # unusable: positions count usable rows only
    path.write_text("\n".join(["product_id,title", *rows]) + "\n")
    return ProductsFile(path, {}, None, 1.0)


def test_the_first_ranks_are_ordered_by_match_and_the_others_stay(file, monkeypatch):
    monkeypatch.setattr(rerank_module, "BLOCK", 2)
    encoder = PairWordEncoder()
    rows = np.array([[5, 4, 0, 3, 1], [2, 1, 0, 4, 5], [4, 2, -1, -1, -1]], np.int32)
    found = rerank(file, encoder, ["red shoe", "blue shoe", "green hat"], rows, 3)
    np.testing.assert_array_equal(found, [[0, 5, 4, 3, 1], [1, 0, 2, 4, 5], [2, 4, -1, -1, -1]])
    # Each candidate is read once, in blocks, and no other product is.
    assert encoder.blocks == [2, 2, 1]
    assert len(encoder.asked) == 8
    assert {title for _, title in encoder.asked} == {TITLES[row] for row in (0, 1, 2, 4, 5)}


def test_evaluate_has_a_row_of_its_own_for_it(options: EvaluateOptions):
    evaluation = evaluate(replace(options, rerank=100), PairWordEncoder())
    assert [row.name for row in evaluation.rows][:3] == ["ours", "ours (re-ranked 100)", "ours, text only"]
    plain, better = (evaluation.row(name).metrics for name in ("ours", "ours (re-ranked 100)"))
    assert better["ndcg@10"].mean > plain["ndcg@10"].mean + 0.3
    assert better["recall@100"].mean == plain["recall@100"].mean
    assert evaluation.settings["rerank"] == 100


@pytest.mark.parametrize("encoder", [WordEncoder, type("Untrained", (PairWordEncoder,), {"matches": False})])
def test_a_model_without_a_matching_head_is_refused_before_anything_is_read(options: EvaluateOptions, encoder: type):
    with pytest.raises(UsageError, match=r"--rerank needs a model with a matching head, .*: train one with --loss"):
        evaluate(replace(options, rerank=10, queries=Path("absent.csv")), encoder())


@pytest.mark.parametrize("count", [1, 101, -5])
def test_a_number_of_ranks_that_re_orders_nothing_is_refused(options: EvaluateOptions, count: int):
    with pytest.raises(UsageError, match=f"--rerank {count} re-orders nothing: give from 2 to the 100 ranks of -k"):
        replace(options, rerank=count)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """An untrained model with live parameters, on all simulated devices."""
    text = replace(CONFIG.model.title, depth=0)
    image = replace(CONFIG.model.image, depth=0)
    config = with_model(CONFIG, query=text, title=text, image=image, vocab_size=320)
    config = replace(config, loss=replace(config.loss, matching=1.0))
    with jax.set_mesh(jax.make_mesh((1, 1, 1), ("replica", "fsdp", "tensor"), devices=jax.devices()[:1])):
        params = jax.device_get(lively_params(config))
    return Encoder(config, params, train_tokenizer(TITLES * 3, 320))


def catalogue() -> list[Product]:
    """Every other product has a picture."""
    return [Product(f"p{number}", title, (png(),) * (number % 2)) for number, title in enumerate(TITLES)]


def test_scores_are_those_of_the_head_row_by_row(encoder: Encoder, monkeypatch):
    queries = ["red shoe", "belt", ""]
    pairs = np.array([[q, p] for p in (5, 0, 3) for q in range(3)])
    scores = encoder.match(queries, catalogue(), pairs)
    assert scores.shape == (9,)
    assert len(np.unique(scores.round(5))) >= 7
    monkeypatch.setattr(encode, "PRODUCT_BATCH", 2)
    monkeypatch.setattr(encode, "MATCH_BATCH", 2)
    np.testing.assert_allclose(encoder.match(queries, catalogue(), pairs), scores, atol=1e-5)
    np.testing.assert_allclose(encoder.match(queries, catalogue(), pairs[::-1])[::-1], scores, atol=1e-5)
    assert encoder.match(queries, catalogue(), np.zeros((0, 2), int)).shape == (0,)

    with jax.set_mesh(encoder._mesh):
        model = nnx.merge(model_graph(encoder.config), encoder.params)
        batch = encoder._product_batch([catalogue()[5]] * 8, 8)
        ids, mask = encoder._query_text(["red shoe"] * 8)
        tokens = jax.jit(model.product_tokens)(batch["ids"], batch["mask"], batch["image"], batch["present"])
        query = jax.jit(model.query_words)(*jax.device_put((ids, mask), batch["ids"].sharding))
        expected = jax.jit(model.heads["matching"])(query, tokens.words, tokens.patches)
    np.testing.assert_allclose(scores[0], np.asarray(expected)[0], atol=1e-5)


def test_an_encoder_without_the_head_says_so(encoder: Encoder):
    config = replace(encoder.config, loss=replace(encoder.config.loss, matching=0.0))
    params = {name: value for name, value in encoder.params.items() if name != "heads"}
    without = Encoder(config, params, encoder.tokenizer)
    assert not without.matches
    with pytest.raises(UsageError, match=r"this model has no matching head: train one with --loss.matching above 0"):
        without.match(["red"], catalogue(), np.array([[0, 0]]))


def test_a_run_trained_with_heads_re_ranks_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """From the command line: the stream tells words apart, and the exported model has the matching head."""
    tiny.folder()  # with the cache of compiled programs
    run, model = tmp_path / "run", tmp_path / "model"
    off = ["--loss.query-title", 0, "--loss.query-image", 0, "--loss.query-product", 0]
    weights = [*off, "--loss.matching", 1, "--loss.mlm-query", 1, "--model.head.heads", 2]
    tiny.quiet(*tiny.train_words(run, "--steps", 2, *weights))
    tiny.quiet("export", "--run", run, "--out", model)
    capsys.readouterr()
    tiny.quiet(*tiny.evaluate_words("--model", model, "--rerank", 5))
    assert "ours (re-ranked 5)" in " ".join(capsys.readouterr().out.split())
