"""Presets: what stands in configs/ and its folders, and users' own files, each with get_config() -> Config."""

import difflib
import importlib.util
from pathlib import Path
from typing import Any

from maxsearch.config import Config
from maxsearch.errors import UsageError


def configs_folder() -> Path:
    """Where the configs that come with maxsearch stand."""
    installed = Path(__file__).parent / "configs"  # a wheel carries configs/ inside the package
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


def preset_names() -> list[str]:
    """Names of the presets that come with maxsearch, such as `fashion` and `methods/make`."""
    folder = configs_folder()
    paths = [*folder.glob("*.py"), *folder.glob("methods/*.py"), *folder.glob("pretrained/*.py")]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in paths if path.name[0] != "_")


def load_preset(name: str) -> Config:
    """Loads a preset by name, or a Python file that defines get_config() -> Config.

    Raises:
      UsageError: no such preset or file, or it returns no Config.
    """
    path = Path(name) if name.endswith(".py") else configs_folder() / f"{name}.py"
    if not path.is_file():
        names = preset_names()
        # Whoever types `make` means methods/make.
        spoken = {known.rpartition("/")[2]: known for known in names} | {known: known for known in names}
        close = difflib.get_close_matches(name, spoken, n=1)
        hint = (
            f"did you mean {spoken[close[0]]!r}?" if close else f"choose one of {', '.join(names)}, or give a .py file"
        )
        raise UsageError(f"no preset {name!r}: {hint}")
    config = call_in_file(path, "get_config", what="preset")
    if not isinstance(config, Config):
        raise UsageError(f"preset {path} must define get_config() that returns a maxsearch.config.Config")
    return config


def call_in_file(path: Path, function: str, *, what: str) -> Any:
    """What a function of a Python file returns; None when the file defines no such function.

    Args:
      path: the file, which is run.
      function: the function's name.
      what: the file's role in a word, for the message ("preset").

    Raises:
      UsageError: the file or the function fails.
    """
    spec = importlib.util.spec_from_file_location(f"maxsearch_{what}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        called = getattr(module, function, None)
        return called() if callable(called) else None
    except UsageError:
        raise
    except Exception as error:  # the file is the user's own program
        raise UsageError(f"{what} {path} cannot be loaded: {error}") from None
