"""The sub-command `evaluate`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, columns_of, loaded_encoder, require_one_model
from maxsearch.errors import MaxsearchError, UsageError


@dataclass(frozen=True)
class Evaluate:
    """Rank a catalogue for judged queries, beside BM25 and chance."""

    products: Path
    """The catalogue, in any format that `prepare` reads."""
    queries: Path
    """Test queries: a table with query_id and query, BEIR's queries.jsonl, or TREC topics (id, tab, text)."""
    qrels: Path
    """Judgments: a table with query_id, product_id and grade, or BEIR's or TREC's qrels."""
    run_folder: Annotated[Path | None, arg(name="run", metavar="PATH")] = None
    """A run to evaluate, at its latest checkpoint."""
    model: OptionalPath = None
    """An exported model to evaluate, in place of --run."""
    step: OptionalInt = None
    """The run's checkpoint to evaluate."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=title_sparse."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    train: Annotated[Path | None, arg(metavar="PATH|none")] = None
    """The prepared data of training, for slices by what was seen and checks for leaks: those of --run while they are
    there; `none` does without."""
    fail_on_leak: bool = False
    """End with an error where the test was seen in training; needs --train."""
    k: Annotated[int, arg(aliases=["-k"])] = 100
    """Ranks per query."""
    relevant_grade: int = 1
    """Lowest grade that counts as relevant for all but nDCG and relevance."""
    baseline: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="SPEC ...")] = ()
    """Systems for the same table beside BM25 and chance; may be given several times."""
    compare: Annotated[tuple[Path, ...], arg(metavar="RUN_FILE ...")] = ()
    """TREC run files for the same table."""
    rerank: int = 0
    """How many of the first ranks the matching head re-orders, in a row of its own; 0 does without."""
    slice: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="COLUMN ...")] = ()
    """Attribute columns, such as the category, by whose values the products are sliced; may be given several times."""
    weights_by: Annotated[str | None, arg(metavar="COLUMN")] = None
    """An attribute column, such as the category, by whose values the weights of title and image are averaged."""
    all_metrics: bool = False
    """Print every metric with its interval."""
    slices: bool = False
    """Print the slices: nDCG@10 by query length, by what titles say, and so on."""
    save_run: OptionalPath = None
    """Where to write the ranking as a TREC run."""
    save_runs: OptionalPath = None
    """Folder for every system's ranking as a TREC run."""
    per_query: OptionalPath = None
    """Where to write the figures of each query, as .csv or .parquet."""
    out: OptionalPath = None
    """Where to write the figures as JSON."""
    search_memory: Annotated[int | None, arg(metavar="MB")] = None
    """Megabytes that ranking may take, the vectors of the queries included."""
    max_bad_fraction: float = 0.01
    """Share of the catalogue's rows that may be unusable."""
    seed: int = 0
    """Of the bootstrap, the randomisation test and drawn negatives."""

    def run(self) -> None:
        from maxsearch.evaluation.evaluate import evaluate
        from maxsearch.evaluation.leakage import LEAKS
        from maxsearch.evaluation.options import DEFAULT_BASELINES, EvaluateOptions
        from maxsearch.evaluation.saved import require_table, write_per_query
        from maxsearch.evaluation.table import print_table
        from maxsearch.files import write_json
        from maxsearch.progress import Progress
        from maxsearch.training.run_folder import training_data

        require_one_model(self.run_folder, self.model, self.step, self.out)
        train = self.train
        if train is None and self.run_folder is not None:
            train = training_data(self.run_folder)
        elif train == Path("none"):
            train = None
        if self.fail_on_leak and train is None:
            raise UsageError("--fail-on-leak needs the training data: name them with --train")
        options = EvaluateOptions(
            products=self.products,
            queries=self.queries,
            qrels=self.qrels,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
            train=train,
            k=self.k,
            relevant_grade=self.relevant_grade,
            save_run=self.save_run,
            save_runs=self.save_runs,
            baselines=(*DEFAULT_BASELINES, *chain.from_iterable(self.baseline)),
            compare=self.compare,
            rerank=self.rerank,
            weights_by=self.weights_by,
            slices=tuple(chain.from_iterable(self.slice)),
            search_memory=self.search_memory,
            max_bad_fraction=self.max_bad_fraction,
            seed=self.seed,
        )
        if self.per_query is not None:
            require_table(self.per_query)
        encoder = loaded_encoder(self.run_folder, self.model, self.step, self.out)
        evaluation = evaluate(options, encoder, Progress())
        print_table(evaluation, all_metrics=self.all_metrics, slices=self.slices or bool(self.slice))
        if self.out is not None:
            write_json(self.out, evaluation.to_json())
        if self.per_query is not None:
            write_per_query(self.per_query, evaluation)
        leaked = [warning.code for warning in evaluation.warnings if warning.code in LEAKS]
        if self.fail_on_leak and leaked:
            raise MaxsearchError(
                f"the test was seen in training ({', '.join(leaked)}; see the warnings above): mend the test, or leave "
                "--fail-on-leak out"
            )
