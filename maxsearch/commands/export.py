"""The sub-command `export`: its flags, and the call that it is. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from maxsearch.commands.flags import Mapping, OptionalInt, OptionalPath, columns_of
from maxsearch.errors import UsageError


@dataclass(frozen=True)
class Export:
    """Write a run's averaged parameters as plain files and StableHLO programs, and check that they give its vectors.

    With `--verify MODEL` in place of `--run` and `--out`, an exported model is checked again.
    """

    run_folder: Annotated[Path | None, arg(name="run", metavar="PATH")] = None
    """The run."""
    out: OptionalPath = None
    """The model folder to write; an older model there is replaced as a whole."""
    hub: OptionalPath = None
    """A folder for the pretrained towers in the layout of transformers and sentence-transformers; --out may be left
    out."""
    step: OptionalInt = None
    """Which checkpoint; the latest by default."""
    weights: Literal["float32", "bfloat16", "int8"] = "float32"
    """How matrices are stored; rounded ones make a model of its own, and what they cost is printed."""
    verify: OptionalPath = None
    """An exported model whose checksums and vectors are checked again."""
    products: OptionalPath = None
    """With --queries and --qrels: a catalogue on which nDCG@10 is measured before and after the export."""
    queries: OptionalPath = None
    """Test queries, as for evaluate."""
    qrels: OptionalPath = None
    """Judgments, as for evaluate."""
    map: Mapping = ()
    """Names of columns that differ from the field's: --map title=title_sparse."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""

    def run(self) -> None:
        from maxsearch.encode import Encoder
        from maxsearch.exporting.export import export, verify

        judged = (self.products, self.queries, self.qrels)
        if any(judged) != all(judged):
            raise UsageError("--products, --queries and --qrels go together: give all three, or none")
        if self.verify is not None:
            if self.run_folder is not None or self.out is not None or self.hub is not None or any(judged):
                raise UsageError("--verify checks an exported model alone: leave --run, --out and the test files out")
            manifest = verify(self.verify, reload=Encoder.from_model)
            print(f"{self.verify}: {said(manifest)}; its files are whole, and model and programs give its vectors")
            return
        if self.run_folder is None or (self.out is None and self.hub is None):
            raise UsageError("give the run with --run and the folder to write with --out, or a model with --verify")
        if self.out is None and any(judged):
            raise UsageError("--products, --queries and --qrels compare the model at --out with the run: give --out")
        encoder = Encoder.from_run(self.run_folder, self.step)
        if self.hub is not None:
            from maxsearch.exporting.hub import export_hub

            towers = export_hub(encoder, self.hub)
            print(f"{self.hub}: {', '.join(towers)} in the Hub's layout")
        if self.out is None:
            return
        from maxsearch.exporting.programs import write_programs

        manifest = export(
            encoder,
            self.out,
            reload=Encoder.from_model,
            write_programs=write_programs,
            step=encoder.step,
            weights=self.weights,
        )
        print(f"{self.out}: {said(manifest)}")
        for name, what in (("q", "queries"), ("p", "products")) if "cosine" in manifest else ():
            mean, least = (manifest["cosine"][name][key] for key in ("mean", "min"))
            print(f"  cosine with the run's vectors, probe {what}: mean {mean:.6f}, least {least:.6f}")
        if self.products is not None:
            before, after = (self.ndcg(model) for model in (encoder, Encoder.from_model(self.out)))
            print(f"  nDCG@10 before {before:.4f}, after {after:.4f} ({after - before:+.4f})")

    def ndcg(self, encoder: Any) -> float:
        """The mean nDCG@10 of a model."""
        from maxsearch.evaluation.evaluate import evaluate
        from maxsearch.evaluation.options import EvaluateOptions
        from maxsearch.progress import Progress

        assert self.products is not None and self.queries is not None and self.qrels is not None
        options = EvaluateOptions(
            products=self.products,
            queries=self.queries,
            qrels=self.qrels,
            columns=columns_of(self.map),
            image_dir=self.image_dir,
            parts=False,
            baselines=(),
        )
        found = evaluate(options, encoder, Progress()).rows[0].metrics["ndcg@10"]
        assert found is not None
        return found.mean


def said(manifest: dict[str, Any]) -> str:
    """An exported model in a few words."""
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return (
        f"model {manifest['fingerprint'][:12]} of step {manifest['step']}, {manifest['weights']} weights, "
        f"{size / 1e6:.1f} MB"
    )
