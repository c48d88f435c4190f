"""Beam's own options, as a user gives them to `maxsearch prepare`. Importable without Apache Beam."""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from maxsearch.data.tables.formats import first_line
from maxsearch.data.tables.read import suggestion
from maxsearch.errors import UsageError

LOCAL = ("direct", "switchingdirect", "fnapi")


def settings_of(flags: Sequence[str]) -> tuple[Any, Any]:
    """Beam's options and runner.

    The local runner is Beam's in-process one: its successor, Prism, would be fetched from the network.

    Args:
      flags: options, each "NAME=VALUE" or "NAME".

    Raises:
      UsageError: Beam is not installed, or an option is unknown or has a wrong value.
    """
    try:
        with _no_warnings():
            from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
            from apache_beam.runners.portability.fn_api_runner import FnApiRunner
            from apache_beam.runners.runner import create_runner
    except ImportError:
        raise UsageError(
            "--runner beam needs Apache Beam, which is not installed: pip install 'maxsearch[beam]'"
        ) from None
    with _no_warnings():
        known = PipelineOptions([]).get_all_options()
        try:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                settings = PipelineOptions([f"--{flag}" for flag in flags])
                given = settings.get_all_options(retain_unknown_options=True)
        except SystemExit:
            raise UsageError(
                f"--beam-options {' '.join(flags)} is refused by Beam ({said.getvalue().strip().splitlines()[-1]})"
            ) from None
    name = settings.view_as(StandardOptions).runner
    if name is None or name.lower().removesuffix("runner") in LOCAL:
        for key in given:  # a job server has options of its own; here all are known
            if key not in known:
                raise UsageError(f"--beam-options {key} is no option of Beam: {suggestion(key, known)}")
        direct = settings.view_as(DirectOptions)
        if given["direct_num_workers"] != 1 and given["direct_running_mode"] == "in_memory":
            direct.direct_running_mode = "multi_processing"  # in memory there is one worker whatever their number
        return settings, FnApiRunner()
    try:
        return settings, create_runner(name)
    except (ImportError, ValueError, AttributeError, RuntimeError) as error:
        raise UsageError(f"--beam-options runner={name} cannot be used ({first_line(error)})") from None


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Keeps Beam quiet about parts of it that are not installed, and options of other classes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
