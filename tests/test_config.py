import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxsearch.config import Config, ParamGroup, Stage
from maxsearch.errors import UsageError
from maxsearch.presets import configs_folder, load_preset, preset_names

BASE = Config()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_under_its_name_and_survives_json(name: str) -> None:
    config = load_preset(name)
    assert config.name == name
    written = json.dumps(config.to_json())
    assert Config.from_json(json.loads(written), where="x") == config


def test_presets_are_found_in_both_folders() -> None:
    names = preset_names()
    assert {name for name in names if "/" not in name} == {
        "base", "fashion", "fashion_small", "giant", "large", "quickstart",
    }  # fmt: skip
    methods = {"clip", "make", "aligncmss", "beyond_text", "lightclip", "irra", "m3el", "esspr"}
    assert {name for name in names if name.startswith("methods/")} >= {f"methods/{name}" for name in methods}


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("methods/")])
def test_a_method_says_its_source_its_command_its_cost_and_its_result(name: str) -> None:
    words = ast.get_docstring(ast.parse((configs_folder() / f"{name}.py").read_text())) or ""
    assert f"maxsearch train {name} --data DATA --run RUN" in words
    assert all(word in words for word in ("Cost: ", "Result"))
    if name != "methods/best":
        assert "(arXiv " in words
        assert "\nours: " in words


def test_a_stage_warms_up_for_its_share() -> None:
    config = replace(
        BASE,
        optim=replace(BASE.optim, warmup_steps=90),
        stages=(Stage("a", 1, learning_rate=0.5), Stage("b", 2, groups=(ParamGroup("x", None),))),
    )
    first, second = config.stage(0).optim, config.stage(1).optim
    assert (first.warmup_steps, first.learning_rate, first.groups) == (30, 0.5, BASE.optim.groups)
    assert (second.warmup_steps, second.learning_rate) == (60, BASE.optim.learning_rate)
    assert second.groups == (ParamGroup("x", None), *BASE.optim.groups)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    rate=st.floats(1e-9, 1e9),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    groups=st.lists(st.sampled_from([ParamGroup("bias", None), ParamGroup(".*", 0.5, 0.0)]), max_size=3),
    kind=st.sampled_from(["softmax", "sigmoid"]),
)
def test_json_gives_back_an_equal_config(
    seed: int, rate: float, size: tuple[int, int], groups: list[ParamGroup], kind: str
) -> None:
    config = replace(
        BASE,
        seed=seed,
        model=replace(BASE.model, image=replace(BASE.model.image, size=(8 * size[0], 8 * size[1]))),
        optim=replace(BASE.optim, learning_rate=rate, groups=tuple(groups)),
        loss=replace(BASE.loss, kind=kind),
    )
    assert Config.from_json(json.loads(json.dumps(config.to_json())), where="x") == config
    assert Config.from_json(config.to_json(), where="x").fingerprint() == config.fingerprint()


def test_fingerprint_tells_configs_apart() -> None:
    others = [replace(BASE, seed=1), replace(BASE, name="x"), replace(BASE, optim=replace(BASE.optim, b1=0.8)), BASE]
    assert len({config.fingerprint() for config in others}) == 4


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"sed": 1}, 'x.json does not fit this version of maxsearch: can not match "sed" to any data class field'),
        ({"model": {"image": {"size": "big"}}}, 'wrong value type for field "model.image.size"'),
        ({"loss": {"kind": "hinge"}}, 'wrong value type for field "loss.kind"'),
        ({"seed": 1.5}, 'wrong value type for field "seed"'),
        ({"data": {"batch_size": 1}}, "data.batch_size must be at least 2"),
    ],
)
def test_json_that_does_not_fit_is_told(value: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        Config.from_json(value, where="x.json")


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("optim", {"learning_rate": float("nan")}, "optim.learning_rate must be above 0, not nan"),
        ("optim", {"ema_decay": 1.0}, "optim.ema_decay must lie in [0, 1), not 1.0"),
        ("optim", {"groups": (ParamGroup("a"),), "clip_norm": 0.0}, "optim.clip_norm must be above 0, not 0.0"),
        ("train", {"steps": 0}, "train.steps must be at least 1, not 0"),
        ("train", {"checkpoint_every": -1}, "train.checkpoint_every must be at least 1, not -1"),
        ("data", {"workers": -1}, "data.workers must not be negative, not -1"),
        ("loss", {"query_product": 0.0, "query_title": 0.0, "query_image": 0.0}, "one weight must be above 0"),
        ("loss", {"scale": 101.0}, "loss.scale must lie in (0, max_scale], not 101.0"),
        ("mesh", {"fsdp": -1}, "mesh: only one of replica, fsdp and tensor may be -1"),
        ("mesh", {"fsdp": 0}, "mesh: axis sizes must be positive or -1"),
        ("model", {"vocab_size": 63}, "model.vocab_size must be at least 64, not 63"),
    ],
)
def test_values_that_make_no_sense_are_refused(section: str, values: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        replace(getattr(BASE, section), **values)


@pytest.mark.parametrize(
    ("tower", "field", "value"),
    [("image", "patch", 0), ("title", "heads", 0), ("fusion", "width", -4), ("query", "depth", -1), ("", "dim", 0)],
)
def test_sizes_below_their_least_are_refused(tower: str, field: str, value: int) -> None:
    section = getattr(BASE.model, tower) if tower else BASE.model
    with pytest.raises(UsageError, match=field):
        replace(section, **{field: value})


def test_a_pattern_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(UsageError, match=re.escape("optim.groups: '(' is not a regular expression (missing )")):
        ParamGroup("(")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fashon", "no preset 'fashon': did you mean 'fashion'?"),
        ("mkae", "no preset 'mkae': did you mean 'methods/make'?"),
        ("make", "no preset 'make': did you mean 'methods/make'?"),
        ("method/clip", "no preset 'method/clip': did you mean 'methods/clip'?"),
        ("zzz", f"no preset 'zzz': choose one of {', '.join(preset_names())}, or give a .py file"),
        ("absent.py", f"no preset 'absent.py': choose one of {', '.join(preset_names())}, or give a .py file"),
    ],
)
def test_unknown_presets_are_told_with_the_right_one(name: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        load_preset(name)
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def get_config(:", "cannot be loaded: invalid syntax"),
        ("import nothing_of_this_name", "cannot be loaded: No module named 'nothing_of_this_name'"),
        ("x = 1", "must define get_config() that returns a maxsearch.config.Config"),
        ("def get_config(): return 1", "must define get_config() that returns a maxsearch.config.Config"),
        ("def get_config(): return 1 / 0", "cannot be loaded: division by zero"),
        ("raise ValueError('boo')", "cannot be loaded: boo"),
        (
            "from maxsearch.config import Config\ndef get_config(): return Config(dat=3)",
            "got an unexpected keyword argument 'dat'",
        ),
        (
            "from maxsearch.config import DataConfig\ndef get_config(): return DataConfig(batch_size=1)",
            "data.batch_size must be at least 2",
        ),
    ],
)
def test_a_broken_preset_file_is_told(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UsageError, match=re.escape(told)):
        load_preset(str(tmp_path / "mine.py"))


def test_a_preset_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from maxsearch.config import Config\ndef get_config(): return Config(seed=7)\n")
    assert load_preset(str(tmp_path / "mine.py")) == Config(seed=7)
