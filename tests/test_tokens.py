"""Token ids kept by `prepare --tokenizer`: the stream gives the same batches with them, bit for bit."""

import json
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from maxsearch.data.batches import StreamOptions
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.negatives import MinedSource, Negatives
from maxsearch.data.records import Interaction, Product
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.stream import make_stream
from maxsearch.data.tokenize import TextEncoder, load_tokenizer, save_tokenizer, train_tokenizer
from maxsearch.data.tokens.encoder import TableEncoder, table_for, table_of
from maxsearch.data.tokens.table import IDS, QUERIES, TokenTable
from maxsearch.data.tokens.writing import write_tokens
from maxsearch.data.transforms import Augment
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.prepare.run import PrepareOptions, prepare
from maxsearch.prepare.tokens import Tokenization
from maxsearch.training.mixing import open_mixture
from maxsearch.training.opening import open_source, open_stream
from tests import tiny

TITLES = ["Navy blue casual shirt", "Red cotton t-shirt 100%", "Café crème dress"] * 3


@cache
def trained() -> PreTrainedTokenizerFast:
    return train_tokenizer(TITLES, 320)


def framed(template: str = "[CLS] $A [SEP]") -> PreTrainedTokenizerFast:
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "red": 4, "shirt": 5}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(["red", "shirt", "t-shirt", "[SEP]", "[MASK]", "", " ", "100%", "café"]), max_size=30).map(
        " ".join
    ),
)


@given(
    goods=st.lists(st.lists(TEXT, min_size=1, max_size=3), min_size=1, max_size=6),
    asked=st.lists(TEXT, min_size=1, max_size=6),
    max_tokens=st.integers(3, 20),
    kind=st.sampled_from([trained, framed]),
    drawn=st.randoms(use_true_random=False),
)
@example(goods=[["red shirt " * 500, ""], [" "]], asked=["", "red"], max_tokens=5, kind=framed, drawn=None)
@settings(max_examples=80, deadline=None)
def test_a_table_gives_what_tokenising_gives(
    goods: list[list[str]],
    asked: list[str],
    max_tokens: int,
    kind: Callable[[], PreTrainedTokenizerFast],
    drawn: Any,
) -> None:
    tokenizer, fields = kind(), 2
    products = [Product(str(i), title, texts=tuple(texts)) for i, (title, *texts) in enumerate(goods)]
    clicks = [Interaction(query, 0) for query in asked]
    with tempfile.TemporaryDirectory() as folder:
        entry = write_tokens(Path(folder), tokenizer, products, clicks)
        table: TokenTable = pickle.loads(pickle.dumps(TokenTable(Path(folder), entry["tokenizer"])))
        assert table.fits(len(products), len(clicks))
        places = table.fields_of(np.arange(len(products)), fields).reshape(-1)
        numbers = np.concatenate([places, table.queries_of(np.arange(len(clicks)))])
        texts = [text for each in goods for text in (*each, "")[:fields]] + asked
        if drawn is not None:
            numbers[[drawn.random() < 0.2 for _ in numbers]] = -1
        plain = TextEncoder(tokenizer, max_tokens)
        ours = TableEncoder(TextEncoder(tokenizer, max_tokens), table)
        for expected, found in zip(plain(texts), ours(texts, numbers), strict=True):
            assert expected.dtype == found.dtype
            np.testing.assert_array_equal(expected, found)
        np.testing.assert_array_equal(plain.words(texts), ours.words(texts, numbers))


def test_a_query_that_comes_again_is_written_once(tmp_path: Path) -> None:
    clicks = [Interaction(query, 0) for query in ("red", "blue", "red", "red")]
    entry = write_tokens(tmp_path, trained(), [Product("1", "x")], clicks)
    assert entry["texts"] == 3
    assert np.load(tmp_path / QUERIES).tolist() == [1, 2, 1, 1]


def test_a_large_vocabulary_has_wide_ids(tmp_path: Path) -> None:
    words = {f"w{i}": i for i in range(70_000)}
    backend = Tokenizer(models.WordLevel({**words, "[PAD]": 70_000}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")
    write_tokens(tmp_path, tokenizer, [Product("1", "w69999 w1")], [Interaction("w5", 0)])
    ids = np.load(tmp_path / IDS)
    assert (ids.dtype, ids.tolist()) == (np.uint32, [69_999, 1, 5])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products with two text fields, one of which is at times empty, prepared with a table."""
    folder = tmp_path_factory.mktemp("tokens")
    goods = [f"p{i},red  cotton shirt {i},{'' if i % 3 else f'brand {i}'}" for i in range(30)]
    (folder / "p.csv").write_text("\n".join(["product_id,title,brand", *goods]) + "\n")
    clicks = [f"Red shirt {i % 7},p{i % 30}" for i in range(90)]
    (folder / "c.csv").write_text("\n".join(["query,product_id", *clicks]) + "\n")
    prepare(_options(folder))
    return folder / "data"


def _options(folder: Path, **more: Any) -> PrepareOptions:
    options = PrepareOptions(folder / "p.csv", folder / "c.csv", folder / "data", columns={"text": ("brand",)})
    return replace(options, **{"tokenizer": Tokenization.parse("train:300"), **more})


@contextmanager
def tokenised() -> Iterator[set[str]]:
    """The texts that are tokenised meanwhile."""
    found: set[str] = set()
    encode = TextEncoder._encode

    def noted(self: TextEncoder, texts: list[str]) -> Any:
        found.update(texts)
        return encode(self, texts)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TextEncoder, "_encode", noted)
        yield found


def _batches(source: CatalogueSource | MinedSource, table: TokenTable | None) -> list[dict[str, np.ndarray]]:
    assert source.tokens is not None
    tokenizer = load_tokenizer(source.tokens.tokenizer)
    augment = Augment(drop_title=0.2, drop_image=0.0, title_word_drop=0.1, query_word_drop=0.1)
    settings = StreamOptions(16, seed=3, num_threads=0, texts=2, words=True, augment=augment)
    encoders = TextEncoder(tokenizer, 4), TextEncoder(tokenizer, 7)
    with make_stream(source, *encoders, (4, 4), settings, tokens=table) as stream:
        return [next(stream) for _ in range(6)]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_batches_are_the_same_and_whole_texts_are_not_tokenised(data: Path, fraction: float) -> None:
    source = CatalogueSource(PreparedDataset.open(data), 0.0, fraction=fraction)
    with tokenised() as everything:
        expected = _batches(source, None)
    with tokenised() as changed:
        found = _batches(source, source.tokens)
    for plain, ours in zip(expected, found, strict=True):
        assert plain.keys() == ours.keys()
        for name in plain:
            np.testing.assert_array_equal(plain[name], ours[name], err_msg=name)
    whole = {text for product in source._dataset.products for text in (product.title, *product.texts) if text}
    whole |= {query for texts in source.query_texts() for query in texts}
    assert everything & whole
    assert changed
    assert not changed & whole


def test_the_tokenizer_is_the_one_that_train_would_make(data: Path) -> None:
    texts = CatalogueSource(PreparedDataset.open(data)).texts()
    assert load_tokenizer(data / "tokenizer").get_vocab() == train_tokenizer(texts, 300).get_vocab()


def test_only_the_same_tokenizer_takes_the_table(data: Path) -> None:
    source = CatalogueSource(PreparedDataset.open(data))
    own = load_tokenizer(data / "tokenizer")
    assert table_for(source, own) is source.tokens is not None
    assert table_for(source, trained()) is None
    own.backend_tokenizer.enable_truncation(3)
    own.backend_tokenizer.enable_padding(length=9)
    assert table_for(source, own) is source.tokens, "cutting and padding are the encoder's"


def test_a_tokenizer_from_a_folder_is_known_again_after_copies(data: Path, tmp_path: Path) -> None:
    save_tokenizer(framed(), tmp_path / "own")
    prepare(_options(data.parent, out=tmp_path / "data", tokenizer=Tokenization.parse(str(tmp_path / "own"))))
    source = CatalogueSource(PreparedDataset.open(tmp_path / "data"))
    save_tokenizer(load_tokenizer(tmp_path / "data/tokenizer"), tmp_path / "run")
    for folder in ("own", "data/tokenizer", "run"):
        assert table_for(source, load_tokenizer(tmp_path / folder)) is not None, folder


def test_mined_negatives_go_with_a_table(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    negatives = Negatives(data, "none")
    monkeypatch.setattr(Negatives, "of", lambda self, query: np.zeros(0, np.int32))
    source = MinedSource(CatalogueSource(PreparedDataset.open(data)), negatives, 0.5)
    np.testing.assert_equal(_batches(source, source.tokens), _batches(source, None))


def test_data_are_the_same_with_a_table_and_without(data: Path, tmp_path: Path) -> None:
    plain = prepare(_options(data.parent, out=tmp_path / "plain", tokenizer=None))
    with_table = PreparedDataset.open(data, verify=True)
    assert plain["fingerprint"] == with_table.fingerprint
    assert PreparedDataset.open(tmp_path / "plain").tokens is None
    shards = [path.name for path in (tmp_path / "plain").iterdir() if path.name not in {"manifest.json"}]
    assert all((tmp_path / "plain" / name).read_bytes() == (data / name).read_bytes() for name in shards)


def test_a_folder_with_a_table_is_replaced_byte_by_byte(data: Path) -> None:
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    prepare(_options(data.parent))
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def _cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-8])


def _edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["tokens"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _of_other_data(folder: Path) -> None:
    np.save(folder / QUERIES, np.zeros(89, np.int64))
    size = (folder / QUERIES).stat().st_size
    _edited(folder, lambda entry: [file.update(bytes=size) for file in entry["files"] if file["name"] == QUERIES])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / IDS).unlink(),
            r"the token file .*tokens/ids\.npy is missing: run `maxsearch prepare`",
        ),
        (
            lambda folder: _cut(folder, QUERIES),
            r"the token file .*queries\.npy has [\d,]+ bytes where its manifest says",
        ),
        (_of_other_data, r"the token table .*tokens is not one of the data beside it: run `maxsearch prepare` again"),
        (lambda folder: _edited(folder, lambda entry: entry.pop("tokenizer")), "lacks entries or contradicts itself"),
        (lambda folder: _edited(folder, lambda entry: entry["files"].pop(0)), "lacks entries or contradicts itself"),
        (
            lambda folder: _edited(folder, lambda entry: entry["files"][-1].update(name="tokenizer/../../x")),
            "lacks entries or contradicts itself",
        ),
    ],
)
def test_a_damaged_table_is_named(data: Path, tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    change(folder)
    with pytest.raises(MaxsearchError, match=message):
        PreparedDataset.open(folder)


def test_an_altered_table_is_found_when_files_are_verified(data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    content = bytearray((folder / IDS).read_bytes())
    content[-1] ^= 1
    (folder / IDS).write_bytes(content)
    with pytest.raises(MaxsearchError, match=r"the token file .*ids\.npy differs from its checksum in the manifest"):
        PreparedDataset.open(folder, verify=True)


def test_flags_that_cannot_be(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--tokenizer train:big names no vocabulary size: write it as train:8192"):
        Tokenization.parse("train:big")
    save_tokenizer(framed("$A [SEP] $A"), tmp_path / "odd")
    for word, message in {
        "train:100": r"--tokenizer train:100 is too small a vocabulary: give at least 261",
        str(tmp_path): r"holds no tokenizer: name a folder",
        str(tmp_path / "odd"): r"does not put its special tokens before and behind a text",
    }.items():
        with pytest.raises(UsageError, match=message):
            prepare(_options(data.parent, out=tmp_path / "out", tokenizer=Tokenization.parse(word)))
    with pytest.raises(UsageError, match=r"--tokenizer reads the written shards again, which --out memory://x has not"):
        prepare(_options(data.parent, out="memory://x"))
    assert not (tmp_path / "out").exists()


def test_train_takes_the_tokenizer_of_the_data_and_its_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.quiet("prepare", *tiny.prepare_words(tmp_path / "data"), "--tokenizer", "train:512", "--splits", "dev=0.2")
    assert "the texts of " in capsys.readouterr().out
    assert not (tmp_path / "data/dev/tokens").exists()
    part = tmp_path / "data/train"

    def begin(name: str, *more: object) -> str:
        """Begins a run, for which there is no time: what is said."""
        with pytest.raises(SystemExit):
            words = ("train", tiny.preset(), "--data", part, "--run", tmp_path / name, "--minutes", 0.001, *more)
            tiny.quiet(*words)
        return capsys.readouterr().err

    assert "of another tokenizer" not in begin("a")
    own = load_tokenizer(tmp_path / "a/tokenizer")
    assert own.get_vocab() == load_tokenizer(part / "tokenizer").get_vocab()
    source, config = open_source(str(part), tiny.config())
    with tokenised() as texts, open_stream(source, own, config) as stream:
        next(stream)
    assert texts <= {""}, "the preset leaves out no words"

    mixture, _ = open_mixture((str(part), str(tmp_path / "data/dev")), config, open_source)
    assert table_of(mixture) is None, "its rows are others than the table's"

    save_tokenizer(trained(), tmp_path / "other")
    said = begin("b", "--data.tokenizer", tmp_path / "other")
    assert "the token ids in --data are of another tokenizer than the run's: texts are tokenised anew" in said
