import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from maxsearch.data.tokenize import MIN_VOCAB_SIZE, TextEncoder, load_tokenizer, save_tokenizer, train_tokenizer
from maxsearch.errors import UsageError

TITLES = [
    "Navy Blue Casual Shirt",
    "navy blue t-shirt",
    "Men's leather shoes 100ml",
    "Blue denim shirt for men",
    "Café crème dress",
    "红色 连衣裙",
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TITLES, 400)


def bert_like(pad: bool = True) -> PreTrainedTokenizerFast:
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "red": 4, "shirt": 5}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, **({"pad_token": "[PAD]"} if pad else {}))


def test_special_tokens_take_the_first_ids(tokenizer):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.convert_tokens_to_ids(tokens) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 4)


def test_vocabulary_keeps_to_its_limit():
    words = [f"word{i}" for i in range(2000)] * 2
    assert len(train_tokenizer(words, 300)) == 300


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("NAVY Blue", "navy blue"),
        ("café crème", "cafe creme"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER R}ed \N{FULLWIDTH DIGIT ONE}00", "red 100"),
        ("  navy \t\n blue ", "navy blue"),
        ("İstanbul", "istanbul"),
        ("e\N{COMBINING ACUTE ACCENT}t\N{LATIN SMALL LETTER E WITH ACUTE}", "ete"),
    ],
)
def test_spellings_of_one_text_share_their_ids(tokenizer, one, other):
    assert tokenizer(one).input_ids == tokenizer(other).input_ids


def test_a_word_has_one_token_wherever_it_stands(tokenizer):
    shirt = tokenizer("shirt").input_ids
    assert len(shirt) == 1
    assert tokenizer("t-shirt").input_ids[-1:] == shirt
    assert tokenizer("blue shirt").input_ids[-1:] == shirt


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=30))
def test_no_text_is_unknown(tokenizer, text):
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_training_does_not_depend_on_the_order_of_texts(tokenizer):
    shuffled = TITLES.copy()
    random.Random(1).shuffle(shuffled)
    assert train_tokenizer(shuffled, 400).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_training_is_the_same_in_another_process(tokenizer):
    code = (
        "import sys; from maxsearch.data.tokenize import train_tokenizer;"
        f"sys.stdout.buffer.write(train_tokenizer({TITLES!r}, 400).backend_tokenizer.to_str().encode())"
    )
    environment = {"PYTHONHASHSEED": "77", "RAYON_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout.decode() == tokenizer.backend_tokenizer.to_str()


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(UsageError, match=f"vocabulary size 100 is too small: choose at least {MIN_VOCAB_SIZE}"):
        train_tokenizer(TITLES, 100)


def test_save_and_load_give_the_same_ids(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "deep" / "tokenizer")
    again = load_tokenizer(tmp_path / "deep" / "tokenizer")
    texts = [*TITLES, "unseen wörds 42", ""]
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert again.pad_token_id == 0
    a, b = TextEncoder(tokenizer, 12)(texts), TextEncoder(again, 12)(texts)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])


def test_folders_without_a_usable_tokenizer_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"absent holds no tokenizer: name a folder with the tokenizer\.json"):
        load_tokenizer(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text("{ broken")
    with pytest.raises(UsageError, match="cannot be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    save_tokenizer(bert_like(pad=False), tmp_path / "unpadded")
    with pytest.raises(UsageError, match="has no padding token"):
        load_tokenizer(tmp_path / "unpadded")


def test_rows_are_padded_and_cut(tokenizer):
    encoder = TextEncoder(tokenizer, 3)
    ids, mask = encoder(["shirt", "navy blue shirt for men", ""])
    assert ids.dtype == np.int32
    assert mask.dtype == bool
    assert ids.shape == mask.shape == (3, 3)
    assert ids[0].tolist() == [*tokenizer("shirt").input_ids, 0, 0]
    assert ids[1].tolist() == tokenizer("navy blue shirt for men").input_ids[:3]
    assert mask.tolist() == [[True, False, False], [True, True, True], [False, False, False]]
    empty_ids, empty_mask = encoder([])
    assert empty_ids.shape == empty_mask.shape == (0, 3)


def test_a_text_without_tokens_gives_no_mask_even_with_a_template():
    encoder = TextEncoder(bert_like(), 5)
    ids, mask = encoder(["red shirt", "", "   "])
    assert ids.tolist() == [[2, 4, 5, 3, 0], [0] * 5, [0] * 5]
    assert mask.tolist() == [[True] * 4 + [False], [False] * 5, [False] * 5]
    with pytest.raises(UsageError, match="max_tokens 2 leaves no room"):
        TextEncoder(bert_like(), 2)


def test_cached_rows_equal_fresh_ones_and_survive_pickling(tokenizer):
    encoder = TextEncoder(tokenizer, 8)
    first = encoder(TITLES)
    second = encoder(TITLES[::-1])
    np.testing.assert_array_equal(first[0], second[0][::-1])
    np.testing.assert_array_equal(first[1], second[1][::-1])
    copy = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(copy(TITLES)[0], first[0])


def test_a_full_cache_changes_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr("maxsearch.data.text_rows.MAX_CACHED_TEXTS", 3)
    small, large = TextEncoder(tokenizer, 8), TextEncoder(tokenizer, 8)
    for start in range(0, len(TITLES), 2):
        texts = TITLES[start : start + 2] + TITLES[:2]
        np.testing.assert_array_equal(small(texts)[0], TextEncoder(tokenizer, 8)(texts)[0])
        large(texts)
    assert len(small._rows) <= 4


def test_the_encoder_leaves_the_tokenizer_as_it_was(tokenizer):
    before = tokenizer.backend_tokenizer.to_str()
    TextEncoder(tokenizer, 2)(["navy blue casual shirt"])
    assert tokenizer.backend_tokenizer.to_str() == before


def test_bytes_that_are_no_utf8_on_the_command_line_are_encoded(tokenizer):
    _, mask = TextEncoder(tokenizer, 8)(["shirt \udcff"])
    assert mask[0].sum() >= 2


def test_tokens_tell_which_word_they_belong_to(tokenizer):
    encoder = TextEncoder(tokenizer, 24)
    texts = ["unheardof t-shirt", "", "shirt 180cm"]
    ids, mask = encoder(texts)
    numbers = encoder.words(texts)
    assert numbers.dtype == np.int32
    np.testing.assert_array_equal(numbers >= 0, mask)
    for row, parts in zip((0, 2), (["unheardof", "t", "-", "shirt"], ["shirt", "180", "cm"]), strict=True):
        cut = [tokenizer.decode(ids[row][numbers[row] == number]).strip() for number in range(len(parts))]
        assert cut == parts
        assert numbers[row].max() == len(parts) - 1
    template = TextEncoder(bert_like(), 5)
    assert template.words(["red shirt", ""]).tolist() == [[-1, 0, 1, -1, -1], [-1] * 5]


def test_threads_share_one_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maxsearch.data.text_rows.MAX_CACHED_TEXTS", 2)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        encoder = TextEncoder(train_tokenizer(["red shoe", "blue hat"], 300), 8)
        texts = [["red shoe"], ["blue hat"], ["red hat"], ["blue shoe"]] * 200
        expected = {text[0]: encoder(text)[0].tolist() for text in texts}
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda text: encoder(text)[0].tolist(), texts))
    finally:
        sys.setswitchinterval(interval)
    assert found == [expected[text[0]] for text in texts]
