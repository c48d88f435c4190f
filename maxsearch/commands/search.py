"""The sub-command `search`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg


@dataclass(frozen=True)
class Search:
    """Search an index."""

    query: Annotated[Positional[str], arg(metavar="QUERY")]
    """What the shopper types."""
    index: Path = Path("index")
    """The index folder, or a store."""
    model: Path = Path("model")
    """The exported model that built it."""
    k: Annotated[int, arg(aliases=["-k"])] = 10
    """How many products."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object per product instead of a table."""

    def run(self) -> None:
        from maxsearch.encode import Encoder
        from maxsearch.serving.results import print_hits
        from maxsearch.serving.search import search
        from maxsearch.serving.store.store import open_snapshot

        print_hits(
            search(open_snapshot(self.index), Encoder.from_model(self.model), self.query, self.k), as_json=self.json
        )
