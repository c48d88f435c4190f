"""Requests at a fixed rate to a running service, and how long its answers took.

    maxsearch serve --store STORE --model MODEL --port 8080
    python benchmarks/load.py http://127.0.0.1:8080 --queries queries.csv --rates 50 100 200 --seconds 60

Requests are due at fixed times whether or not earlier ones are answered, and latency counts from when one was due: a
service that falls behind cannot hide it. One JSON line per rate. With --changes N, N products are upserted, in groups
of 20, while the second rate runs, and every answer is checked to name one generation and products without repeats.

With --control MS, a loop that computes for MS milliseconds on one core takes the place of the service, at the same
rates. Its latency is what the machine makes of so much computing: virtual machines share their cores. MS is what a
request costs the service, its process's CPU time by its requests.
"""

import argparse
import asyncio
import csv
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

CONNECTIONS = 64


@dataclass
class Tally:
    """What came back."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    generations: Counter[str] = field(default_factory=Counter)


class Connection:
    """One kept-alive HTTP/1.1 connection, lean so that the client takes little of the cores that it measures."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        try:
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
            )
            return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            self._streams = None
            raise


async def run(address: str, bodies: list[bytes], rate: float, seconds: float, changes: list[bytes]) -> Tally:
    host, port = urlsplit(address).hostname or "127.0.0.1", urlsplit(address).port or 80
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        free.put_nowait(Connection(host, port))
    tally = Tally()
    begin = time.perf_counter() + 0.5

    async def one(due: float, body: bytes) -> None:
        connection = await free.get()
        try:
            status, answer = await connection.post("/v1/search", body)
            tally.seconds.append(time.perf_counter() - due)
            check(status, answer, tally)
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.failures[type(error).__name__] += 1
        finally:
            free.put_nowait(connection)

    async def change() -> None:
        connection = Connection(host, port)
        for number, body in enumerate(changes):
            await asyncio.sleep(max(0.0, begin + (number + 1) * seconds / (len(changes) + 1) - time.perf_counter()))
            status, _ = await connection.post("/v1/products", body)
            if status != 200:
                tally.failures[f"upsert {status}"] += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(change())
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due, bodies[number % len(bodies)]))
    return tally


def control(rate: float, seconds: float, work: float) -> list[float]:
    """Seconds from when each piece of `work` seconds of computing was due to its end."""

    def compute(steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            pass
        return time.perf_counter() - begin

    steps = int(10_000 * work / float(np.median([compute(10_000) for _ in range(1000)])))
    took = []
    begin = time.perf_counter() + 0.1
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        compute(steps)
        took.append(time.perf_counter() - due)
    return took


def check(status: int, answer: bytes, tally: Tally) -> None:
    if status != 200:
        tally.failures[str(status)] += 1
        return
    found = json.loads(answer)
    tally.generations[found["generation"]] += 1
    ids = [hit["product_id"] for hit in found["hits"]]
    if not ids or len(set(ids)) != len(ids):
        tally.failures["repeated or no products"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?")
    parser.add_argument("--queries", type=Path, help="a CSV with the column query")
    parser.add_argument("--rates", type=float, nargs="+", default=[50, 100, 200])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--changes", type=int, default=0)
    parser.add_argument("--distinct", action="store_true", help="number every query, so that none is in the cache")
    parser.add_argument("--control", type=float, metavar="MS", help="measure the machine in place of a service")
    args = parser.parse_args()
    if args.control is not None:
        for rate in args.rates:
            report(rate, args.seconds, control(rate, args.seconds, args.control / 1000), control_ms=args.control)
        return
    if args.address is None or args.queries is None:
        parser.error("give the service's address and --queries, or --control")
    with args.queries.open(newline="", encoding="utf-8") as lines:
        queries = [row["query"] for row in csv.DictReader(lines)]
    asked = 0
    for place, rate in enumerate(args.rates):
        bodies = []
        for number in range(int(rate * args.seconds) if args.distinct else len(queries)):
            query = queries[number % len(queries)]
            bodies.append(
                json.dumps({"query": f"{query} {asked + number}" if args.distinct else query, "k": args.k}).encode()
            )
        asked += len(bodies)
        changes = upserts(args.changes) if place == 1 or len(args.rates) == 1 else []
        tally = asyncio.run(run(args.address, bodies, rate, args.seconds, changes))
        report(
            rate,
            args.seconds,
            tally.seconds,
            distinct=args.distinct,
            failures=dict(tally.failures),
            generations=dict(tally.generations),
            upserted=20 * len(changes),
        )


def report(rate: float, seconds: float, took: list[float], **more: object) -> None:
    ms = 1000 * np.array(took or [np.nan])
    shown = {f"p{q}_ms": round(float(np.percentile(ms, q)), 2) for q in (50, 95, 99)}
    line = {"benchmark": "load", "rate": rate, "seconds": seconds, "requests": len(took), **shown}
    print(json.dumps({**line, "max_ms": round(float(ms.max()), 2), **more}), flush=True)


def upserts(count: int) -> list[bytes]:
    return [
        json.dumps(
            {
                "products": [
                    {"product_id": f"load-{start + n}", "title": f"load test product {start + n}"} for n in range(20)
                ]
            }
        ).encode()
        for start in range(0, count, 20)
    ]


if __name__ == "__main__":
    main()
