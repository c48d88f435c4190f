"""Text to token ids: a tokenizer trained on the catalogue, or one loaded from disk."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from maxsearch.errors import UsageError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
MAX_CACHED_TEXTS = 200_000


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer.

    Text is lower-cased, NFKC-normalised, stripped of accents and cut into words, numbers and punctuation marks before
    the merges are learned. Every byte is in the vocabulary, so any script can be spelled. The result depends only on
    how often each word occurs: not on the order of the texts, the number of threads or the process. (WordPiece numbers
    its alphabet in hash order and would differ from run to run.)

    Args:
      texts: titles and queries; read once, as a stream.
      vocab_size: upper limit of the vocabulary, special tokens included. Small catalogues stay below it.

    Returns:
      A tokenizer with the ids 0 to 4 for [PAD], [UNK], [CLS], [SEP] and [MASK]. It adds no special tokens to a text.

    Raises:
      UsageError: `vocab_size` has no room for the special tokens and the 256 bytes.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UsageError(
            f"the vocabulary size {vocab_size} is too small: choose at least {MIN_VOCAB_SIZE} (special tokens, bytes)"
        )
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.Lowercase(),
            normalizers.StripAccents(),
            normalizers.NFKC(),
            normalizers.Replace(Regex(r"[\s\p{Cc}]+"), " "),
            normalizers.Strip(),
        ]
    )
    # Each word, number and mark gets its own leading space, so that "t-shirt" and "t shirt" share the token of "shirt".
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json into `folder`, which is made when absent."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Loads a fast tokenizer from a local folder; the network is never asked.

    Args:
      folder: what `save_tokenizer` wrote, or the folder of any Hugging Face model with a tokenizer.json.

    Raises:
      UsageError: the folder holds no tokenizer, or one without a padding token.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(f"{folder} holds no tokenizer: name a folder with the tokenizer.json of a fast tokenizer")
    try:
        if (folder / "tokenizer_config.json").is_file():
            tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        else:
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust parser raises plain Exception, transformers anything from KeyError to OSError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"the tokenizer in {folder} cannot be loaded ({reason}): save it again or name another folder"
        ) from None
    if tokenizer.pad_token_id is None:
        raise UsageError(f"the tokenizer in {folder} has no padding token: add one (pad_token) and save it again")
    return tokenizer


def plain_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of a fast tokenizer's backend that neither cuts nor pads."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hex SHA-256 of all that decides which ids a fast tokenizer gives a text."""
    return hashlib.sha256(plain_backend(tokenizer).to_str().encode()).hexdigest()


def frame_of(backend: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The special tokens (before, behind) every text; None for a tokenizer that puts them elsewhere, or none fixed."""
    frames = set()
    for probe in ("a", "a b 1"):
        framed, own = backend.encode(probe), backend.encode(probe, add_special_tokens=False)
        if all(framed.special_tokens_mask):
            return None
        before = framed.special_tokens_mask.index(0)
        behind = framed.special_tokens_mask[::-1].index(0)
        end = len(framed) - behind
        if framed.ids[before:end] != own.ids[: end - before]:
            return None
        frames.add((tuple(framed.ids[:before]), tuple(framed.ids[end:])))
    return frames.pop() if len(frames) == 1 else None


def printable(text: str) -> str:
    """A text without lone surrogates, which a command line may bring and the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode()


class TextEncoder:
    """Turns texts into padded token ids; cheap to pickle into worker processes.

    Rows are cached per text (up to 200,000), because the texts of a catalogue come back every epoch.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> None:
        """Takes a copy of the tokenizer.

        Args:
          tokenizer: a `transformers.PreTrainedTokenizerFast`. Special tokens are added as its own template says.
          max_tokens: T, the fixed length of a row; longer texts are cut.

        Raises:
          UsageError: `max_tokens` is too small for the special tokens, or the tokenizer is not a fast one.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UsageError(
                f"the tokenizer {type(tokenizer).__name__} is not a fast one: convert it to a tokenizer.json"
            )
        if max_tokens <= backend.num_special_tokens_to_add(False):
            raise UsageError(f"max_tokens {max_tokens} leaves no room for text: raise it")
        self.max_tokens = max_tokens
        self.vocab_size = len(tokenizer)
        self.pad_id = int(tokenizer.pad_token_id)
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.enable_truncation(max_tokens)
        self._backend.no_padding()
        self._rows: dict[str, Int32[np.ndarray, "2 n"]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": {}}

    def __call__(self, texts: Sequence[str]) -> tuple[Int32[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
        """Encodes N texts.

        Returns:
          ids int32 [N, T], filled with the padding id, and mask bool [N, T], True on tokens. A text without tokens of
          its own (empty, or spaces only) gives an all-False row, whatever special tokens the template adds.
        """
        known = self._known(texts)
        ids = np.full((len(texts), self.max_tokens), self.pad_id, np.int32)
        mask = np.zeros((len(texts), self.max_tokens), bool)
        for i, text in enumerate(texts):
            row = known[text][0]
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return ids, mask

    def words(self, texts: Sequence[str]) -> Int32[np.ndarray, "N T"]:
        """The number of the word in its text that each token belongs to; -1 for special tokens and behind the end."""
        known = self._known(texts)
        numbers = np.full((len(texts), self.max_tokens), -1, np.int32)
        for i, text in enumerate(texts):
            row = known[text][1]
            numbers[i, : len(row)] = row
        return numbers

    def lengths(self, texts: Sequence[str]) -> Int32[np.ndarray, " N"]:
        """How many tokens each text has, at most `max_tokens`."""
        known = self._known(texts)
        return np.array([known[text].shape[1] for text in texts], np.int32)

    @property
    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The special tokens (before, behind) every text; see `frame_of`."""
        return frame_of(self._backend)

    def _known(self, texts: Sequence[str]) -> dict[str, Int32[np.ndarray, "2 n"]]:
        """Token ids and word numbers of each text."""
        rows = self._rows
        known = {text: rows[text] for text in texts if text in rows}
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            fresh = self._encode(missing)
            if len(rows) + len(fresh) > MAX_CACHED_TEXTS:
                rows.clear()
            rows.update(fresh)
            known.update(fresh)
        return known

    def _encode(self, texts: list[str]) -> dict[str, Int32[np.ndarray, "2 n"]]:
        encodings = self._backend.encode_batch([printable(text) for text in texts])
        empty = np.zeros((2, 0), np.int32)
        return {
            text: empty
            if all(encoding.special_tokens_mask)
            else np.asarray([encoding.ids, _numbered(encoding.word_ids)], np.int32)
            for text, encoding in zip(texts, encodings, strict=True)
        }


def _numbered(words: list[int | None]) -> list[int]:
    """Words numbered anew without gaps, so that the numbers stay below that of the tokens; -1 for special tokens."""
    places = {word: place for place, word in enumerate(sorted({word for word in words if word is not None}))}
    return [-1 if word is None else places[word] for word in words]
