"""Bad records met while training: counted by reason, the first one named, and a limit on their share.

A bad record is masked and never skipped, so that every host and worker goes on to the same next example.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from maxsearch.errors import MaxsearchError

UNDECODABLE, UNREADABLE = REASONS = ("undecodable_images", "unreadable_records")
FEWEST_EXAMPLES = 10_000  # the limit is a share of at least so many, or the first bad record would end a young run

# How faults travel with a batch from a worker: int32 [reasons], and the first one in words.
COUNTS, EXAMPLE = "fault_counts", "fault_example"


@dataclass
class Faults:
    """Faults by reason, and the first one in words.

    Attributes:
      counts: by reason.
      example: what is wrong with the first, and where it lies; empty without any.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    example: str = ""

    def add(self, reason: str, example: str) -> None:
        """Counts one."""
        self.counts[reason] += 1
        self.example = self.example or example

    def arrays(self) -> dict[str, np.ndarray]:
        """As arrays of a batch."""
        return {COUNTS: np.array([*self.counts.values()], np.int32), EXAMPLE: np.array(self.example)}

    def take(self, batch: dict[str, np.ndarray]) -> None:
        """Takes those of a batch off it, and counts them too."""
        for reason, count in zip(REASONS, batch.pop(COUNTS).tolist(), strict=True):
            self.counts[reason] += count
        example = str(batch.pop(EXAMPLE))
        self.example = self.example or example

    def check(self, examples: int, limit: float | int) -> None:
        """Ends training when there are too many.

        Args:
          examples: drawn so far.
          limit: the largest share of them, of the first 10,000 at least.

        Raises:
          MaxsearchError: there are more.
        """
        if sum(self.counts.values()) > limit * max(examples, FEWEST_EXAMPLES):
            raise MaxsearchError(
                f"{told(self.counts)} among {examples:,} examples are more than --data.max-bad-fraction {limit:g} "
                f"allows; the first: {self.example}; restore or prepare the data again, or raise the flag"
            )


def told(counts: Mapping[str, int]) -> str:
    """Counts by reason, in words."""
    return " and ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
