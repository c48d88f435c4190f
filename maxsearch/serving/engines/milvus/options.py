"""Where Milvus is."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MilvusOptions:
    """Which Milvus answers.

    Attributes:
      uri: http://HOST:19530 of a server, or the path of a Milvus-Lite database, which ends in .db; a token is read from
        MILVUS_TOKEN.
      alias: names the generation that is served, as `maxsearch index push --alias` does.
      consistency: what a search sees: Session this service's own writes, Strong those of all (slower), Bounded and
        Eventually less.
      timeout: seconds after which Milvus counts as out of reach.
    """

    uri: str = ""
    alias: str = "maxsearch"
    consistency: Literal["Session", "Strong", "Bounded", "Eventually"] = "Session"
    timeout: float = 10.0
