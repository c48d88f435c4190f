"""What Prometheus reads at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one service, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "maxsearch_requests_total", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "maxsearch_request_seconds",
            "Seconds from request to answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.parts = Histogram(
            "maxsearch_search_part_seconds",
            "Seconds of a search by part: encode (waiting included) and rank.",
            ("part",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "maxsearch_encoder_batch_size", "Queries encoded together.", buckets=SIZES, registry=self.registry
        )
        self.cache = Counter(
            "maxsearch_query_cache_total", "Look-ups of query vectors.", ("result",), registry=self.registry
        )
        self.changes = Counter(
            "maxsearch_changed_products_total", "Products upserted or deleted.", ("kind",), registry=self.registry
        )
        self.waiting = Gauge("maxsearch_encoder_waiting", "Searches that wait for the encoder.", registry=self.registry)
        self.products = Gauge("maxsearch_products", "Products that can be found.", registry=self.registry)
        self.generation = Gauge(
            "maxsearch_generation_info",
            "1 for the generation that is served.",
            ("generation", "model"),
            registry=self.registry,
        )

    def serving(self, generation: str, model: str, products: int) -> None:
        """Tells which generation is served now."""
        self.generation.clear()
        self.generation.labels(generation, model).set(1)
        self.products.set(products)

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
