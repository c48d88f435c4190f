"""The largest batch that fits, by trying."""

from collections.abc import Callable
from dataclasses import replace

from maxsearch.config import Config
from maxsearch.planning.plan import Plan

DOUBLINGS = 12


def with_batch(config: Config, size: int) -> Config:
    """The config with another global batch."""
    return replace(config, data=replace(config.data, batch_size=size))


def largest_batch(
    config: Config, smallest: int, plan: Callable[[Config], Plan], tell: Callable[[Plan], None]
) -> Plan | None:
    """The plan of the largest batch that fits: doubled or halved from the config's, then between the last two.

    Args:
      config: its batch size is where the search begins.
      smallest: every batch size must be a multiple of it.
      plan: makes one; each costs a compilation.
      tell: is shown every plan on the way.

    Returns:
      The plan; None when not even `smallest` fits.
    """

    def tried(size: int) -> Plan:
        made = plan(with_batch(config, size))
        tell(made)
        return made

    size = max(config.data.batch_size // smallest, 1) * smallest
    best, failed = None, 0
    for _ in range(DOUBLINGS):
        made = tried(size)
        if made.fits:
            best = made
            if failed:
                break
            size *= 2
        else:
            failed = size
            if best or size == smallest:
                break
            size = max(size // 2 // smallest, 1) * smallest
    if best is None or not failed:
        return best
    fits = best.config.data.batch_size
    # One more halving of the gap: closer than a quarter is no figure to plan by.
    between = (fits + failed) // 2 // smallest * smallest
    if between > fits:
        made = tried(between)
        best = made if made.fits else best
    return best
