"""API keys: who may read and who may change the catalogue."""

import hashlib
import hmac
import stat
from dataclasses import dataclass
from pathlib import Path

from maxsearch.errors import MaxsearchError, UsageError

READ, ADMIN = "read", "admin"
ROLES = (READ, ADMIN)
SHORTEST = 16


@dataclass(frozen=True)
class Key:
    """A key's role, and the hash that stands for it; the key itself is not kept."""

    role: str
    digest: bytes

    @property
    def name(self) -> str:
        """A name for counters and logs, from which the key cannot be told."""
        return self.digest.hex()[:8]


class Keys:
    """The keys of a service. Without any, everybody who reaches it may do everything."""

    def __init__(self, keys: tuple[Key, ...] = ()) -> None:
        self._keys = keys

    def __bool__(self) -> bool:
        return bool(self._keys)

    @classmethod
    def read(cls, path: Path | None, environment: dict[str, str]) -> "Keys":
        """The keys of a file with a line `read KEY` or `admin KEY` each, and of MAXSEARCH_READ_KEY and _ADMIN_KEY.

        Raises:
          UsageError: there is no such file.
          MaxsearchError: others may read the file, a line is malformed, or a key is too short.
        """
        keys = [
            _key(role, environment[name], f"the environment variable {name}")
            for role, name in ((READ, "MAXSEARCH_READ_KEY"), (ADMIN, "MAXSEARCH_ADMIN_KEY"))
            if environment.get(name)
        ]
        if path is not None:
            keys += _of_file(path)
        return cls(tuple(keys))

    def role_of(self, presented: str) -> Key | None:
        """The key that was presented; None when it is none of ours.

        Every key is compared, each in constant time, so that how long it takes says nothing of any of them.
        """
        digest = _digest(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def _of_file(path: Path) -> list[Key]:
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UsageError(f"--keys {path} does not exist: write a file of lines `read KEY` and `admin KEY`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MaxsearchError(f"--keys {path} cannot be read ({error}): check the file") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise MaxsearchError(f"--keys {path} can be read by others than its owner: run chmod 600 on it")
    keys = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or words[0] not in ROLES:
            raise MaxsearchError(f"--keys {path}, line {number} is not `read KEY` or `admin KEY`: mend the line")
        keys.append(_key(words[0], words[1], f"--keys {path}, line {number}"))
    if not keys:
        raise MaxsearchError(f"--keys {path} holds no key: write lines `read KEY` and `admin KEY`")
    return keys


def _key(role: str, value: str, where: str) -> Key:
    if len(value) < SHORTEST:
        raise MaxsearchError(f"{where} has a key of {len(value)} characters: give {SHORTEST} or more, drawn at random")
    return Key(role, _digest(value))


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
