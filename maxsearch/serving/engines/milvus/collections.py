"""The collections of an alias: which there are, which is served, and how that changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maxsearch.errors import UsageError
from maxsearch.serving.engines.milvus.client import milvus
from maxsearch.serving.engines.milvus.schema import READY, Facts


@dataclass(frozen=True)
class Pushed:
    """A collection of ours.

    Attributes:
      name: its name in Milvus.
      facts: what it says of itself.
    """

    name: str
    facts: Facts


def collections_of(client: Any, alias: str) -> list[Pushed]:
    """The collections that were pushed for an alias, oldest first; those of others are left alone."""
    with milvus("list its collections"):
        names = [name for name in client.list_collections() if name.startswith(f"{alias}_")]
        found = [(name, Facts.of(client.describe_collection(name).get("properties") or {})) for name in names]
    ours = [Pushed(name, facts) for name, facts in found if facts is not None and facts.alias == alias]
    return sorted(ours, key=lambda one: (one.facts.pushed, one.name))


def served(client: Any, alias: str, timeout: float | None = None) -> str | None:
    """The name of the collection that an alias points to; None when there is no such alias."""
    with milvus("read its aliases"):
        if alias not in client.list_aliases(timeout=timeout)["aliases"]:
            return None
        return client.describe_alias(alias, timeout=timeout)["collection_name"]


def point(client: Any, alias: str, name: str) -> None:
    """Points an alias to a collection, in one step for whoever searches."""
    current = served(client, alias)
    with milvus(f"point the alias {alias} to {name}"):
        if current is None:
            client.create_alias(collection_name=name, alias=alias)
        elif current != name:
            client.alter_alias(collection_name=name, alias=alias)


def go_back(client: Any, alias: str, generation: str | None) -> Pushed:
    """Points an alias to a generation that was pushed earlier.

    Args:
      client: of `connect`.
      alias: the alias.
      generation: which; the one pushed before that which is served when None.

    Raises:
      UsageError: there is no such generation, or none before.
    """
    ready = [one for one in collections_of(client, alias) if one.facts.state == READY]
    names = ", ".join(one.facts.generation for one in ready) or "none"
    if generation is not None:
        chosen = [one for one in ready if one.facts.generation == generation]
        if not chosen:
            raise UsageError(f"--to {generation} is no generation under the alias {alias}: Milvus has {names}")
        target = chosen[-1]
    else:
        current = served(client, alias)
        place = next((place for place, one in enumerate(ready) if one.name == current), 0)
        if place == 0:
            raise UsageError(f"there is no generation before the one that {alias} serves: Milvus has {names}")
        target = ready[place - 1]
    with milvus(f"load {target.name}"):
        client.load_collection(target.name)
    point(client, alias, target.name)
    return target


def drop_older(client: Any, alias: str, keep: int) -> Sequence[str]:
    """Drops what is not served but for the latest `keep`, and what a killed push left; names of what was dropped."""
    current = served(client, alias)
    others = [one for one in collections_of(client, alias) if one.name != current]
    ready = [one.name for one in others if one.facts.state == READY]
    kept = set(ready[len(ready) - min(keep, len(ready)) :])
    dropped = [one.name for one in others if one.name not in kept]
    for name in dropped:
        with milvus(f"drop {name}"):
            client.drop_collection(name)
    return dropped
