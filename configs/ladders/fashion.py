"""What each method adds on a real fashion catalogue: eleven rungs of equal steps on a small form of the fashion preset.

maxsearch ablate fashion --data DATA --products products.dev.parquet --queries queries.dev.csv --qrels qrels.dev.tsv \
    --out OUT

once per title column: DATA is prepared with --map title=COLUMN, and the command takes the same --map.

Cost: about 25 minutes per seed and column on one core. Result: docs/results.md
"""

from dataclasses import replace

from maxsearch.ablation.ladder import Rung
from maxsearch.config import Config, Stage
from maxsearch.presets import load_preset

# Every other term is 0 in the runs of one modality.
NOTHING = {"query_product": 0.0, "query_title": 0.0, "query_image": 0.0}

ALIGNER = {"align_structure": 0.1, "align_bag": 0.2}
KEYWORDS = {"keywords": 0.1, "keywords_image": 0.2}
MASKED = {"mlm_title": 0.1, "mpm": 0.1}
HARD = {"matching": 0.1, "ranking": 0.2}


def get_ladder() -> list[Rung]:
    """From one modality to everything at once, then everything with one thing changed."""
    plain = load_preset("fashion_small")
    concatenated = with_fusion(plain, "concat")
    adapted = with_fusion(plain, "modal_adaptation")
    aligned = with_visual_words(with_weights(adapted, ALIGNER))
    enhanced = with_weights(aligned, KEYWORDS)
    enhanced = replace(enhanced, loss=replace(enhanced.loss, keyword_mask=True))
    masked = with_weights(enhanced, MASKED)
    full = with_weights(masked, HARD)
    last = "+ hard negatives"
    return [
        Rung("text only", with_weights(plain, {**NOTHING, "query_title": 1.0}), part="title"),
        Rung("image only", with_weights(plain, {**NOTHING, "query_image": 1.0}), part="image", against=""),
        Rung("concatenation", concatenated, against="text only"),
        Rung("modal adaptation", adapted),
        Rung("+ aligner", aligned),
        Rung("+ keyword enhancement", enhanced),
        Rung("+ masked losses", masked),
        Rung(last, full),
        Rung("two stages", in_two_stages(full), against=last),
        Rung("random visual words", with_random_words(full), against=last),
        Rung("50 % of the training data", replace(full, data=replace(full.data, fraction=0.5)), against=last),
    ]


def with_weights(config: Config, weights: dict[str, float]) -> Config:
    """The config with other weights for the named terms."""
    return replace(config, loss=config.loss.with_weights(weights))


def with_fusion(config: Config, kind: str) -> Config:
    """The config with another fusion tower."""
    return replace(config, model=replace(config.model, fusion=replace(config.model.fusion, kind=kind)))


def with_visual_words(config: Config) -> Config:
    """The config whose fusion tower reads each picture's eight best words, out of the 1,024 most frequent keywords."""
    align = replace(config.model.align, visual_words=8)
    return replace(config, model=replace(config.model, keywords=1024, align=align))


def with_random_words(config: Config) -> Config:
    """The config whose visual words are drawn at random: as many tokens, that say nothing of the picture."""
    align = replace(config.model.align, source="random")
    return replace(config, model=replace(config.model, align=align))


def in_two_stages(config: Config) -> Config:
    """The config that trains the encoders in two fifths of its steps and the product vector after it (Beyond Text)."""
    first = {"query_product": 0.0, "matching": 0.0, "query_title": 1.0, "query_image": 1.0, "title_image": 1.0}
    return replace(
        config,
        stages=(
            Stage("adapt", steps=2, weights=first),
            Stage("fuse", steps=3, weights={"title_image": 0.1}),
        ),
    )
