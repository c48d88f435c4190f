"""Packages that a baseline needs and that maxsearch runs without."""

import importlib
from typing import Any

from maxsearch.errors import MaxsearchError


def optional_module(name: str, distribution: str, spec: str) -> Any:
    """Imports a package.

    Args:
      name: of the module.
      distribution: what pip calls it.
      spec: the baseline that needs it, for the message.

    Raises:
      MaxsearchError: it is not installed, or does not import here.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        why = "which is not installed" if missing else f"which does not import ({error})"
        raise MaxsearchError(
            f"--baseline {spec} needs the package {distribution}, {why}: pip install 'maxsearch[baselines]'"
        ) from None
