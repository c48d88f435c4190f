"""The report's page: whole in itself, legible everywhere, and safe from what titles, queries and files hold."""

import re
from pathlib import Path

import pytest

from maxsearch.report.inputs.collect import ReportOptions, collect
from maxsearch.report.page import SECTIONS, render
from maxsearch.report.sections import worst
from tests import report_files as made
from tests import tiny
from tests.browser import DESKTOP, PHONE, shown
from tests.test_datastats_page import EVIL, Page, alone

LONG = "endless " * 1250
ODD = (
    EVIL,
    LONG,
    "x" * 10_000,
    "\u05e9\u05dc\u05d5\u05dd \u202e reversed \u2067",
    "nul \x00 esc \x1b[31m",
    "",
    "\ud800",
)
BROKEN = "() => [...document.images].filter(image => !image.complete || !image.naturalWidth).length"
NARROW, PAPER = (360, 700), (718, 1000)


def everything(folder: Path, **changes: object) -> list[object]:
    """The command with all inputs."""
    catalogue = made.products(folder / "home" / "products.parquet")
    settings = made.evaluation()["settings"] | {"products": str(catalogue), "train": str(tiny.data())}
    full = made.write(folder / "full.json", made.evaluation(settings=settings, **changes))
    sparse = made.write(folder / "sparse.json", made.evaluation(settings=settings))
    made.write(folder / "ladder" / "ablation.json", made.ablation())
    tuning = made.write(folder / "tuning.json", made.tuning())
    words: list[object] = ["report", "--run", made.run(folder / "run"), "--evaluation", full, f"sparse={sparse}"]
    return [*words, "--ablation", folder / "ladder", "--tuning", tuning, "--out", folder / "report.html"]


def test_the_page_holds_all_that_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.quiet(*everything(tmp_path))
    assert re.search(rf"{tmp_path}/report\.html: 0\.\d MB\n$", capsys.readouterr().out)
    page = whole(tmp_path / "report.html")
    assert not page.named("script")
    said = " ".join(data for _, data in page.texts)
    for piece in (
        "7 judged pairs also occur in train.",  # the leak, without the folder
        "95 % interval 0.680 to 0.720; the best other system, BM25: 0.250",
        "+0.150",  # what the image adds
        "+0.130 to +0.170",
        "title says the query: silent",
        "12 queries, few",
        "not in the first 100",
        "at rank 37",
        "grade 2",
        "+ aligner, less plain",
        "odd, seed 0",
        "p = 0.200",
        "loss term query_product",
        "84.0 % of the wall time went into steps that count.",
        "Chosen: leaves 10, with recall@10 0.960 in 0.05 ms.",
        "optim.learning_rate",
        "The run is of a version that did not note on what it ran.",
    ):
        assert piece in said, piece
    assert "/home/someone" not in said and str(tmp_path) not in said
    assert len(page.named("img")) == 2 * 6 * 5, "p0 to p3 are returned and p5 is wanted; p4's picture is broken"
    labels = [one["aria-label"] for one in page.named("svg") if one.get("role") == "img"]
    assert "BM25: 0.250, from 0.230 to 0.270" in labels and "all queries: +0.150" in labels
    assert all(labels), "every chart says what it shows"


def whole(path: Path) -> Page:
    """The page, with every link pointing into it and nothing outside of it named."""
    text = path.read_text(encoding="utf-8")
    links = re.findall(r'<a href="#(\w+)">', text)
    assert links == re.findall(r'<section id="(\w+)">', text) and len(links) == len(SECTIONS)
    inner = path.with_name("inner.html")
    inner.write_text(re.sub(r"</?a[^>]*>", "", text).replace("url(#hatch)", "").replace("url(&#x27;", ""), "utf-8")
    page = Page(inner)
    alone(page)
    return page


@pytest.mark.parametrize(
    ("size", "media"), [(DESKTOP, "screen"), (PHONE, "screen"), (NARROW, "screen"), (PAPER, "print")]
)
def test_it_is_legible_everywhere(tmp_path: Path, size: tuple[int, int], media: str) -> None:
    worst_queries = made.evaluation()["worst"]
    for query, odd in zip(worst_queries, ODD, strict=False):
        query["query"], query["returned"][0]["title"], query["wanted"][0]["title"] = odd, odd, odd
    slices = [*made.evaluation()["slices"], made.part(LONG, EVIL, 0.1), made.part(LONG, "x" * 10_000, -0.1)]
    words = everything(tmp_path, worst=worst_queries, slices=slices)
    tiny.quiet(*words)
    with shown(tmp_path / "report.html", size, media=media) as page:
        page.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.page.evaluate(BROKEN) == 0
        assert page.overflow() <= 0
        assert page.errors == []
        assert page.page.evaluate("document.querySelectorAll('img').length") == 60
        small = "[...document.querySelectorAll('svg[viewBox] text')].map(one => one.getBoundingClientRect().height)"
        assert min(page.page.evaluate(small)) >= 9, "axes can be read"


def test_texts_of_the_data_are_only_texts(tmp_path: Path) -> None:
    changed = made.evaluation()
    changed["systems"].append({"name": EVIL, "metrics": {EVIL: made.interval(0.5)}, "missing_queries": 3})
    changed["slices"].append(made.part(EVIL, EVIL, 0.1))
    changed["comparisons"].append(changed["comparisons"][0] | {"system": EVIL, "against": EVIL})
    changed["warnings"] = [{"code": EVIL, "message": EVIL}]
    changed["worst"][0] |= {"query": EVIL, "query_id": EVIL, "metric": EVIL}
    changed["worst"][0]["returned"][0] |= {"product_id": EVIL, "title": EVIL}
    changed["weights"] = {"attribute": EVIL, "rows": [{"value": EVIL, "products": 1, "title": 0.5, "image": 0.5}]}
    changed["settings"] |= {"gain": EVIL, "columns": {EVIL: EVIL}, "queries": EVIL, "k": EVIL}
    ladder = made.ablation(failed={EVIL: EVIL})
    ladder["rungs"][1] |= {"name": EVIL, "against": EVIL}
    tuned = made.tuning(chosen={EVIL: EVIL})
    tuned["settings"][0]["setting"] = {EVIL: EVIL}
    run = made.run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 41, "loss": 1, "loss/<script>": 1, "<script>alert(1)</script>": 2}\n')
    made.write(run / "environment.json", {"processes": [{"python": EVIL, "packages": {EVIL: EVIL}, "from_step": EVIL}]})
    tiny.quiet(
        *("report", "--run", run, "--out", tmp_path / "report.html"),
        *("--evaluation", f"{EVIL[:20]}={made.write(tmp_path / 'a.json', changed)}"),
        *("--ablation", made.write(tmp_path / "ablation.json", ladder)),
        *("--tuning", made.write(tmp_path / "t.json", tuned)),
    )
    page = whole(tmp_path / "report.html")
    assert not page.named("script") and not page.named("img")
    assert EVIL in " ".join(data for _, data in page.texts) or EVIL[:60] in " ".join(data for _, data in page.texts)


def test_a_run_alone_says_which_command_gives_the_rest(tmp_path: Path) -> None:
    run = made.run(tmp_path / "run")
    for name in ("metrics.jsonl", "goodput.jsonl"):
        (run / name).unlink()
    tiny.quiet("report", "--run", run, "--out", tmp_path / "report.html")
    said = " ".join(data for _, data in whole(tmp_path / "report.html").texts)
    for command in ("evaluate --run RUN", "ablate LADDER", "index tune", "train PRESET", "prepare --products"):
        assert f"maxsearch {command}" in said, command
    for flag in ("--evaluation results.json", "--ablation DIR", "--tuning tuning.json", "--data DATA"):
        assert f"maxsearch report ... {flag}" in said, flag


@pytest.mark.parametrize("odd", made.NOT_NUMBERS)
def test_figures_that_are_no_numbers_are_not_drawn(tmp_path: Path, odd: float) -> None:
    changed = made.evaluation(comparisons=[], slices=[made.part("a", "b", odd)], worst=[], weights=None)
    for system in changed["systems"]:
        system["metrics"] = {"ndcg@10": made.interval(odd)}
    run = made.run(tmp_path / "run", steps=2)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(f'{{"step": 3, "loss": {str(odd).replace("inf", "Infinity").replace("nan", "NaN")}}}\n')
    paths = {"a": made.write(tmp_path / "a.json", changed)}
    page = render(collect(ReportOptions(run=run, evaluations=paths)))
    drawn = re.findall(r'(?: x| y|x1|x2|y1|y2|width|height|points)="([^"]*)"', page)
    assert not any(word in value for value in drawn for word in ("nan", "inf"))
    assert "This evaluation has no figures." in page
    assert "left out: loss, weighted sum of all terms 1." in page


def test_an_empty_evaluation_is_no_stumbling_block(tmp_path: Path) -> None:
    empty = made.evaluation(systems=[], comparisons=[], slices=[], warnings=[], worst=[], counts={}, settings={})
    paths = {"a": made.write(tmp_path / "a.json", empty), "b": made.write(tmp_path / "b.json", made.evaluation())}
    ladder = made.write(tmp_path / "ladder.json", made.ablation(rungs=[], failed={}))
    tuned = made.write(tmp_path / "t.json", made.tuning(settings=[], chosen=None))
    run = made.run(tmp_path / "run", steps=1)
    page = render(collect(ReportOptions(run, paths, {"ladder": ladder}, tuned)))
    assert "No rung of this ladder has figures yet." in page and "has no usable measurement" in page


def test_pictures_beyond_the_budget_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worst, "MOST_BYTES", 3000)
    tiny.quiet(*everything(tmp_path))
    page = whole(tmp_path / "report.html")
    shown_here = len(page.named("img"))
    assert 0 < shown_here < 60
    assert f"{60 - shown_here} pictures were left out" in " ".join(page.told("bdi"))


def test_two_reports_are_equal(tmp_path: Path) -> None:
    words = everything(tmp_path)
    tiny.quiet(*words)
    first = (tmp_path / "report.html").read_bytes()
    tiny.quiet(*words)
    assert (tmp_path / "report.html").read_bytes() == first


def test_what_cannot_be_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = made.run(tmp_path / "run"), tmp_path / "report.html"
    old = made.write(tmp_path / "old.json", made.evaluation(schema_version=1))
    cases: list[tuple[list[object], int, str]] = [
        (["--run", tmp_path, "--out", out], 1, f"no run config at {tmp_path}/config.json"),
        (["--run", run, "--out", out, "--evaluation", old], 1, "has schema version 1"),
        (["--run", run, "--out", out, "--evaluation", tmp_path / "none.json"], 1, "no evaluation at"),
        (["--run", run, "--out", out, "--ablation", tmp_path / "none"], 1, "no ablation at"),
        (["--run", run, "--out", out, "--tuning", old], 1, "is no index tuning"),
        (["--run", run, "--out", old, "--evaluation", old], 2, "is a file that the report is made from"),
        (["--run", run, "--out", out, "--card", out], 2, "give each its own file"),
        (["--run", run, "--out", out, "--license", "mit"], 2, "give --card README.md too"),
        (["--run", run, "--out", tmp_path], 2, "is a folder"),
        (["--run", run, "--out", out, "--data", run], 1, "no data manifest"),
    ]
    for words, code, piece in cases:
        assert tiny.fails(capsys, "report", *words)[0] == code, piece
        assert piece in tiny.fails(capsys, "report", *words)[1]
    assert not out.exists()
