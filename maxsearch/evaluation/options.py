"""What an evaluation is asked: the files, the systems to compare with, and what is written."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maxsearch.data.tables.read import Columns
from maxsearch.errors import UsageError

SMALLEST_K = 100  # recall@100 needs that many ranks
DEFAULT_BASELINES = ("bm25", "random")


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate on, and what to compare with.

    Attributes:
      products: the catalogue, in any format that `prepare` reads.
      queries: the test queries; see `read_queries`.
      qrels: the judgments; see `read_qrels`.
      columns: column per field (`--map`).
      image_dir: folder of the pictures when the image column holds paths.
      train: the prepared data that the model was trained on, for slices by what was seen and for leak checks.
      k: ranks per query, at least 100. Every system is cut there, MRR and MAP too.
      relevant_grade: the lowest grade that counts as relevant for all but nDCG and relevance.
      save_run: where to write the ranking of every query that has text, as a TREC run.
      save_runs: folder for the TREC run of every system but those that came as one.
      baselines: what to compare with, as `parse_baselines` takes it.
      compare: TREC runs for further rows of the table.
      rerank: how many of the first ranks the matching head re-orders, in a row of its own; 0 does without.
      weights_by: an attribute of the catalogue, by whose values the modality weights are averaged.
      slices: attributes of the catalogue by whose values the figures are broken down.
      parts: whether the title vectors alone and the image vectors alone are ranked too.
      search_memory: megabytes that ranking may take; None for what it takes by itself.
      max_bad_fraction: share of the catalogue's rows that may be unusable.
      seed: of the bootstrap, the randomisation test and drawn negatives.
    """

    products: Path
    queries: Path
    qrels: Path
    columns: Columns = field(default_factory=dict)
    image_dir: Path | None = None
    train: Path | None = None
    k: int = 100
    relevant_grade: int = 1
    save_run: Path | None = None
    save_runs: Path | None = None
    baselines: Sequence[str] = DEFAULT_BASELINES
    compare: Sequence[Path] = ()
    rerank: int = 0
    weights_by: str | None = None
    slices: Sequence[str] = ()
    parts: bool = True
    search_memory: int | None = None
    max_bad_fraction: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < SMALLEST_K:
            raise UsageError(f"-k {self.k} is too few ranks for recall@100: give {SMALLEST_K} or more")
        if self.rerank and not 2 <= self.rerank <= self.k:
            raise UsageError(f"--rerank {self.rerank} re-orders nothing: give from 2 to the {self.k} ranks of -k")
        if self.relevant_grade < 1:
            raise UsageError(f"--relevant-grade {self.relevant_grade} would count every product: give 1 or more")
        if not 0 <= self.max_bad_fraction <= 1:
            raise UsageError(f"--max-bad-fraction {self.max_bad_fraction} is no share: give a number from 0 to 1")
        if self.search_memory is not None and self.search_memory < 1:
            raise UsageError(f"--search-memory {self.search_memory} is no memory: give megabytes, 1 or more")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is below 0: give a whole number from 0")
        if self.save_run is not None and self.save_run.is_dir():
            raise UsageError(f"--save-run {self.save_run} is a folder: give the name of a file")
        if self.save_runs is not None and self.save_runs.exists() and not self.save_runs.is_dir():
            raise UsageError(f"--save-runs {self.save_runs} is a file: give the name of a folder")
        for name in self.slices:
            if self.slices.count(name) > 1:
                raise UsageError(f"--slice {name} is given twice: give each column once")

    @property
    def saves(self) -> bool:
        """Whether a TREC run is written."""
        return self.save_run is not None or self.save_runs is not None
