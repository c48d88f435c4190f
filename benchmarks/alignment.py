"""The aligner's stages with and without each, on a trained run: which words do pictures get?

python benchmarks/alignment.py --run RUN --data DATA --products products.dev.parquet --attributes colour article_type

RUN is of any preset; its encoders stay as they are (with --joint they learn in stage C, at a tenth of the rate). A is
the unsupervised start, B its refinement, C the training on products' own titles and pictures; a variant without A
starts from a random map, and B without A refines that. Prints one JSON line with the figures of `maxsearch words` per
variant.
--alignments of a synthetic catalogue adds the pointing game and knows its synonyms.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxsearch.config import Config, LossConfig, ParamGroup
from maxsearch.data.keywords import token_rows
from maxsearch.data.synthetic import VOCABULARY
from maxsearch.encode import Encoder
from maxsearch.explain.pointing import read_alignments
from maxsearch.explain.words import picture_words
from maxsearch.mesh import make_mesh, put_batch
from maxsearch.serving.catalogue import catalogue
from maxsearch.training.alignment import aligned_params, collected, directions, refined
from maxsearch.training.opening import open_source, open_stream
from maxsearch.training.stages import optimizer_of, with_params
from maxsearch.training.state import init_params, init_state, model_graph
from maxsearch.training.step import make_step

VARIANTS = ("none", "A", "A+B", "C", "A+C", "B+C", "A+B+C")
OWN = ("aligner", "heads")
FROZEN = ParamGroup(".*", lr=None)


def with_aligner(config: Config, arguments: argparse.Namespace) -> Config:
    """The run's config with the aligner's losses alone."""
    off = dict.fromkeys(config.loss.weights, 0.0)
    keep = {"query_image": 0.5, "query_title": 0.5, "title_image": 0.5} if arguments.joint else {}
    weights = off | keep | {"align_bag": 1.0, "align_structure": arguments.structure}
    align = replace(config.loss.align, matching=arguments.matching)
    rest = (
        (ParamGroup("^image_encoder/", lr=0.1), ParamGroup("_project/|^title|^query", lr=0.1))
        if arguments.joint
        else ()
    )
    groups = (ParamGroup("^aligner/", weight_decay=0.0), *rest, FROZEN)
    return replace(
        config,
        model=replace(config.model, keywords=config.model.keywords or arguments.keywords),
        loss=replace(LossConfig(), **weights, align=align),
        optim=replace(config.optim, learning_rate=arguments.learning_rate, warmup_steps=20, groups=groups),
        data=replace(config.data, batch_size=arguments.batch_size),
        train=replace(config.train, steps=arguments.steps),
        stages=(),
    )


def started(variant: str, params: Any, graph: Any, config: Config, stream: Any, seed: int) -> Any:
    """The parameters after the variant's A and B."""
    mesh = jax.sharding.get_mesh()
    batches = (put_batch(batch, mesh) for batch in stream)
    if "A" in variant:
        return aligned_params(params, graph, batches, "refined" if "B" in variant else "unsupervised", seed)
    if "B" in variant:
        patches, words = (directions(x) for x in collected(params, graph, batches, seed))
        width = patches.shape[1], words.shape[1]
        first = np.linalg.qr(np.random.default_rng(seed).normal(size=(max(width), min(width))))[0]
        kernel = refined(first if first.shape == width else first.T, patches, words).astype(np.float32)
        project = {**params["aligner"]["project"], "kernel": kernel}
        return {**params, "aligner": {**params["aligner"], "project": project}}
    return params


def trained(params: Any, config: Config, words: Any, stream: Any) -> Any:
    """The parameters after stage C."""
    mesh = jax.sharding.get_mesh()
    state = with_params(init_state(config, optimizer_of(config, 0)), params)
    step = make_step(config, optimizer_of(config, 0), words)
    for _ in range(config.train.steps):
        batch = put_batch(next(stream), mesh)
        state, _ = step(state, batch, jnp.float32(config.train.steps), jnp.int32(0))
    return state.ema


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--products", type=Path, required=True)
    parser.add_argument("--attributes", nargs="+", required=True)
    parser.add_argument("--alignments", type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--keywords", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--structure", type=float, default=1.0)
    parser.add_argument("--matching", choices=("max", "sinkhorn"), default="max")
    parser.add_argument("--joint", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    before = Encoder.from_run(arguments.run)
    source, config = open_source(arguments.data, replace(with_aligner(before.config, arguments), seed=arguments.seed))
    lexicon = before.lexicon or source.lexicon
    if lexicon is None:
        raise SystemExit(f"{arguments.data} has no keywords: prepare it with --keywords above 0")
    lexicon = lexicon.top(config.model.keywords)
    words = token_rows(lexicon, before.tokenizer, config.model.keywords)
    alignments = read_alignments(arguments.alignments) if arguments.alignments else None
    synonyms = {value: said for values in VOCABULARY.values() for value, said in values.items()} if alignments else {}
    results = {}
    with jax.set_mesh(make_mesh(config.mesh)):
        fresh = init_params(config, jax.random.key(arguments.seed))
        # Heads and aligner are this config's own: the run may have others.
        known = {name: value for name, value in before.params.items() if name in fresh and name not in OWN}
        begin = jax.tree.map(np.asarray, {**fresh, **known})
        graph = model_graph(config, words)
        for variant in arguments.variants:
            clock = time.monotonic()
            with open_stream(source, before.tokenizer, config, lexicon) as stream:
                params = started(variant, begin, graph, config, stream, arguments.seed)
                if "C" in variant:
                    params = trained(params, config, words, stream)
            encoder = Encoder(config, params, before.tokenizer, None, lexicon)
            products = catalogue(
                products=arguments.products,
                data=None,
                columns={},
                image_dir=None,
                edge=config.data.image_edge,
                max_bad_fraction=0.01,
            )
            report = picture_words(encoder, products, arguments.attributes, alignments=alignments, synonyms=synonyms)
            results[variant] = {name: report[name] for name in ("attributes", "together", "pointing")}
            print(f"{variant}: {time.monotonic() - clock:.0f} s", file=sys.stderr, flush=True)
    options = {name: str(value) for name, value in vars(arguments).items()}
    print(json.dumps({"benchmark": "alignment", **options, "variants": results}))


if __name__ == "__main__":
    main()
