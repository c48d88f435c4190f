"""Texts and bytes as 64-bit keys, for comparing without holding them.

Two different values among 10^8 share a key with a chance of 3 in 10,000.
"""

import hashlib

import numpy as np
from jaxtyping import UInt64

from maxsearch.data.keywords import normalized

NONE = 0  # the key of an absent value; no text or picture hashes to it in practice
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: an odd factor that mixes the bits of a key


def text_key(text: str) -> int:
    """The key of a text: equal for texts that differ in case, width or spaces only; NONE when nothing is left."""
    plain = normalized(text)
    return bytes_key(plain.encode("utf-8", "replace")) if plain else NONE


def bytes_key(data: bytes) -> int:
    """The key of bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def joined(first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """One key for each two: equal where both are."""
    return first * _MIX + second
