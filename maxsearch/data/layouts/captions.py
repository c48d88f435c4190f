"""Pictures with captions: COCO captions and Flickr30k. A caption is a query, and its picture the product.

A product has no title; its identifier is the picture's file name without what follows the last dot. Every caption
weighs 1. In the judgments each caption is a query of its own, of grade 1 for its picture, so the usual recall at 1, 5
and 10 of text to image is that of `maxsearch evaluate`.

COCO, https://cocodataset.org: annotations/captions_train2017.json and captions_val2017.json ("images" with id and
file_name, "annotations" with image_id, id and caption), or those of 2014 with `--source-options year=2014`; the
pictures in train2017/ and val2017/, or in these below images/. The test pictures have no public captions.

Karpathy's splits (https://cs.stanford.edu/people/karpathy/deepimagesent) are one JSON file for each: "images" with
filename, split (train, restval, val or test), for COCO also filepath, and "sentences" with raw and sentid. COCO's,
dataset_coco.json, is read with `--source-options splits=karpathy`; its restval belongs to the split train. Its pictures
are those of 2014.

Flickr30k: dataset_flickr30k.json of the same form; without it results_20130124.token, whose lines are a picture with
the number of its caption, a tab, and the caption, and which has no splits: choose "all". The pictures lie in
flickr30k-images/, flickr30k_images/ or images/.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from maxsearch.data.layouts.layout import ALL, Download, Judged, Layout, RowsTable, find_file, find_optional
from maxsearch.data.tables.files import TableFile
from maxsearch.data.tables.formats import Rows, TextLines
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.files import read_json

CAPTIONS = "captions file"
KARPATHY_PARTS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
FLICKR_IMAGES = ("flickr30k-images", "flickr30k_images", "images")

Pictures = Iterable[tuple[str, list[tuple[str, str]]]]
"""Each picture's path below the image folder, with the identifiers and texts of its captions."""


def open_coco(folder: Path, split: str, options: Mapping[str, str]) -> Download:
    """A split of COCO captions.

    Raises:
      UsageError: a file is missing, or the split has no public captions.
    """
    karpathy = options["splits"] == "karpathy"
    where = (".", "annotations")
    if karpathy:
        path = find_file(folder, ["dataset_coco.json"], where)
        return _download(path, partial(_karpathy, path, split), _image_folder(folder, [".", "images"], "train2014"))
    if split == "test":
        raise UsageError("COCO's test pictures have no public captions: choose another --split, or splits=karpathy")
    name = f"{split}{options['year']}"
    path = find_file(folder, [f"captions_{name}.json"], where)
    return _download(path, partial(_coco, path), _image_folder(folder, [name, f"images/{name}"]))


def open_flickr30k(folder: Path, split: str, options: Mapping[str, str]) -> Download:
    """A split of Flickr30k.

    Raises:
      UsageError: a file is missing, or the split needs dataset_flickr30k.json.
    """
    images = _image_folder(folder, FLICKR_IMAGES)
    path = find_optional(folder, ["dataset_flickr30k.json"])
    if path is not None:
        return _download(path, partial(_karpathy, path, split), images)
    path = find_file(folder, ["dataset_flickr30k.json", "results_20130124.token"])
    if split != ALL:
        raise UsageError(
            f"--split {split} of Flickr30k is told by dataset_flickr30k.json, which --path {folder} lacks: "
            f"put it there, or choose --split {ALL}"
        )
    return _download(path, partial(_token_lines, path), images)


COCO = Layout(("train", "val", "test"), open_coco, {"year": ("2017", "2014"), "splits": ("official", "karpathy")})
FLICKR30K = Layout(("train", "val", "test", ALL), open_flickr30k)


def _download(path: Path, pictures: Callable[[], Pictures], image_dir: Path) -> Download:
    table = TableFile(path)
    return Download(
        products=RowsTable(table, ("product_id", "image"), partial(_products, pictures)),
        interactions=RowsTable(table, ("query", "product_id"), partial(_interactions, pictures)),
        image_dir=image_dir,
        judgments=partial(_judgments, pictures),
    )


def _image_folder(folder: Path, names: Iterable[str], inner: str = "") -> Path:
    """The first of these sub-folders that is there, and holds `inner`."""
    for name in names:
        if (folder / name / inner).is_dir():
            return folder / name
    raise UsageError(
        f"--path {folder} has no folder {' or '.join(f'{name}/{inner}'.strip('./') for name in names)} of pictures: "
        "unpack them there"
    )


def _product_id(picture: str) -> str:
    return PurePosixPath(picture).stem


def _products(pictures: Callable[[], Pictures]) -> Rows:
    for row, (picture, _) in enumerate(pictures(), start=1):
        yield row, {"product_id": _product_id(picture), "image": picture}


def _interactions(pictures: Callable[[], Pictures]) -> Rows:
    captions = ((picture, text) for picture, said in pictures() for _, text in said)
    for row, (picture, text) in enumerate(captions, start=1):
        yield row, {"query": text, "product_id": _product_id(picture)}


def _judgments(pictures: Callable[[], Pictures]) -> Iterator[Judged]:
    for picture, said in pictures():
        for number, text in said:
            yield number, text, _product_id(picture), 1


def _coco(path: Path) -> Pictures:
    content = read_json(path, what=CAPTIONS, remedy="unpack the download again")
    try:
        said: dict[int, list[tuple[str, str]]] = {image["id"]: [] for image in content["images"]}
        for caption in content["annotations"]:
            said[caption["image_id"]].append((str(caption["id"]), caption["caption"]))
        found = [(image["file_name"], said[image["id"]]) for image in content["images"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise _other_form(path, "images and annotations as COCO's captions have them", error) from None
    return found


def _karpathy(path: Path, split: str) -> Pictures:
    content = read_json(path, what=CAPTIONS, remedy="unpack the download again")
    parts = KARPATHY_PARTS.get(split)
    found = []
    try:
        for image in content["images"]:
            if parts is None or image["split"] in parts:
                name = f"{image['filepath']}/{image['filename']}" if "filepath" in image else image["filename"]
                found.append((name, [(str(said["sentid"]), said["raw"]) for said in image["sentences"]]))
    except (KeyError, TypeError, AttributeError) as error:
        raise _other_form(path, "images as Karpathy's splits have them", error) from None
    return found


def _token_lines(path: Path) -> Pictures:
    said: dict[str, list[tuple[str, str]]] = {}
    with TextLines(path, CAPTIONS) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            key, tab, text = line.rstrip("\r\n").partition("\t")
            picture, mark, _ = key.rpartition("#")
            if not (tab and mark and picture):
                raise MaxsearchError(
                    f"line {number} of the {CAPTIONS} {path} is not PICTURE#NUMBER, a tab and a caption: "
                    "give the file as it was published"
                )
            said.setdefault(picture, []).append((key, text))
    return said.items()


def _other_form(path: Path, form: str, error: Exception) -> MaxsearchError:
    return MaxsearchError(
        f"the {CAPTIONS} {path} has no {form} ({type(error).__name__}: {json.dumps(str(error))}): "
        "give the file as it was published"
    )
