"""Prepared products screened by a trained model: whose picture shows something else than the title and category say.

The mathematics, and whose idea each part is, stands in prototypes.py.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from maxsearch.data.catalogue import PRODUCTS_FILE, product_columns
from maxsearch.data.dataset import Records, Shard
from maxsearch.data.prototypes import agreement, clusters, judge
from maxsearch.data.records import Product, pack_product, unpack_product
from maxsearch.data.shards import write_shards
from maxsearch.data.tables.parts import TableSource
from maxsearch.data.tables.read import Columns, columns_until, several, suggestion
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.progress import Progress

SUSPECTS = "suspects.jsonl"
FEWEST_PRODUCTS = 10
LEAST_AGREEMENT = 0.05

OnMismatch = Literal["report", "mask", "relabel"]


@runtime_checkable
class Encoded(Protocol):
    """A batch of products' title and image vectors."""

    @property
    def t(self) -> Float32[np.ndarray, "n E"]:
        """Title vectors."""
        ...

    @property
    def v(self) -> Float32[np.ndarray, "n E"]:
        """Image vectors."""
        ...


@runtime_checkable
class ProductEncoder(Protocol):
    """A trained model that embeds titles and pictures into one space."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model."""
        ...

    def encode_products(self, products: Iterable[Product]) -> Iterable[Encoded]:
        """Batches of vectors, in the products' order."""
        ...


@dataclass(frozen=True)
class Suspect:
    """A product whose picture gives its own category less than an even share, 1/C.

    Attributes:
      position: of the product in the dataset's product records.
      category: its own category.
      score: the share of its own category, 0 to 1.
      best: the category with the largest share.
      best_score: that share.
      fault: what is wrong: the picture, or the category, where title and picture agree on another.
      action: "reported", "masked" or "relabelled".
    """

    position: int
    category: str
    score: float
    best: str
    best_score: float
    fault: Literal["picture", "category"]
    action: Literal["reported", "masked", "relabelled"]


@dataclass(frozen=True)
class Screening:
    """How to screen.

    Attributes:
      encoder: the model that judges.
      by: the attribute column that holds the categories; clusters of titles when None.
      on_mismatch: what becomes of a suspect. "report" changes nothing. "mask" leaves out the pictures where the picture
        is at fault: the product goes on with its title alone. "relabel" does so too, and replaces the value of `by`
        where the category is at fault; a title is never rewritten.
    """

    encoder: ProductEncoder
    by: str | None = None
    on_mismatch: OnMismatch = "report"

    def check(self, path: TableSource, columns: Columns) -> None:
        """Meets what cannot be screened before any record is read.

        Args:
          path: the products file.
          columns: {field: column} of the user's mapping.

        Raises:
          UsageError: `by` is no attribute column of the file, or is needed and absent.
        """
        if self.by is None:
            if self.on_mismatch == "relabel":
                raise UsageError(
                    "--on-mismatch relabel replaces a category: name the column that holds it with --screen-by, "
                    "or choose report or mask"
                )
            return
        found = product_columns(path, columns)
        taken = {column for name in found for column in several(found, name)}
        free = [name for name in columns_until(path, [self.by], what=PRODUCTS_FILE) if name not in taken]
        if self.by not in free:
            raise UsageError(
                f"--screen-by {self.by} names no attribute column of the {PRODUCTS_FILE} {path}: "
                f"{suggestion(self.by, free)}"
            )

    def apply(
        self, folder: Path, part: dict[str, Any], rows: Sequence[int], shard_records: int, progress: Progress | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Screens the product shards of a folder, writes suspects.jsonl beside them, and rewrites them if asked.

        Two passes over the shards, one to embed and one to write; memory holds vectors, never all pictures.

        Args:
          folder: where the shards lie.
          part: the manifest's account of them, as `write_shards` gave it.
          rows: the row of each product in the products file.
          shard_records: records in one shard.
          progress: where to report.

        Returns:
          `part`, anew where shards were rewritten, and the manifest's account of the screening.

        Raises:
          MaxsearchError: too few products or categories can be compared, or the model tells no pictures apart.
        """
        shards = [Shard(str(folder / shard["name"]), shard["records"]) for shard in part["shards"]]
        records = Records(shards, unpack_product)
        judged, names, title, image = self._embed(records, progress)
        if self.by is None:
            category, nearest = clusters(title)
            labels = [records[int(judged[i])].title for i in nearest]
        else:
            labels, category = _numbered(names, self.by)
        verdicts = judge(title, image, category, len(labels))
        if self.by is None:  # clusters are made of the titles: they cannot contradict them
            verdicts = replace(verdicts, mislabelled=np.zeros_like(verdicts.mislabelled))
        order = np.argsort(verdicts.own, kind="stable")
        suspects = [
            Suspect(
                position=int(judged[i]),
                category=labels[category[i]],
                score=float(verdicts.own[i]),
                best=labels[verdicts.best[i]],
                best_score=float(verdicts.best_share[i]),
                fault="category" if verdicts.mislabelled[i] else "picture",
                action=self._action(bool(verdicts.mislabelled[i])),
            )
            for i in order[verdicts.mismatch[order]]
        ]
        _write_report(folder / SUSPECTS, suspects, records, rows)
        changes = {suspect.position: suspect for suspect in suspects if suspect.action != "reported"}
        if changes:
            part = write_shards(folder, "products", self._changed(records, changes), shard_records)
        actions = [suspect.action for suspect in suspects]
        return part, {
            "model": self.encoder.fingerprint,
            "by": self.by,
            "on_mismatch": self.on_mismatch,
            "categories": len(labels),
            "judged": len(judged),
            "suspects": len(suspects),
            "masked": actions.count("masked"),
            "relabelled": actions.count("relabelled"),
            "file": SUSPECTS,
        }

    def _embed(
        self, records: Records[Product], progress: Progress | None
    ) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
        """Position, category, title vector and image vector of every product that has all that is compared."""
        judged: list[int] = []
        names: list[str] = []

        def comparable() -> Iterator[Product]:
            products: Iterable[Product] = records
            if progress is not None:
                products = progress.track(records, "Screening products", len(records))
            for position, product in enumerate(products):
                name = product.attributes.get(self.by, "") if self.by is not None else ""
                if product.title and product.images and (name or self.by is None):
                    judged.append(position)
                    names.append(name)
                    yield product

        title = image = np.empty((0, 0), np.float32)
        done = 0
        for batch in self.encoder.encode_products(comparable()):
            if not done:
                title, image = np.empty((2, len(records), batch.t.shape[1]), np.float32)
            title[done : done + len(batch.t)], image[done : done + len(batch.v)] = batch.t, batch.v
            done += len(batch.t)
        if done < FEWEST_PRODUCTS:
            needed = "a title and a picture" if self.by is None else f"a title, a picture and a value of {self.by}"
            raise MaxsearchError(
                f"only {done} of the {len(records):,} products have {needed}, and screening needs {FEWEST_PRODUCTS} "
                f"or more: leave out --screen{'' if self.by is None else ', or name another --screen-by'}"
            )
        title, image = title[:done], image[:done]
        if not (np.isfinite(title).all() and np.isfinite(image).all()):
            raise MaxsearchError(
                f"the model {self.encoder.fingerprint[:12]} gives vectors that are not numbers: screen with another one"
            )
        agrees = agreement(title, image)
        if agrees < LEAST_AGREEMENT:
            raise MaxsearchError(
                f"the model {self.encoder.fingerprint[:12]} cannot tell which picture fits a title (agreement "
                f"{agrees:.3f}, needed {LEAST_AGREEMENT:g}): screen with a model whose losses train picture vectors, "
                "or train it longer"
            )
        return np.array(judged), names, title, image

    def _action(self, mislabelled: bool) -> Literal["reported", "masked", "relabelled"]:
        if mislabelled:
            return "relabelled" if self.on_mismatch == "relabel" else "reported"
        return "reported" if self.on_mismatch == "report" else "masked"

    def _changed(self, records: Records[Product], changes: Mapping[int, Suspect]) -> Iterator[bytes]:
        for position, product in enumerate(records):
            suspect = changes.get(position)
            if suspect is not None and suspect.action == "masked":
                product = replace(product, images=())
            elif suspect is not None and self.by is not None:
                product = replace(product, attributes={**product.attributes, self.by: suspect.best})
            yield pack_product(product)


def findings(folder: Path, summary: Mapping[str, Any], count: int = 5) -> list[str]:
    """The screening of a prepared folder in a few lines: the counts, and the suspects that fit least."""
    by = f"values of {summary['by']}" if summary["by"] is not None else "clusters of titles"
    lines = [
        f"  screened {summary['judged']:,} products against {summary['categories']:,} {by}: {summary['suspects']:,} "
        f"suspects, {summary['masked']:,} masked, {summary['relabelled']:,} relabelled (see {folder / SUSPECTS})"
    ]
    with (folder / SUSPECTS).open(encoding="utf-8") as stream:
        for line in islice(stream, count):
            suspect = json.loads(line)
            lines.append(
                f"    row {suspect['row']} {suspect['product_id']} ({suspect['title'][:60]}): "
                f"{suspect['category'][:40]} {suspect['score']:.4f}, "
                f"looks like {suspect['best'][:40]} {suspect['best_score']:.2f}"
            )
    return lines


def _numbered(names: Sequence[str], by: str) -> tuple[list[str], np.ndarray]:
    """The distinct categories, sorted, and each product's number among them."""
    labels, category = np.unique(np.array(names), return_inverse=True)
    if len(labels) < 2:
        raise MaxsearchError(
            f"all products have the same {by} ({labels[0]}), and at least 2 categories are needed: "
            "name another --screen-by or leave it out"
        )
    return labels.tolist(), category


def _write_report(path: Path, suspects: Sequence[Suspect], records: Records[Product], rows: Sequence[int]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for suspect in suspects:
            product = records[suspect.position]
            line = {
                "row": rows[suspect.position],
                "product_id": product.product_id,
                "title": product.title,
                "category": suspect.category,
                "score": round(suspect.score, 6),
                "best": suspect.best,
                "best_score": round(suspect.best_score, 6),
                "fault": suspect.fault,
                "action": suspect.action,
            }
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
