import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.judgments import read_qrels, read_queries

QUERIES = {"q1": "red shoe", "q2": "blue hat, for men", "q3": ""}
QRELS = {"q1": {"10": 2, "11": 1}, "q2": {"10": 0}}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_queries_from_csv(tmp_path: Path) -> None:
    file = write(tmp_path / "q.csv", 'query_id,query,seen\nq1,red shoe,1\nq2,"blue  hat, for men",0\nq3,,0\n')
    assert read_queries(file, {}) == QUERIES


def test_queries_from_mapped_tsv(tmp_path: Path) -> None:
    file = write(tmp_path / "q.tsv", "number\tasked\nq1\tred shoe\nq2\tblue hat, for men\nq3\t\n")
    columns = {"query_id": "number", "query": "asked", "weight": "clicks"}
    assert read_queries(file, columns) == QUERIES


def test_queries_from_beir(tmp_path: Path) -> None:
    lines = [json.dumps({"_id": key, "text": text, "metadata": {}}) for key, text in QUERIES.items()]
    assert read_queries(write(tmp_path / "queries.jsonl", "\n".join(lines)), {}) == QUERIES


@pytest.mark.parametrize("name", ["topics.tsv", "topics.txt", "topics"])
def test_queries_from_trec_topics(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, "q1\tred shoe\r\n\nq2\tblue hat, for men\nq3\t\n")
    assert read_queries(file, {}) == QUERIES


def test_topics_keep_quotes(tmp_path: Path) -> None:
    assert read_queries(write(tmp_path / "t.tsv", 'q1\t15" laptop\n'), {}) == {"q1": '15" laptop'}


def test_queries_from_parquet_with_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query_id": [1, 2], "query": ["a b", "c"]}), tmp_path / "q.parquet")
    assert read_queries(tmp_path / "q.parquet", {}) == {"1": "a b", "2": "c"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.tsv", "query_id\tproduct_id\tgrade\nq1\t10\t2\nq1\t11\t1\nq2\t10\t0\n"),
        ("r.csv", "grade,query_id,product_id\n2,q1,10\n1.0,q1,11\n0,q2,10\n0,q2,10\n"),
        ("r.tsv", "query-id\tcorpus-id\tscore\nq1\t10\t2\nq1\t11\t1\nq2\t10\t0\n"),
        ("r.tsv", "q1\t0\t10\t2\nq1\t0\t11\t1\nq2\t0\t10\t0\n"),
        ("r.qrels", "q1 0 10 2\nq1 0  11 1\n\nq2 0 10 0\n"),
    ],
    ids=["tsv", "csv", "beir", "trec-tabs", "trec-spaces"],
)
def test_qrels_formats_agree(tmp_path: Path, name: str, text: str) -> None:
    assert read_qrels(write(tmp_path / name, text), {}) == QRELS


def test_qrels_gzipped(tmp_path: Path) -> None:
    file = tmp_path / "r.txt.gz"
    file.write_bytes(gzip.compress(b"q1 0 10 2\nq1 0 11 1\nq2 0 10 0\n"))
    assert read_qrels(file, {}) == QRELS


def test_product_mapping_that_is_meant_for_another_file_is_ignored(tmp_path: Path) -> None:
    file = write(tmp_path / "r.csv", "query_id,product_id,rel\nq1,10,-1\n")
    assert read_qrels(file, {"product_id": "asin", "grade": "rel"}) == {"q1": {"10": -1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query_id,product_id,grade\nq1,10,good\n", "row 1: the grade 'good' is not a whole number: write 0, 1, 2"),
        ("query_id,product_id,grade\nq1,10,1\nq1,11,1.5\n", "row 2: the grade '1.5' is not a whole number"),
        ("query_id,product_id,grade\nq1,10,\n", "row 1: the grade '' is not a whole number"),
        ("query_id,product_id,grade\nq1,10,101\n", "row 1: the grade 101 is above 100"),
        ("query_id,product_id,grade\nq1,10,1\nq1,10,2\n", "row 2: query q1 and product 10 have two grades, 1 and 2"),
        ("query_id,product_id,grade\nq1,,1\n", "row 1: the judgment names no product"),
        ("query_id,product_id,grade\n,10,1\n", "row 1: the judgment names no query"),
        ("query_id,product_id,grade\n", "holds no judgment"),
    ],
)
def test_bad_qrels(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MaxsearchError) as caught:
        read_qrels(write(tmp_path / "r.csv", text), {})
    assert message in str(caught.value)
    assert str(tmp_path / "r.csv") in str(caught.value)


def test_bad_trec_line(tmp_path: Path) -> None:
    with pytest.raises(MaxsearchError, match=r"r\.qrels, line 2: 3 fields instead of four"):
        read_qrels(write(tmp_path / "r.qrels", "q1 0 10 2\nq1 10 2\n"), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query_id,query\n,red\n", "row 1: the query has no identifier"),
        ("query_id,query\nq1,red\nq1,blue\n", "row 2: query q1 has two texts, 'red' and 'blue'"),
        ("query_id,query\n", "holds no query"),
    ],
)
def test_bad_queries(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MaxsearchError) as caught:
        read_queries(write(tmp_path / "q.csv", text), {})
    assert message in str(caught.value)


def test_missing_column_names_the_flag(tmp_path: Path) -> None:
    file = write(tmp_path / "q.csv", "id,asked\n1,red\n")
    with pytest.raises(UsageError) as caught:
        read_queries(file, {})
    assert "has no column 'query_id': it has id, asked; name the right one with --map query_id=COLUMN" in str(
        caught.value
    )
    with pytest.raises(UsageError, match="column 'qurey', which --map query=qurey names"):
        read_queries(write(tmp_path / "r.csv", "query_id,query\n1,red\n"), {"query": "qurey"})


@pytest.mark.parametrize("name", ["none.csv", "none.tsv", "none.txt"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    for read in (read_queries, read_qrels):
        with pytest.raises(UsageError, match="does not exist"):
            read(tmp_path / name, {})


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(b"q1\tca\xff\xfe\n")
    with pytest.raises(MaxsearchError, match="is not UTF-8 text"):
        read_queries(tmp_path / "q.txt", {})
