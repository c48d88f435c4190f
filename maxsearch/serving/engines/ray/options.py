"""How shards are deployed on Ray."""

from dataclasses import dataclass

from maxsearch.errors import UsageError


@dataclass(frozen=True)
class RayOptions:
    """How shards are deployed on Ray. The doc strings of the fields are help texts of `serve`.

    Raises:
      UsageError: a value that is none.
    """

    address: str = "local"
    """local starts a cluster in this machine for as long as this process runs; auto joins the one that runs here; or
    an address of one."""
    replicas: int = 2
    """Processes per shard; with one, searches are refused while it restarts."""
    cpus: float = 1.0
    """Cores that Ray sets aside for a replica; it starts where they are free."""
    concurrent: int = 64
    """Questions that a replica takes at once; further ones wait."""
    timeout: float = 5.0
    """Seconds after which a shard that does not answer counts as down."""
    start_timeout: float = 300.0
    """Seconds that all shards may take to open."""

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.concurrent < 1:
            raise UsageError("--ray.replicas and --ray.concurrent must be at least 1")
        if self.cpus < 0 or self.timeout <= 0 or self.start_timeout <= 0:
            raise UsageError("--ray.cpus must not be negative, and --ray.timeout and --ray.start-timeout be above 0")
