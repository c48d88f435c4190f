"""The sub-command `ablate`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, Stopped, columns_of


@dataclass(frozen=True)
class Ablate:
    """Train and evaluate every rung of a ladder over several seeds; the same command goes on with what is missing."""

    ladder: Annotated[Positional[str], arg(metavar="LADDER")]
    """A ladder's name, or a Python file with get_ladder()."""
    data: Annotated[tuple[str, ...], arg(metavar="DATA [NAME=DATA ...]")]
    """What `train --data` takes; further ones have the names by which rungs ask for them."""
    products: Path
    """The catalogue to rank, in any format that `prepare` reads."""
    queries: Path
    """Test queries, as for `evaluate`."""
    qrels: Path
    """Judgments, as for `evaluate`."""
    out: Path
    """The folder for runs/, ablation.json, table.md and the plots."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every rung."""
    steps: OptionalInt = None
    """Updates of every run; by default those of each rung's config."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=title_sparse."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    redo: Annotated[tuple[str, ...], arg(metavar="RUNG ...")] = ()
    """Rungs whose runs are thrown away and made again."""
    keep_runs: FlagCreatePairsOff[bool] = False
    """Keep the checkpoints of finished runs."""

    def run(self) -> None:
        from maxsearch.ablation.ablate import AblateOptions, ablate, require_no_failure
        from maxsearch.ablation.jobs import named_data
        from maxsearch.ablation.ladder import load_ladder
        from maxsearch.evaluation.options import EvaluateOptions

        evaluation = EvaluateOptions(
            products=self.products,
            queries=self.queries,
            qrels=self.qrels,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
        )
        options = AblateOptions(
            ladder=load_ladder(self.ladder),
            data=named_data(self.data),
            evaluation=evaluation,
            out=self.out,
            seeds=self.seeds,
            steps=self.steps,
            redo=self.redo,
            keep_runs=self.keep_runs,
        )
        results = ablate(options)
        if results is None:
            raise Stopped(f"stopped, {self.out} holds what is finished" + "; leave out --redo" * bool(self.redo))
        require_no_failure(results)
