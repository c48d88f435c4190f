"""Where a run puts its files: a folder that all of its workers see, or one of an object store, by an fsspec URL."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from maxsearch.data.tables.remote import is_url, opened
from maxsearch.errors import UsageError
from maxsearch.files import write_bytes
from maxsearch.manifest import MANIFEST

SCRATCH = "scratch"
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Store:
    """A folder; may be pickled to other processes and machines.

    Files appear in it whole, whoever writes them and how often, and by names that may have folders in them.

    Attributes:
      place: a path or a URL.
    """

    place: str

    @property
    def remote(self) -> bool:
        """Whether it is a URL."""
        return is_url(self.place)

    @contextmanager
    def drafting(self) -> Iterator[Path]:
        """Yields a folder of this machine for a file that `keep` then takes."""
        if not self.remote:
            yield Path(self.place) / SCRATCH
            return
        with tempfile.TemporaryDirectory(prefix="maxsearch-") as folder:
            yield Path(folder)

    def keep(self, file: Path, name: str) -> None:
        """Takes a whole file, which is then gone where it was."""
        if self.remote:
            with opened(self.place) as (system, root):
                system.put_file(str(file), f"{root}/{name}")
            file.unlink()
        else:
            place = Path(self.place) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file."""
        if self.remote:
            with opened(self.place) as (system, root):
                system.pipe_file(f"{root}/{name}", content)
        else:
            write_bytes(Path(self.place) / name, content)

    def lines(self, name: str) -> Iterator[str]:
        """The lines of a text file."""
        if self.remote:
            with opened(self.place) as (system, root), system.open(f"{root}/{name}", "rb") as stream:
                for line in stream:
                    yield line.decode()
        else:
            with (Path(self.place) / name).open(encoding="utf-8") as stream:
                yield from stream

    def names(self, folder: str = "") -> list[str]:
        """The names of all files, or of those in a folder and below, sorted."""
        if self.remote:
            with opened(self.place) as (system, root):
                system.invalidate_cache()  # other machines write here too
                below = f"{root}/{folder}" if folder else root
                found = [path.removeprefix(f"{root}/") for path in (system.find(below) if system.exists(below) else [])]
        else:
            top = Path(self.place)
            found = [path.relative_to(top).as_posix() for path in (top / folder).rglob("*") if path.is_file()]
        return sorted(found)

    def remove(self, folder: str = "") -> None:
        """Removes a folder with all that is in it, a file by its name, or everything."""
        if self.remote:
            with opened(self.place) as (system, root):
                for name in self.names(folder):  # never the folder itself, which may be a whole bucket
                    system.rm_file(f"{root}/{name}")
        else:
            shutil.rmtree(Path(self.place) / folder, ignore_errors=True)


@contextmanager
def dataset_at(url: str) -> Iterator[Path]:
    """Yields an empty folder of this machine, whose files go to a URL when the block ends without an error.

    A store cannot rename a folder. So the manifest comes last, and a dataset is never replaced: what a run left that
    was killed has no manifest, and is cleared by the next one.

    Raises:
      UsageError: there are other files, or the URL cannot be used.
      MaxsearchError: the store cannot be reached or written.
    """
    store = Store(url)
    found = store.names()
    if found and (UNFINISHED not in found or MANIFEST in found):
        raise UsageError(
            f"--out {url} holds files, such as {found[0]}, and is not replaced: give a new or empty folder"
        )
    store.remove()
    store.write(UNFINISHED, b"")
    with tempfile.TemporaryDirectory(prefix="maxsearch-") as folder:
        draft = Path(folder)
        yield draft
        files = [path for path in draft.rglob("*") if path.is_file()]
        # The manifest of the whole comes last, and those of parts before it.
        files.sort(key=lambda path: (path.name == MANIFEST, path.parent == draft, str(path)))
        for path in files:
            store.keep(path, path.relative_to(draft).as_posix())
    store.remove(SCRATCH)
    store.remove(UNFINISHED)
