import subprocess
import sys
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maxsearch.data.images import fit_image
from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.mteb import MtebModel, _encoded
from tests.serving_fakes import FakeEncoder, unit

QUERIES = {"q0": "red shoe", "q1": "blue bag", "q2": "navy shirt"}
CORPUS = {"p0": "navy cotton shirt", "p1": "red leather shoe", "p2": "blue leather bag", "p3": "watch"}
RELEVANT = {"q0": {"p1": 1}, "q1": {"p2": 1}, "q2": {"p0": 1}}
PICTURES = [Image.new("RGB", (20, 10), (40 * i, 200 - 40 * i, 90)) for i in range(4)]


class Prompt(Enum):
    query = "query"
    document = "document"


class Seen(FakeEncoder):
    """Keeps what it was given; its config has what a model's card tells."""

    image_edge = 16

    def encode_queries(self, queries: Any) -> np.ndarray:
        self.asked = list(queries)
        return super().encode_queries(queries)

    def encode_products(self, products: Any, batch_size: int = 256) -> Any:
        self.given: list[Product] = list(products)
        return super().encode_products(self.given, batch_size)


@pytest.fixture
def encoder() -> Seen:
    made = FakeEncoder.make()
    model = SimpleNamespace(title=SimpleNamespace(max_tokens=8))
    config: Any = SimpleNamespace(rows=made.config.rows, dim=made.config.dim, name="shoes/my preset", model=model)
    return Seen(made.params, config, made.tokenizer)


@pytest.fixture
def model(encoder: Seen) -> MtebModel:
    return MtebModel("any", encoder=encoder)


def test_queries_are_queries_and_documents_are_products(model: MtebModel, encoder: Seen) -> None:
    texts = list(QUERIES.values())
    expected = FakeEncoder.make().encode_queries(texts)
    for kind in (Prompt.query, "query", None):
        found = model.encode([{"text": texts[:2]}, {"text": texts[2:]}], prompt_type=kind, task_metadata=None)
        np.testing.assert_array_equal(found, expected)
    assert encoder.asked == texts[2:]
    for kind in (Prompt.document, "document"):
        found = model.encode([{"text": ["red  leather shoe", "bag"]}], prompt_type=kind)
        assert encoder.given == [Product("0", "red leather shoe"), Product("1", "bag")]
        assert found.shape == (2, 24)
    assert model.encode([], prompt_type="query").shape == (0, 24)


@pytest.mark.parametrize("kind", ["query", "document", None])
def test_pictures_are_products_whoever_gives_them(model: MtebModel, encoder: Seen, kind: str | None) -> None:
    found = model.encode([{"image": PICTURES[:2]}], prompt_type=kind)
    shown = [fit_image(_encoded(picture), 16) for picture in PICTURES[:2]]
    assert encoder.given == [Product("0", "", (shown[0],)), Product("1", "", (shown[1],))]
    np.testing.assert_allclose(found, np.stack([unit(encoder._image(x)) for x in shown]), atol=1e-6)
    model.encode([{"image": [PICTURES[0], None], "text": ["a shoe", "a bag"]}], prompt_type=kind)
    assert encoder.given == [Product("0", "a shoe", (shown[0],)), Product("1", "a bag")]


def test_a_batch_of_something_else_is_refused(model: MtebModel) -> None:
    with pytest.raises(UsageError, match="a batch of the task holds audio and neither text nor image"):
        model.encode([{"audio": [1]}])


def test_similarities(model: MtebModel) -> None:
    first, second = np.eye(3, 24, dtype=np.float32), np.ones((2, 24), np.float32)
    np.testing.assert_array_equal(model.similarity(first, second), np.ones((3, 2)))
    np.testing.assert_array_equal(model.similarity(first[0], second[0]), [[1]])
    np.testing.assert_array_equal(model.similarity_pairwise(first[:2], second), [1, 1])


def test_facts_of_the_model(model: MtebModel, encoder: Seen) -> None:
    facts = model.facts()
    assert facts["name"] == "maxsearch/shoes-my-preset"
    assert facts["revision"] == encoder.fingerprint[:12]
    assert facts["n_parameters"] == 4096 * 24 + 24 + 1
    assert MtebModel("any", "mine", encoder=encoder).facts()["revision"] == "mine"


def test_without_mteb(model: MtebModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MaxsearchError, match="mteb is not installed here: pip install"):
        _ = model.mteb_model_meta
    with pytest.raises(MaxsearchError, match=str(tmp_path)):
        MtebModel(tmp_path)
    words = "import sys, maxsearch.evaluation.mteb; print({'mteb', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed")
@pytest.mark.parametrize("category", ["t2t", "t2i", "t2it"])
def test_the_harness_runs_a_task(model: MtebModel, encoder: Seen, category: str) -> None:
    import mteb
    from mteb.models.models_protocols import EncoderProtocol

    assert isinstance(model, EncoderProtocol)
    result = mteb.evaluate(model, local_task(category), cache=None, show_progress_bar=False, co2_tracker=False)
    (task,) = result.task_results
    scores = task.scores["test"][0]
    assert result.model_name == "maxsearch/shoes-my-preset"
    # The words of a query are in one title only; the pictures say nothing about it.
    assert (scores["ndcg_at_10"] == 1) == ("t" in category.split("2")[1])
    assert [bool(product.images) for product in encoder.given] == ["i" in category] * 4
    assert [product.title for product in encoder.given] == ([""] * 4 if category == "t2i" else [*CORPUS.values()])


def local_task(category: str) -> Any:
    """A task of mteb's with the queries and the corpus above."""
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    corpus: dict[str, Any] = {"id": list(CORPUS)}
    if "t" in category.split("2")[1]:
        corpus["text"] = list(CORPUS.values())
    if "i" in category:
        corpus["image"] = PICTURES
    queries = Dataset.from_dict({"id": list(QUERIES), "text": list(QUERIES.values())})

    class LocalTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="LocalProducts",
            description="Products and what shoppers type.",
            dataset={"path": "local/products", "revision": "1"},
            type="Retrieval" if category == "t2t" else "Any2AnyRetrieval",
            category=category,
            modalities=["text", "image"] if "i" in category else ["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            split = {"queries": queries, "relevant_docs": RELEVANT, "top_ranked": None}
            self.dataset = {"default": {"test": {**split, "corpus": Dataset.from_dict(corpus)}}}
            self.data_loaded = True

    return LocalTask()
