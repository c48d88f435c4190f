"""Public datasets that `maxsearch prepare --source NAME --path FOLDER` reads from a user's own download."""

from collections.abc import Sequence
from pathlib import Path

from maxsearch.data.layouts import captions, esci, esspr, marqo_gs, wands
from maxsearch.data.layouts.layout import Download, Layout
from maxsearch.data.tables.read import suggestion
from maxsearch.errors import UsageError

LAYOUTS: dict[str, Layout] = {
    "esci": esci.ESCI,
    "sqid": esci.SQID,
    "wands": wands.LAYOUT,
    "marqo-gs": marqo_gs.LAYOUT,
    "esspr": esspr.LAYOUT,
    "coco": captions.COCO,
    "flickr30k": captions.FLICKR30K,
}


def open_layout(name: str, folder: Path, split: str, options: Sequence[str] = ()) -> Download:
    """A split of a download.

    Args:
      name: one of LAYOUTS.
      folder: where the user unpacked it.
      split: one of the layout's splits.
      options: "KEY=VALUE" for each of the layout's options that differs from its default.

    Raises:
      UsageError: one of these is unknown, or a file or column is missing.
    """
    if name not in LAYOUTS:
        raise UsageError(f"--source {name} is no known dataset: {suggestion(name, LAYOUTS)}")
    layout = LAYOUTS[name]
    if not folder.is_dir():
        raise UsageError(f"--path {folder} is not a folder: name the folder of the unpacked download")
    if split not in layout.splits:
        raise UsageError(f"--split {split} is none of {name}'s: {suggestion(split, layout.splits)}")
    chosen = {key: values[0] for key, values in layout.options.items()}
    for option in options:
        key, mark, value = option.partition("=")
        if not mark:
            raise UsageError(f"--source-options {option!r} is not of the form KEY=VALUE: write for example locale=us")
        if not chosen:
            raise UsageError(f"--source-options {option!r}: {name} has no options, so leave it out")
        if key not in chosen:
            raise UsageError(f"--source-options {option!r} is no option of {name}: {suggestion(key, chosen)}")
        if value not in layout.options[key]:
            raise UsageError(
                f"--source-options {option!r} has an unknown value: {suggestion(value, layout.options[key])}"
            )
        chosen[key] = value
    return layout.open(folder, split, chosen)
