"""What token ids kept by `prepare --tokenizer` save the stream: one JSON line for each way to come by them.

python -m benchmarks.tokens --data DATA                      # DATA was prepared with --tokenizer
python -m benchmarks.tokens --data DATA --size 224 224 --tokens 16 64

`table` reads them; `cached` finds every text in the encoder's cache, as from the second epoch on when the catalogue has
at most 200,000 texts; `tokenised` tokenises every text, as where a catalogue is far larger than the cache. Each loads
the same batches in this process, in turns; `text` counts the part from text to ids alone.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from maxsearch.data import text_rows
from maxsearch.data.batches import BatchLoader, StreamOptions
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.records import text_fields
from maxsearch.data.sources import CatalogueSource
from maxsearch.data.tokenize import TextEncoder, load_tokenizer
from maxsearch.data.tokens.encoder import TableEncoder, numbers_shown
from maxsearch.data.tokens.table import TokenTable
from maxsearch.errors import UsageError

LARGEST = text_rows.MAX_CACHED_TEXTS


def rates(work: Callable[[int], object], batches: int, size: int) -> tuple[float, float]:
    """Examples per second, and per CPU second."""
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in range(batches):
        work(batch)
    examples = batches * size
    return examples / (time.perf_counter() - wall), examples / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 48), help="height and width of pictures")
    parser.add_argument("--tokens", type=int, nargs=2, default=(16, 32), help="of a query and of a text field")
    parser.add_argument("--fields", type=int, default=1, help="text fields of a product")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    source = CatalogueSource(PreparedDataset.open(arguments.data), 0.0)
    if source.tokens is None:
        raise UsageError(f"--data {arguments.data} holds no token ids: prepare it with --tokenizer")
    tokenizer = load_tokenizer(source.tokens.tokenizer)
    options = StreamOptions(arguments.batch_size, num_threads=0, texts=arguments.fields)
    count, size, fields = arguments.batches, arguments.batch_size, arguments.fields
    drawn = [list(source.examples(range(batch * size, (batch + 1) * size))) for batch in range(count)]

    def contender(table: TokenTable | None) -> tuple[Callable[[int], object], Callable[[int], object]]:
        encoders = [TextEncoder(tokenizer, length) for length in arguments.tokens]
        load = BatchLoader(source, encoders[0], encoders[1], tuple(arguments.size), options, tokens=table)
        query, text = (TableEncoder(encoder, table) for encoder in encoders)

        def encode(batch: int) -> object:
            examples = drawn[batch]
            queries = [example.query for example in examples]
            texts = [field for x in examples for field in text_fields(x.title, x.texts, fields)]
            asked, told = numbers_shown(table, examples, queries, texts, fields)
            return query(queries, asked), text(texts, told)

        return load, encode

    ways = {"table": contender(source.tokens), "cached": contender(None), "tokenised": contender(None)}
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    for turn in range(arguments.turns + 1):
        for name, (load, encode) in ways.items():
            text_rows.MAX_CACHED_TEXTS = 0 if name == "tokenised" else LARGEST
            values = (*rates(load, count, size), *rates(encode, count, size))
            if turn:  # the first one fills the cache
                found[name].append(values)
    for name, values in found.items():
        medians = [round(statistics.median(column), 1) for column in zip(*values, strict=True)]
        names = ("examples_per_second", "examples_per_cpu_second", "text_per_second", "text_per_cpu_second")
        print(json.dumps({"benchmark": "tokens", "texts": name, **dict(zip(names, medians, strict=True))}), flush=True)


if __name__ == "__main__":
    main()
