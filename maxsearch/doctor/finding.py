"""One finding of the doctor."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    ADVICE = "advice"  # works, and something would be better
    PROBLEM = "problem"  # something that we do will fail


@dataclass(frozen=True)
class Finding:
    """What was looked at and found, in a line each.

    Attributes:
      check: what was looked at.
      level: how much it matters.
      found: what was found.
      remedy: what to do; empty where nothing is to be done.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing is to be done."""
    return Finding(check, Level.OK, found)


def advice(check: str, found: str, remedy: str) -> Finding:
    """Works, and something would be better."""
    return Finding(check, Level.ADVICE, found, remedy)


def problem(check: str, found: str, remedy: str) -> Finding:
    """Something that we do will fail."""
    return Finding(check, Level.PROBLEM, found, remedy)
