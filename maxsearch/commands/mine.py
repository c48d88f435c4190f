"""The sub-command `mine`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from maxsearch.commands.flags import OptionalInt, OptionalPath, loaded_encoder, require_one_model


@dataclass(frozen=True)
class Mine:
    """Find hard negatives of every query with a trained model, for `train --data.negatives`."""

    data: Path
    """The prepared dataset whose products are searched, and whose queries are asked."""
    out: Path
    """The folder of negatives to write; an older one there is replaced as a whole."""
    run_folder: Annotated[Path | None, arg(name="run", metavar="PATH")] = None
    """The run whose model searches, at its latest checkpoint."""
    model: OptionalPath = None
    """An exported model, in place of --run."""
    step: OptionalInt = None
    """The run's checkpoint."""
    per_query: int = 16
    """Negatives to keep of each query, the hardest first."""
    from_rank: int = 1
    """The first rank that is looked at; a higher one leaves out the likeliest positives."""
    to_rank: int = 200
    """The last rank that is looked at."""
    max_ratio: float = 0.95
    """Results that reach this share of the positive's score are left out as likely positives."""
    margin: float = 0.0
    """Results that reach the positive's score minus this are left out too."""
    against: Literal["best", "worst"] = "best"
    """Which of a query's clicked products is the positive of these limits: the one that scores best or worst."""
    keywords: bool = True
    """Leave products out that have every word of the query."""

    def run(self) -> None:
        from maxsearch.data.dataset import PreparedDataset
        from maxsearch.mining.filters import MiningOptions
        from maxsearch.mining.mine import mine
        from maxsearch.progress import Progress

        require_one_model(self.run_folder, self.model, self.step, None)
        options = MiningOptions(
            per_query=self.per_query,
            from_rank=self.from_rank,
            to_rank=self.to_rank,
            max_ratio=self.max_ratio,
            margin=self.margin,
            against=self.against,
            keywords=self.keywords,
        )
        options.check()
        dataset = PreparedDataset.open(self.data)
        encoder = loaded_encoder(self.run_folder, self.model, self.step, None)
        manifest = mine(encoder, dataset, self.out, options, Progress())
        queries, negatives = manifest["queries"], manifest["negatives"]
        print(
            f"{self.out}: {negatives:,} negatives of {queries:,} queries, {negatives / queries:.1f} each; "
            f"{manifest['without']:,} have none"
        )
        reasons = ", ".join(f"{count:,} by {name}" for name, count in manifest["left_out"].items())
        print(f"  of {manifest['searched']:,} results, left out {reasons}")
