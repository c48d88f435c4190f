"""The reference that the documentation writes from the code: nothing that a user can give is missing."""

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from maxsearch.cli import COMMANDS
from maxsearch.config import Config
from maxsearch.presets import preset_names


@pytest.fixture(scope="module")
def reference() -> Any:
    path = Path(__file__).parent.parent / "docs" / "_ext" / "generated_reference.py"
    spec = importlib.util.spec_from_file_location("generated_reference", path)
    assert spec is not None and spec.loader is not None
    pytest.importorskip("sphinx", reason="needs the extra `docs`")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_has_its_flags(reference: Any) -> None:
    text = reference.commands()
    sections = dict(re.findall(r"^#{2,3} maxsearch (.+?)\n(.*?)(?=^#{2,3} |\Z)", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() >= COMMANDS.keys()
    assert {"index build", "index rollback", "data stats", "data verify"} <= sections.keys()
    wanted = {
        "train": ("`PRESET`", "`--data`", "`--run`", "`--minutes`"),
        "search": ("`QUERY`", "`-k`, `--k`", "`--json`"),
        "index build": ("`--model`", "`--store`", "`--lexical`, `--no-lexical`"),
        "serve": ("`--port` `INT`\n: Port; 0 lets the system choose. Default: `8080`.", "`--limits.rate`"),
    }
    for name, flags in wanted.items():
        assert all(flag in sections[name] for flag in flags), name
    assert "--model.dim" not in sections["train"]  # the config has a page of its own
    assert "**Required.**" in sections["evaluate"]


def test_every_value_of_the_config_has_its_row(reference: Any) -> None:
    text = reference.settings()

    def leaves(kind: type, path: str) -> list[str]:
        found = []
        for name, hint in get_type_hints(kind).items():
            found += leaves(hint, f"{path}{name}.") if dataclasses.is_dataclass(hint) else [path + name]
        return found

    flags = {
        f"| `--{name.replace('_', '-')}` |"
        for name in leaves(Config, "")
        if name not in ("optim.groups", "stages") and not re.fullmatch(r"model\.\w+\.source", name)
    } | {"| `--model.align.source` |"}
    assert len(flags) > 100
    assert [flag for flag in flags if flag not in text] == []
    assert "| `--model.dim` | `int` | `128` |" in text
    assert "--model.query.source" not in text  # what a pretrained tower's source was read as is no flag
    # One entry of a docstring may speak of several fields.
    assert all(f"| `--loss.{name}` | `float` | `0.0` | eSSPR's hinge unit. |" in text for name in ("ppm", "pdc", "plc"))
    columns = {row.replace("\\|", "").count("|") for row in text.splitlines() if row.startswith("| `")}
    assert columns <= {4, 5}


def test_every_preset_is_told(reference: Any) -> None:
    text = reference.presets()
    assert all(f"## {name}\n" in text for name in preset_names())
    assert "train.steps = 800" in text
