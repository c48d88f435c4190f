"""Sources that cannot be used are told in a sentence, before anything is trained; resized positions are PyTorch's."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from maxsearch.config import Config, ImageConfig, ModelConfig, OptimConfig, TextConfig, layer_groups
from maxsearch.errors import MaxsearchError
from maxsearch.models.pretrained.architecture import settle_sources
from maxsearch.models.pretrained.load import load_towers
from maxsearch.models.pretrained.resize import resized_grid
from maxsearch.models.pretrained.source import find_source
from maxsearch.models.pretrained.transforms import TO_THEIRS, to_ours, to_theirs
from maxsearch.presets import load_preset
from maxsearch.training.optim import group_of
from tests import tiny
from tests.test_pretrained_parity import GOLDEN, minilm


def copied(tmp_path: Path, family: str, **changes: object) -> Path:
    """A copy of a golden source with other values in its config."""
    folder = shutil.copytree(GOLDEN / family, tmp_path / family)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def text(source: object, **fields: object) -> Config:
    return Config(model=ModelConfig(query=TextConfig(pretrained=str(source), **fields)))  # type: ignore[arg-type]


def image(source: object, **fields: object) -> Config:
    return Config(model=ModelConfig(image=ImageConfig(pretrained=str(source), **fields)))  # type: ignore[arg-type]


def pickled(tmp_path: Path) -> Config:
    folder = copied(tmp_path, "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return text(folder)


def emptied(tmp_path: Path) -> Config:
    return text(tmp_path)


def cut(tmp_path: Path) -> Config:
    folder = copied(tmp_path, "bert")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    return text(folder)


def unconfigured(tmp_path: Path) -> Config:
    folder = copied(tmp_path, "bert")
    (folder / "config.json").unlink()
    return text(folder)


def two_sources(tmp_path: Path) -> Config:
    query, title = (TextConfig(pretrained=str(GOLDEN / name)) for name in ("bert", "mpnet"))
    return Config(model=ModelConfig(query=query, title=title))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (pickled, "holds its weights only as pytorch_model.bin, a pickle: loading a pickle runs whatever program it"),
        (emptied, "holds no model.safetensors, model.safetensors.index.json or open_clip_model.safetensors"),
        (cut, "is no readable safetensors file"),
        (unconfigured, "holds no config.json, which says what the weights are"),
        (two_sources, "and both share one tokenizer: give them the same source, or leave one out"),
        (lambda tmp: text("not a name!"), "is neither a folder, a .safetensors file nor the name of a Hub model"),
        (lambda tmp: text(GOLDEN / "vit"), "is of model_type vit, which has no text tower that is read: choose one of"),
        (lambda tmp: image(GOLDEN / "bert"), "is of model_type bert, which has no image tower that is read"),
        (lambda tmp: image(GOLDEN / "clip", size=(64, 60)), "cuts patches of 8 x 8 pixels, which do not divide"),
        (lambda tmp: text(GOLDEN / "bert", keep_layers=3), "has 2 layers, so keep_layers cannot be 3"),
        (lambda tmp: text(copied(tmp, "bert", hidden_act="mish")), "has the activation mish, and only gelu,"),
        (lambda tmp: text(copied(tmp, "bert", model_type="zebra")), "config.json cannot be used ("),
        (
            lambda tmp: image(copied(tmp, "siglip", model_type="siglip2")),
            "flexible resolution (NaFlex), which is not read",
        ),
        (lambda tmp: text(GOLDEN / "minilm.json"), "is no .safetensors file"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, make: Callable[[Path], Config], told: str) -> None:
    with pytest.raises(MaxsearchError) as error:
        settle_sources(make(tmp_path))
    assert told in str(error.value), error.value
    assert "\n" not in str(error.value)


def test_the_hub_is_not_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MaxsearchError) as error:
        find_source("nobody/no-such-model")
    assert "nobody/no-such-model is no folder here, and the Hub model of this name is neither in the cache" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda a: a.pop("bert.encoder.layer.1.output.dense.bias"),
            "holds no array bert.encoder.layer.1.output.dense.bias",
        ),
        (
            lambda a: a.update({"bert.embeddings.LayerNorm.bias": np.zeros(7, np.float16)}),
            "the array for query_encoder/embedded/bias has the shape (7,) and the model (16,)",
        ),
        (
            lambda a: a.update({"bert.encoder.layer.0.output.dense.weight": np.zeros((16, 24), np.int8)}),
            "holds int8, not floating-point numbers: take the unquantised model",
        ),
    ],
)
def test_an_array_that_does_not_fit_is_told(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], object], told: str
) -> None:
    folder = copied(tmp_path, "bert")
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(MaxsearchError) as error:
        load_towers(settle_sources(text(folder)), shapes())
    assert told in str(error.value), error.value


def shapes() -> dict[str, tuple[int, ...]]:
    """Of the query tower that begins with the golden BERT, as far as these tests need them."""
    arrays = load_file(GOLDEN / "bert" / "model.safetensors")
    named = {"embedded/scale": (16,), "embedded/bias": (16,), "layers/layer_0/down": (24, 16)}
    named |= {
        "layers/layer_1/down_add/bias": (16,),
        "position": arrays["bert.embeddings.position_embeddings.weight"].shape,
    }
    return {f"query_encoder/{name}": shape for name, shape in named.items()} | {"query_project/kernel": (16, 8)}


def test_weights_in_several_files_and_old_names_read_the_same(tmp_path: Path) -> None:
    folder = copied(tmp_path, "bert")
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): name
        for name in arrays
    }
    place = {}
    for part in (0, 1):
        name = f"model-{part}.safetensors"
        names = sorted(old)[part::2]
        save_file({each: arrays[old[each]] for each in names}, folder / name)
        place |= dict.fromkeys(names, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    found, _ = load_towers(settle_sources(text(folder)), shapes())
    expected, _ = load_towers(settle_sources(text(GOLDEN / "bert")), shapes())
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("kind", sorted(TO_THEIRS))
def test_every_transform_goes_back(kind: str) -> None:
    given = {
        "qkv": [(6, 6)] * 3, "qkv_bias": [(6,)] * 3, "fused": [(18, 6)], "fused_bias": [(18,)], "out": [(6, 6)],
        "stem": [(6, 3, 4, 4)], "first": [(1, 1, 6)], "places": [(1, 5, 6)], "linear": [(4, 6)], "same": [(4, 6)],
    }[kind]  # fmt: skip
    arrays = [np.random.default_rng(number).normal(size=shape) for number, shape in enumerate(given)]
    back = to_theirs(kind, to_ours(kind, arrays, heads=2), patch=4)  # type: ignore[arg-type]
    for one, other in zip(arrays, back, strict=True):
        np.testing.assert_array_equal(one, other)


def test_positions_that_are_not_square_are_told() -> None:
    with pytest.raises(MaxsearchError, match="has 5 positions, no square grid, which cannot be resized"):
        resized_grid(np.zeros((6, 2), np.float32), (2, 2), 1, "x")


def test_layers_learn_the_slower_the_lower_they_lie() -> None:
    groups = (*layer_groups("query_encoder", 3, 0.5, lr=0.8), *OptimConfig().groups)
    rates = {
        "query_encoder/layers/layer_2/qkv": 0.8, "query_encoder/layers/layer_0/mlp_norm/bias": 0.2,
        "query_encoder/embedding": 0.1, "query_encoder/embedded/scale": 0.1, "title_encoder/embedding": 1.0,
    }  # fmt: skip
    for name, rate in rates.items():
        assert group_of(name, groups).lr == pytest.approx(rate), name
    assert group_of("query_encoder/layers/layer_1/qkv_add/bias", groups).weight_decay == 0
    frozen = layer_groups("query_encoder", 3, 0.5, frozen=2)
    assert [group_of(f"query_encoder/layers/layer_{n}/up", frozen).lr for n in range(3)] == [None, None, 1.0]
    assert group_of("query_encoder/types", frozen).lr is None


def test_the_command_line_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = tiny.fails(capsys, *tiny.train_words(tmp_path / "run"), "--model.image.pretrained", tmp_path)
    assert (code, "holds no model.safetensors" in said) == (2, True), said
    assert not (tmp_path / "run").exists()
    code, said = tiny.fails(capsys, *tiny.train_words(tmp_path / "run"), "--model.query.pool", "source")
    assert (code, "pool source is that of a pretrained tower" in said) == (2, True), said


def test_a_known_architecture_needs_no_source(tmp_path: Path) -> None:
    folder = copied(tmp_path, "bert")
    config = settle_sources(text(folder))
    shutil.rmtree(folder)
    fresh = replace(
        config, model=replace(config.model, vocab_size=8192, query=replace(config.model.query, source=None))
    )
    assert settle_sources(fresh, config) == config
    assert Config.from_json(config.to_json(), where="x") == config


@pytest.mark.parametrize("name", ["minilm", "lit", "layerwise"])
def test_a_preset_can_be_planned_without_its_source(name: str) -> None:
    preset = load_preset(f"pretrained/{name}")
    assert settle_sources(preset, preset) == preset


def test_a_preset_has_the_architecture_of_the_real_minilm() -> None:
    """As far as the package has it, which calls the model by another name."""
    preset = load_preset("pretrained/minilm")
    query = replace(preset.model.query, pretrained=str(minilm()), source=None)
    config = settle_sources(replace(preset, model=replace(preset.model, query=query, title=query)))
    assert config.model.vocab_size == preset.model.vocab_size
    assert config.model.query.source is not None and preset.model.query.source is not None
    assert replace(config.model.query.source, name="") == replace(preset.model.query.source, name="")
    sizes = [(text.width, text.depth, text.heads) for text in (config.model.query, preset.model.query)]
    assert sizes[0] == sizes[1]


def test_a_tower_alone_has_no_projection(tmp_path: Path) -> None:
    folder = copied(tmp_path, "clip")
    arrays = load_file(folder / "model.safetensors")
    save_file({name: x for name, x in arrays.items() if "projection" not in name}, folder / "model.safetensors")
    sources = [settle_sources(text(place)).model.query.source for place in (folder, GOLDEN / "clip")]
    assert [source and source.projection for source in sources] == [0, 8]
