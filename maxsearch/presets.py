"""Presets: configs/*.py and users' own files, each with get_config() -> Config."""

import difflib
import importlib.util
from pathlib import Path

from maxsearch.config import Config
from maxsearch.errors import UsageError


def _preset_folder() -> Path:
    installed = Path(__file__).parent / "configs"  # a wheel carries configs/ inside the package
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


def preset_names() -> list[str]:
    """Names of the presets that come with maxsearch."""
    return sorted(path.stem for path in _preset_folder().glob("*.py") if not path.name.startswith("_"))


def load_preset(name: str) -> Config:
    """Loads a preset by name, or a Python file that defines get_config() -> Config.

    Raises:
      UsageError: no such preset or file, or it returns no Config.
    """
    path = Path(name) if name.endswith(".py") else _preset_folder() / f"{name}.py"
    if not path.is_file():
        close = difflib.get_close_matches(name, preset_names(), n=1)
        hint = (
            f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(preset_names())}, or give a .py file"
        )
        raise UsageError(f"no preset {name!r}: {hint}")
    spec = importlib.util.spec_from_file_location(f"maxsearch_preset_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        config = get_config() if callable(get_config) else None
    except UsageError:
        raise
    except Exception as error:  # the file is the user's own program
        raise UsageError(f"preset {path} cannot be loaded: {error}") from None
    if not isinstance(config, Config):
        raise UsageError(f"preset {path} must define get_config() that returns a maxsearch.config.Config")
    return config
