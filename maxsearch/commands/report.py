"""The sub-command `report`: its flags, and the calls that they are. The doc strings are the help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from maxsearch.commands.data import check_target
from maxsearch.commands.flags import Mapping, OptionalPath, columns_of
from maxsearch.errors import UsageError


@dataclass(frozen=True)
class Report:
    """Tell a run as one HTML page that needs no network, and as a model card."""

    run_folder: Annotated[Path, arg(name="run", metavar="PATH")]
    """The run."""
    out: Path
    """The HTML file to write."""
    evaluation: Annotated[tuple[str, ...], arg(metavar="[NAME=]FILE ...")] = ()
    """What `evaluate --out` wrote, such as full=a.json sparse=b.json; the card has those of the first one's model."""
    ablation: Annotated[tuple[str, ...], arg(metavar="[NAME=]DIR ...")] = ()
    """Folders of `ablate --out`."""
    tuning: OptionalPath = None
    """What `index tune --out` wrote."""
    products: OptionalPath = None
    """The catalogue whose pictures are shown; by default the one that each evaluation names."""
    map: Mapping = ()
    """Names of its columns that differ from the field's: --map title=title_sparse."""
    image_dir: OptionalPath = None
    """Folder of the pictures when the image column holds paths."""
    data: Annotated[tuple[Path, ...], arg(metavar="DATA ...")] = ()
    """Prepared training data, for the manifest; by default what the run has noted."""
    card: OptionalPath = None
    """Where to write a model card in the Hub's format, such as README.md."""
    license: Annotated[str | None, arg(metavar="ID")] = None
    """The model's licence on the card, such as apache-2.0; left out without."""
    model_name: Annotated[str | None, arg(metavar="NAME")] = None
    """The model's name on the card; by default the run folder's."""
    datasets: Annotated[tuple[str, ...], arg(metavar="ID ...")] = ()
    """Where the training data are on the Hub, for the card; by default the names of their folders."""

    def run(self) -> None:
        from maxsearch.report.card import write_card
        from maxsearch.report.inputs.collect import ReportOptions, collect, named_paths
        from maxsearch.report.page import write_page

        evaluations = named_paths(self.evaluation, "--evaluation")
        ablations = named_paths(self.ablation, "--ablation")
        read = {*evaluations.values(), *ablations.values(), *filter(None, (self.tuning, self.products))}
        targets = [("--out", self.out)] + ([("--card", self.card)] if self.card is not None else [])
        for flag, target in targets:
            check_target(target, flag, self.data)
            if target.resolve() in {path.resolve() for path in read}:
                raise UsageError(f"{flag} {target} is a file that the report is made from: give another name")
        if self.card is not None:
            if self.card.resolve() == self.out.resolve():
                raise UsageError(f"--out and --card both name {self.out}: give each its own file")
        elif self.license or self.model_name or self.datasets:
            raise UsageError("--license, --model-name and --datasets stand on the card: give --card README.md too")
        inputs = collect(
            ReportOptions(
                run=self.run_folder,
                evaluations=evaluations,
                ablations=ablations,
                tuning=self.tuning,
                products=self.products,
                columns=columns_of(self.map),
                image_dir=self.image_dir,
                data=self.data,
            )
        )
        size = write_page(inputs, self.out)
        print(f"{self.out}: {size / 1e6:.1f} MB")
        if self.card is not None:
            write_card(inputs, self.card, name=self.model_name, license_id=self.license, datasets=self.datasets)
            print(f"{self.card}: model card")
