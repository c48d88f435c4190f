"""A ladder: rungs, each a config and the rung that it is measured against.

Ladders live in configs/ladders/*.py and in users' own files, each with get_ladder() -> list[Rung].
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from maxsearch.config import Config
from maxsearch.errors import UsageError
from maxsearch.presets import call_in_file, configs_folder

Part = Literal["product", "title", "image"]


@dataclass(frozen=True)
class Rung:
    """One line of an ablation.

    Attributes:
      name: what the line is called.
      config: what is trained; its seed is replaced by each seed of the ablation. Rungs of equal configs and data share
        their runs.
      part: which of the product's vectors is ranked: the fused one, the title's alone, or the image's alone.
      data: name of the dataset, where the ablation has several; empty takes the first.
      against: name of the rung that this one is compared with; None takes the one before, empty compares with none.
    """

    name: str
    config: Config
    part: Part = "product"
    data: str = ""
    against: str | None = None

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def ladder_names() -> list[str]:
    """Names of the ladders that come with maxsearch."""
    return sorted(path.stem for path in (configs_folder() / "ladders").glob("*.py"))


def load_ladder(name: str) -> list[Rung]:
    """Loads a ladder by name, or a Python file that defines get_ladder() -> list[Rung].

    Every rung of the result names the rung that it is compared with, or has "".

    Raises:
      UsageError: no such ladder or file, or its rungs contradict one another.
    """
    path = Path(name) if name.endswith(".py") else configs_folder() / "ladders" / f"{name}.py"
    if not path.is_file():
        close = difflib.get_close_matches(name, ladder_names(), n=1)
        choices = f"choose one of {', '.join(ladder_names())}, or give a .py file"
        raise UsageError(f"no ladder {name!r}: {f'did you mean {close[0]!r}?' if close else choices}")
    rungs = call_in_file(path, "get_ladder", what="ladder")
    if not isinstance(rungs, Sequence) or not rungs or not all(isinstance(rung, Rung) for rung in rungs):
        raise UsageError(
            f"ladder {path} must define get_ladder() that returns a list of maxsearch.ablation.ladder.Rung"
        )
    return _linked(rungs, path)


def _linked(rungs: Sequence[Rung], path: Path) -> list[Rung]:
    names = [rung.name for rung in rungs]
    folders: dict[str, str] = {}
    linked = []
    for number, rung in enumerate(rungs):
        where = f"ladder {path}, rung {rung.name!r}"
        if not rung.slug:
            raise UsageError(f"{where}: the name makes no folder, give it a letter or a digit")
        if rung.slug in folders:
            raise UsageError(f"{where}: {folders[rung.slug]!r} has the same folder {rung.slug}, rename one of them")
        folders[rung.slug] = rung.name
        if rung.part not in get_args(Part):
            raise UsageError(f"{where}: no part {rung.part!r}, choose one of {', '.join(get_args(Part))}")
        before = names[number - 1] if number else ""
        against = before if rung.against is None else rung.against
        if against and (against not in names or against == rung.name):
            raise UsageError(f"{where}: against {against!r} is no other rung, choose one of {', '.join(names)}")
        linked.append(Rung(rung.name, rung.config, rung.part, rung.data, against))
    return linked
