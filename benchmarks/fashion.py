"""Prepare, train and evaluate the fashion preset, once per title column and seed, by the commands a user runs.

python benchmarks/fashion.py --catalogue FOLDER --out results --seeds 0 1 2

FOLDER holds products.train.parquet, clicks.train.csv, products.dev.parquet, queries.dev.csv and qrels.dev.tsv. Prints
one JSON line per run. What is there already is not made again, and a run that was stopped goes on; further flags are
passed to `maxsearch train`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def maxsearch(*words: object) -> None:
    """Runs a sub-command in a process of its own; its progress goes to stderr."""
    subprocess.run([sys.executable, "-m", "maxsearch", *map(str, words)], check=True, stdout=sys.stderr)


def run(catalogue: Path, out: Path, title: str, seed: int, flags: list[str]) -> dict[str, Any]:
    data, folder = out / f"data-{title}", out / f"{title}-seed{seed}"
    columns = ["--map", f"title={title}"]
    if not data.exists():
        clicks = catalogue / "clicks.train.csv"
        products = catalogue / "products.train.parquet"
        maxsearch(
            *("prepare", "--products", products, "--interactions", clicks), *columns, "weight=clicks", "--out", data
        )
    maxsearch("train", "fashion", "--data", data, "--run", folder, "--seed", seed, *flags)
    figures = folder.with_suffix(".json")
    maxsearch(
        *("evaluate", "--run", folder, "--products", catalogue / "products.dev.parquet", *columns),
        *("--queries", catalogue / "queries.dev.csv", "--qrels", catalogue / "qrels.dev.tsv", "--out", figures),
    )
    systems = {row["name"]: row["metrics"] for row in json.loads(figures.read_text())["systems"]}
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "benchmark": "fashion",
        "title": title,
        "seed": seed,
        "ndcg@10": {name: round(metrics["ndcg@10"]["mean"], 4) for name, metrics in systems.items()},
        "interval": [round(systems["ours"]["ndcg@10"][end], 4) for end in ("low", "high")],
        "recall@100": {name: round(metrics["recall@100"]["mean"], 4) for name, metrics in systems.items()},
        "steps": last["step"],
        "train_minutes": round(last["seconds"] / 60, 1),
        "data_wait": last["data_wait"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--titles", nargs="+", default=["title", "title_sparse"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments, flags = parser.parse_known_args()
    for seed in arguments.seeds:
        for title in arguments.titles:
            result = run(arguments.catalogue, arguments.out, title, seed, flags)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
