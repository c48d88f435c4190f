"""The whole way on a drawn catalogue, by the very commands that a user runs."""

import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from maxsearch.data.synthetic import example_queries, write_catalogue
from maxsearch.files import read_json, write_json
from maxsearch.progress import Progress

RESULTS = "results.json"


class Walk:
    """Runs commands as if they were typed, and remembers them."""

    def __init__(self) -> None:
        self.console = Console()
        self.commands: list[str] = []
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started

    def say(self, text: str) -> None:
        """Prints a heading."""
        self.console.print(f"\n[bold]{text}[/bold] ({self.seconds:.0f} s)", highlight=False, soft_wrap=True)

    def run(self, *words: object) -> None:
        """Prints and runs `maxsearch WORDS`."""
        from maxsearch.cli import parse  # the command line imports this module

        arguments = [str(word) for word in words]
        command = shlex.join(["maxsearch", *arguments])
        self.commands.append(command)
        self.console.print(f"$ {command}", style="cyan", highlight=False, soft_wrap=True, markup=False)
        parse(arguments).run()


def quickstart(out: Path, *, products: int, steps: int | None, seed: int) -> dict[str, Any]:
    """Draws a catalogue, then prepares, trains, evaluates, exports, indexes and searches it.

    Args:
      out: folder for catalogue/ (the raw files), data/, run/, model/, index/ and results.json.
      products: how many products to draw.
      steps: updates to make; those of the preset when None.
      seed: of the catalogue and of training.

    Returns:
      What results.json holds.

    Raises:
      MaxsearchError: a step failed; what the steps before it wrote stays.
    """
    walk = Walk()
    raw, data, run, model, index = (out / name for name in ("catalogue", "data", "run", "model", "index"))
    walk.say(f"Drawing {products:,} products, their shoppers and their judgments into {raw}")
    write_catalogue(raw, products=products, seed=seed, progress=Progress())

    walk.say("Preparing training shards")
    walk.run(
        *("prepare", "--products", raw / "products.train.parquet", "--interactions", raw / "interactions.train.csv"),
        *("--map", "weight=clicks", "--out", data),
    )
    walk.say("Training")
    walk.run(
        "train",
        "quickstart",
        "--data",
        data,
        "--run",
        run,
        "--seed",
        seed,
        *(("--steps", steps) if steps is not None else ()),
    )

    results: dict[str, Any] = {"schema_version": 1, "kind": "maxsearch-quickstart", "products": products, "seed": seed}
    slices = {
        "all": ("products.test.parquet", "qrels.test.tsv", "Evaluating on products that training never saw"),
        "silent": (
            "products.silent.parquet",
            "qrels.silent.tsv",
            "The same, where the title names neither shape nor colour",
        ),
    }
    for name, (catalogue, qrels, heading) in slices.items():
        walk.say(heading)
        figures = out / f".{name}.json"
        walk.run(
            *("evaluate", "--run", run, "--products", raw / catalogue, "--queries", raw / "queries.test.csv"),
            *("--qrels", raw / qrels, "--out", figures),
        )
        results[name] = read_json(figures, what="evaluation", remedy="run the quickstart again")
        figures.unlink()

    walk.say("Exporting the model")
    walk.run("export", "--run", run, "--out", model)
    walk.say("Indexing the products that training never saw")
    walk.run("index", "build", "--model", model, "--products", raw / "products.test.parquet", "--out", index)
    for query in example_queries(seed, products):
        walk.say(f"Searching: {query}")
        walk.run("search", query, "--index", index, "--model", model, "-k", 5)

    results |= {"seconds": round(walk.seconds, 1), "commands": walk.commands}
    write_json(out / RESULTS, results)
    walk.say(f"Done; the figures are in {out / RESULTS}. What ran, to repeat on your own data")
    for command in walk.commands:
        walk.console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)
    return results
