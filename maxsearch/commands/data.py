"""The sub-command `data`: its flags, and the calls that they are. The doc strings are the help texts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from maxsearch.commands.flags import OptionalPath
from maxsearch.errors import MaxsearchError, UsageError

Folders = Annotated[Positional[tuple[Path, ...]], arg(metavar="DATA [DATA2 ...]")]
RunFolder = Annotated[Path | None, arg(name="run", metavar="PATH")]


@dataclass(frozen=True)
class Stats:
    """Counts, lengths, pictures, clicks, duplicates and, of several datasets, what they share, as tables."""

    data: Folders
    """Folders of prepared data, such as those of training and of test."""
    run_folder: RunFolder = None
    """A run whose tokenizer counts tokens, and whose config says how many are read."""
    tokenizer: OptionalPath = None
    """A folder with a tokenizer.json that counts tokens, in place of --run."""
    json: OptionalPath = None
    """Where to write the figures as JSON."""

    def run(self) -> None:
        from maxsearch.datastats.report import describe, open_datasets
        from maxsearch.datastats.table import print_report
        from maxsearch.files import write_json
        from maxsearch.progress import Progress

        if self.json is not None:
            check_target(self.json, "--json", self.data)
        datasets = open_datasets(self.data)
        report, _ = describe(datasets, tokens_of(self.run_folder, self.tokenizer), progress=Progress())
        if self.json is not None:
            write_json(self.json, report.as_json())
        print_report(report)


@dataclass(frozen=True)
class View:
    """The same figures with histograms and sample products, as one HTML page that needs no network."""

    data: Folders
    """Folders of prepared data; the samples are of the first."""
    out: Path
    """The HTML file to write."""
    run_folder: RunFolder = None
    """A run whose tokenizer counts tokens, and whose config says how many are read."""
    tokenizer: OptionalPath = None
    """A folder with a tokenizer.json that counts tokens, in place of --run."""
    samples: int = 60
    """Products that are shown, evenly spaced over the dataset."""

    def run(self) -> None:
        from maxsearch.datastats.page import write_page
        from maxsearch.datastats.report import open_datasets
        from maxsearch.progress import Progress

        check_target(self.out, "--out", self.data)
        datasets = open_datasets(self.data)
        tokens = tokens_of(self.run_folder, self.tokenizer)
        size = write_page(datasets, self.out, tokens, samples=self.samples, progress=Progress())
        print(f"{self.out}: {size / 1e6:.1f} MB")


@dataclass(frozen=True)
class Verify:
    """Read every file of prepared data and compare it with its checksum, before a long run begins."""

    data: Folders
    """Folders of prepared data."""

    def run(self) -> None:
        from maxsearch.data.dataset import PreparedDataset

        for path in self.data:
            dataset = PreparedDataset.open(path, verify=True)
            parts = dataset.manifest["products"], dataset.manifest["interactions"]
            files = sum(len(part["shards"]) for part in parts) + len(dataset.manifest["keywords"]["files"])
            print(f"{path}: {files} files are as they were written ({dataset.fingerprint[:12]})")


@dataclass(frozen=True)
class Data:
    """Look at prepared data."""

    action: OmitArgPrefixes[
        Annotated[Stats, subcommand("stats")]
        | Annotated[View, subcommand("view")]
        | Annotated[Verify, subcommand("verify")]
    ]
    """What to do."""

    def run(self) -> None:
        self.action.run()


def check_target(path: Path, flag: str, datasets: Sequence[Path]) -> None:
    """Meets a file that cannot be written before an hour of reading."""
    if path.is_dir():
        raise UsageError(f"{flag} {path} is a folder: give the name of a file")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise UsageError(f"{flag} {path} lies below the file {parent}: give a name in a folder")
    if not os.access(parent, os.W_OK):
        raise MaxsearchError(f"cannot write {path} ({parent} is not writable): choose another {flag}")
    for data in datasets:
        # `prepare` refuses to replace a folder with a file that it did not write.
        if path.resolve().is_relative_to(data.resolve()):
            raise UsageError(f"{flag} {path} lies in the dataset {data}: write it elsewhere")


def tokens_of(run: Path | None, tokenizer: Path | None) -> Any:
    """What --run and --tokenizer say about counting tokens; None without either."""
    from maxsearch.datastats.report import Tokens
    from maxsearch.datastats.token_counts import token_counter

    if run is not None and tokenizer is not None:
        raise UsageError("--run and --tokenizer both name a tokenizer: give one of them")
    if tokenizer is not None:
        return Tokens(token_counter(tokenizer), {})
    if run is None:
        return None
    from maxsearch.training.run_folder import TOKENIZER, read_config

    model = read_config(run).model
    limits = {"title": model.title.max_tokens, "query": model.query.max_tokens}
    return Tokens(token_counter(run / TOKENIZER), limits)
