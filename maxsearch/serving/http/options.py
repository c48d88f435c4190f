"""What the service allows, checked before it starts."""

import ipaddress
from dataclasses import dataclass

from maxsearch.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
      body_bytes: of a request's body.
      k: results of one search, those of earlier pages counted.
      batch: searches in one request.
      query_characters: of a query text.
      products: products of one upsert, or identifiers of one delete.
      queue: searches that may wait for the encoder; above it requests are answered 503.
      rate: requests a second that one key, or one address without a key, may make; 0 is any number.
      burst: requests that may come at once before `rate` counts.
    """

    body_bytes: int = 8 << 20
    k: int = 1000
    batch: int = 100
    query_characters: int = 2000
    products: int = 1000
    queue: int = 512
    rate: float = 0.0
    burst: int = 100

    def __post_init__(self) -> None:
        for name in ("body_bytes", "k", "batch", "query_characters", "products", "queue", "burst"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"--limits.{name.replace('_', '-')} {getattr(self, name)} allows nothing: give 1 or more"
                )
        if self.rate < 0:
            raise UsageError(f"--limits.rate {self.rate:g} is below 0: give requests a second, or 0 for any number")


@dataclass(frozen=True)
class ServeOptions:
    """How the service listens.

    Attributes:
      host: the address to bind; anything but loopback needs keys.
      port: 0 lets the system choose.
      limits: see `Limits`.
      max_batch: queries that the encoder takes at once.
      max_wait_ms: how long the first of a batch waits for others; while the encoder works, they wait anyway.
      cache: query vectors that are kept.
      refresh_seconds: how often a new generation is looked for.
      drain_seconds: how long answers that have begun may take after SIGTERM.
      allowed_hosts: names by which the service may be called; on loopback without keys only loopback's own.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    limits: Limits = Limits()
    max_batch: int = 32
    max_wait_ms: float = 0.0
    cache: int = 10_000
    refresh_seconds: float = 1.0
    drain_seconds: float = 20.0
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"--port {self.port} is no port: give 0 to 65535")
        if self.max_batch < 1 or self.max_wait_ms < 0 or self.cache < 0:
            raise UsageError("--max-batch must be at least 1, and --max-wait-ms and --cache at least 0")
        if self.refresh_seconds <= 0 or self.drain_seconds < 0:
            raise UsageError("--refresh-seconds must be above 0 and --drain-seconds at least 0")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
