"""Text to token ids: a tokenizer trained on the catalogue, or one loaded from disk."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from maxsearch.data.text_rows import TextRows
from maxsearch.errors import UsageError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256


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


class TextEncoder(TextRows):
    """`TextRows` of a `transformers` tokenizer, which brings its padding token."""

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
        super().__init__(backend, max_tokens, int(tokenizer.pad_token_id))
        self.vocab_size = len(tokenizer)
