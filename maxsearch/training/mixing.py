"""The mixture of a run: several datasets of --data, drawn from as data.mixture says."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.config import Config
from maxsearch.config.mixture import NAME, parse_mixture, segments
from maxsearch.data.dataset import read_manifest as read_data_manifest
from maxsearch.data.mixtures.source import MixtureSource
from maxsearch.data.mixtures.turns import BLOCK, Segment, Turns
from maxsearch.data.negatives import NEGATIVES
from maxsearch.data.sources import ExampleSource
from maxsearch.errors import UsageError
from maxsearch.manifest import read_manifest

TFDS = "tfds:"
Opener = Callable[[str, Config], tuple[ExampleSource, Config]]


def named_places(words: Sequence[str]) -> dict[str, str]:
    """Datasets by name, from `DATA` or `NAME=DATA`; one without a name is called like its folder or TFDS dataset.

    Raises:
      UsageError: two have one name.
    """
    places: dict[str, str] = {}
    for word in words:
        match = None if Path(word).exists() else re.fullmatch(rf"({NAME})=(.+)", word)
        name, place = match.groups() if match else (_called(word), word)
        if name in places:
            raise UsageError(f"--data {places[name]} and {place} are both called {name}: give one as NAME=DATA")
        places[name] = place
    return places


def open_mixture(words: Sequence[str], config: Config, open_one: Opener) -> tuple[ExampleSource, Config]:
    """The source of one dataset, or of several, and the config with what the data decide filled in.

    Args:
      words: what --data says.
      config: the run's config.
      open_one: opens one dataset.

    Raises:
      UsageError: there is no dataset, or the weights are of other ones, or so small that nothing would be drawn.
      MaxsearchError: the data cannot be read.
    """
    places = named_places(words)
    if not places:
        raise UsageError("--data names no dataset: give a folder that `maxsearch prepare` wrote")
    weights = parse_mixture(config.data.mixture)
    if weights and weights.keys() != places.keys():
        odd = sorted(weights.keys() ^ places.keys())
        where = "--data" if odd[0] in weights else "--data.mixture"
        raise UsageError(
            f"--data.mixture is for {', '.join(sorted(weights))} and --data gives {', '.join(sorted(places))}: "
            f"{odd[0]} is missing in {where}, name it there"
        )
    if len(places) == 1:
        return open_one(next(iter(places.values())), config)
    # By name, so that the order of the flags changes nothing.
    opened = {name: open_one(places[name], _own(config, places[name])) for name in sorted(places)}
    _require_mined(config, places)
    edge = max(own.data.image_edge for _, own in opened.values())
    parts = {name: source for name, (source, _) in opened.items()}
    source = mixture_of(parts, config, {name: len(part) for name, part in parts.items()})
    return source, replace(config, data=replace(config.data, image_edge=edge))


def mixture_of(parts: dict[str, ExampleSource], config: Config, sizes: dict[str, int]) -> MixtureSource:
    """The parts with the config's weights, or in proportion to their sizes."""
    weights = parse_mixture(config.data.mixture) or {name: ((0, float(size)),) for name, size in sizes.items()}
    found = segments({name: weights[name] for name in parts})
    batch = config.data.batch_size
    turns = Turns([Segment(step * batch, tuple(first.values()), tuple(last.values())) for step, first, last in found])
    ends = [shares for _, first, last in found for shares in (first, last)]
    for name in parts:
        least = min((shares[name] for shares in ends if shares[name]), default=1.0)
        if least * BLOCK < 0.5:
            raise UsageError(
                f"data.mixture: {name} has a share of {least:.2g}, of which no draw comes in {BLOCK:,}: raise its "
                "weight, or give it 0"
            )
    means = np.mean([list(shares.values()) for shares in ends], axis=0).tolist()
    return MixtureSource(parts, turns, means, (batch, found))


def _own(config: Config, place: str) -> Config:
    """The config with which one dataset of several is opened: negatives are those of the data they were mined from."""
    if not config.data.negatives:
        return config
    mined = read_manifest(Path(config.data.negatives), NEGATIVES)["data_fingerprint"]
    here = None if place.startswith(TFDS) else read_data_manifest(Path(place))["fingerprint"]
    return config if mined == here else replace(config, data=replace(config.data, negatives=""))


def _require_mined(config: Config, places: dict[str, str]) -> None:
    if config.data.negatives and not any(_own(config, place).data.negatives for place in places.values()):
        raise UsageError(
            f"--data.negatives {config.data.negatives} were mined from none of --data {', '.join(places.values())}: "
            f"{NEGATIVES.remedy}"
        )


def _called(word: str) -> str:
    """A name for a dataset without one."""
    plain = re.split(r"[:/]", word.removeprefix(TFDS))[0] if word.startswith(TFDS) else Path(word).absolute().name
    return re.sub(r"[^\w-]", "_", plain) or "data"


def progress_of(source: ExampleSource, batch_size: int) -> Callable[[int], dict[str, Any]] | None:
    """What is logged of a mixture's datasets after so many steps; None for a single dataset."""
    if not isinstance(source, MixtureSource):
        return None
    return lambda step: source.progress(step * batch_size)
