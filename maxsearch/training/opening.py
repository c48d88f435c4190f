"""What a run opens before its first step, checked against each other: data, stream, config, mesh and shapes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from maxsearch.config import Config
from maxsearch.data.batches import StreamOptions
from maxsearch.data.buckets.order import Buckets
from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.keywords import Lexicon
from maxsearch.data.layout import check_batch
from maxsearch.data.negatives import MinedSource, Negatives
from maxsearch.data.sources import CatalogueSource, ExampleSource
from maxsearch.data.stream import Stream, make_stream
from maxsearch.data.tables.remote import is_url
from maxsearch.data.tfds_source import TfdsSource
from maxsearch.data.tokens.encoder import table_for
from maxsearch.distributed import from_leader
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.mesh import make_mesh, spec_size
from maxsearch.models.pretrained.architecture import settle_sources
from maxsearch.training.bucketing import text_encoders
from maxsearch.training.checkpoint import has_checkpoint
from maxsearch.training.mixing import open_mixture
from maxsearch.training.origin import config_of, with_tokenizer
from maxsearch.training.run_folder import (
    read_config,
    require_run_folder,
)
from maxsearch.training.stages import StagePlan, check_stages, optimizer_of
from maxsearch.training.state import TrainState, abstract_state


def open_source(data: str, config: Config) -> tuple[ExampleSource, Config]:
    """The source of examples, and the config with what the data decide filled in.

    Args:
      data: a folder that `maxsearch prepare` wrote, or `tfds:NAME[:SPLIT]`.
      config: the run's config.

    Raises:
      MaxsearchError: the data cannot be read.
    """
    if data.startswith("tfds:"):
        if config.data.fraction < 1:
            raise UsageError(f"--data.fraction cuts prepared data only: leave it out with --data {data}")
        if config.data.negatives:
            raise UsageError(f"--data.negatives are mined of prepared data only: leave it out with --data {data}")
        source = TfdsSource(data, config.data.image_key, config.data.text_key, seed=config.seed)
        edge = config.data.image_edge or 2 * max(config.model.image.size)
        return source, replace(config, data=replace(config.data, image_edge=edge))
    if is_url(data):
        raise UsageError(
            f"--data {data} is a URL, and training reads disks: mount the bucket, or copy the dataset here"
        )
    dataset = PreparedDataset.open(Path(data))
    if not len(dataset.interactions):
        raise MaxsearchError(f"--data {data} holds no interactions to learn from: prepare it with --interactions")
    edge = dataset.manifest["image_edge"]
    if config.data.image_edge not in (0, edge):
        raise UsageError(
            f"--data.image-edge is {config.data.image_edge} and {data} was prepared with {edge}: leave the flag out"
        )
    if config.model.keywords and dataset.keywords is None:
        raise UsageError(
            f"--model.keywords is {config.model.keywords} and {data} was prepared without keywords: prepare it again, "
            "with --keywords above 0"
        )
    config = replace(config, data=replace(config.data, image_edge=edge))
    catalogue = CatalogueSource(dataset, config.data.weight_power, config.seed, config.data.fraction)
    if not config.data.negatives:
        return catalogue, config
    negatives = Negatives.open(Path(config.data.negatives), dataset)
    return MinedSource(catalogue, negatives, config.data.negatives_share, config.seed), config


def open_stream(
    source: ExampleSource,
    tokenizer: Any,
    config: Config,
    lexicon: Lexicon | None = None,
    buckets: Buckets | None = None,
) -> Stream:
    """This process's part of the training stream; `lexicon` and `buckets` are the run's."""
    return make_stream(
        source,
        *text_encoders(tokenizer, config),
        config.model.image.size,
        StreamOptions(
            batch_size=config.data.batch_size,
            seed=config.seed,
            num_workers=config.data.workers,
            num_threads=config.data.threads,
            prefetch=config.data.prefetch,
            augment=config.data.augment,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            cache_images=config.data.cache_images_mb * 2**20,
            images=config.model.images,
            texts=config.model.texts,
            words=config.uses("mlm_query", "mlm_title"),
            max_bad_fraction=config.data.max_bad_fraction,
        ),
        lexicon=lexicon,
        buckets=buckets,
        tokens=table_for(source, tokenizer),
    )


def check(
    config: Config, data: str | Sequence[str], run: Path, minutes: float | None, init_from: Path | None
) -> tuple[ExampleSource, Config, Mesh, TrainState]:
    """Opens the data and checks that they, the config and the devices fit one another; arguments as for `train`.

    Returns:
      the source, the config with what the data decide filled in, the mesh, and the state's shapes.
    """
    source, config = open_mixture((data,) if isinstance(data, str) else data, config, open_source)
    config = with_sources(config, run, init_from)
    if init_from is not None:
        config = with_tokenizer(config, init_from)
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, spec_size(mesh, "batch"), config.train.microbatches)
    if minutes is None:
        StagePlan.of(config.stages).check(config.train.steps)
    with jax.set_mesh(mesh):
        abstract = abstract_state(config, optimizer_of(config, 0))
        check_stages(config, abstract.params)
    return source, config, mesh, abstract


def rehearse(
    config: Config,
    data: str | Sequence[str],
    run: Path,
    *,
    minutes: float | None = None,
    init_from: Path | None = None,
) -> str:
    """What `train` would do with these arguments, in a line; it writes nothing.

    It raises what `train` would, but does not compare the settings with those of a run that is continued.
    """
    source, config, mesh, abstract = check(config, data, run, minutes, init_from)
    from_leader(lambda: require_run_folder(run))
    parameters = sum(x.size for x in jax.tree.leaves(abstract.params))
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    budget = f"{config.train.steps:,} steps" if minutes is None else f"{minutes:g} minutes"
    devices = "1 device" if mesh.size == 1 else f"{mesh.size} devices"
    place = f"{run} is continued" if has_checkpoint(run) else f"{run} is new"
    return (
        f"would train {config.name}: {parameters:,} parameters on {devices} ({axes}), {budget} of "
        f"{config.data.batch_size:,} of {len(source):,} examples; {place}"
    )


def with_sources(config: Config, run: Path, init_from: Path | None) -> Config:
    """The config with the architecture of pretrained towers, which the run that goes on, or began it, knows already."""
    if not any(tower.pretrained for tower in (config.model.query, config.model.title, config.model.image)):
        return settle_sources(config)
    if has_checkpoint(run):
        return settle_sources(config, read_config(run))
    return settle_sources(config, config_of(init_from) if init_from is not None else None)
