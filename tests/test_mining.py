"""Laws of mining: the nearest passages of all, grades of what is judged, drawn queries that give nothing away."""

import json
import logging

import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer
from typer.testing import CliRunner

import tiny
from attar import cli, evaluate, mine
from attar.data.files import open_table
from attar.data.passages import END, draw_queries, read_passages
from attar.errors import DataError, MissingExtraError, ModelError, OutputError
from attar.model.sentence_modules import Head, write_head

PASSAGES = [f"the {a} {b} film of the {c}" for a in tiny.GOOD for b in tiny.BAD for c in ("story", "cast")]
QUERIES = [f"is the film {a}" for a in (*tiny.GOOD, *tiny.BAD)]


@pytest.fixture(scope="module", params=["cosine", "euclidean"])
def embedder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    tiny.saved(place, head="base")
    write_head(Head(similarity=request.param, max_length=20, prompts={"query": "it "}), {}, 24, place)
    return place


@pytest.fixture
def collection(tmp_path):
    """Queries with ids q0 …, passages with ids d0 …; some judged."""
    for name, texts in (("corpus", PASSAGES), ("queries", QUERIES)):
        rows = [
            {"_id": f"{'dq'[name == 'queries']}{n}", "title": "", "text": text}
            for n, text in enumerate(texts)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path


def test_passages_are_the_nearest_of_all_in_their_order(embedder, collection, tmp_path):
    found = mine(embedder, collection, out=tmp_path / "pairs.csv", k=4)
    library = SentenceTransformer(str(embedder), device="cpu")
    alike = library.similarity(library.encode_query(QUERIES), library.encode_document(PASSAGES)).numpy()
    wanted = [
        {"text": query, "text_pair": PASSAGES[n]}
        for query, row in zip(QUERIES, alike, strict=True)
        for n in np.argsort(-row, kind="stable")[:4]
    ]
    assert found.to_list() == wanted
    assert open_table(tmp_path / "pairs.csv", "utf-8").to_list() == wanted


def test_an_encoder_alone_searches_as_it_is_pooled(collection, tmp_path):
    plain, own = (tiny.saved(tmp_path / name, head="base") for name in ("plain", "own"))
    write_head(Head(pooling=("max",), normalize=True), {}, 24, own)
    asked = mine(plain, collection, out=tmp_path / "a.csv", k=4, pooling="max")
    assert asked.to_list() == mine(own, collection, out=tmp_path / "b.csv", k=4).to_list()


def test_judged_queries_keep_their_grades_and_a_reranker_is_measured_on_them(embedder, collection, tmp_path):
    rows = [f"q{q}\td{d}\t{(d % 3) or 1}" for q in range(6) for d in range(0, len(PASSAGES), 2)]
    (collection / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows) + "\n")
    found = mine(embedder, collection, out=tmp_path / "pairs.jsonl", k=12)
    assert list(dict.fromkeys(found["text"])) == QUERIES[:6]
    number = {text: n for n, text in enumerate(PASSAGES)}
    for row in found:
        d = number[row["text_pair"]]
        assert row["label"] == (0 if d % 2 else (d % 3) or 1)
    assert {0, 1, 2} == set(found["label"])
    tiny.saved(tmp_path / "base", num_labels=1)
    CrossEncoder(str(tmp_path / "base"), device="cpu").save_pretrained(str(tmp_path / "reranker"))
    report = evaluate(tmp_path / "reranker", tmp_path / "pairs.jsonl")
    assert 0 < report.rows[0].metrics["ndcg@10"] < 1


def test_a_query_that_is_a_passage_does_not_find_itself(embedder, collection, tmp_path):
    found = mine(embedder, collection, queries=PASSAGES[:5], out=tmp_path / "pairs.csv", k=99)
    assert len(found) == 5 * (len(PASSAGES) - 1)
    assert all(row["text"] != row["text_pair"] for row in found)


def test_a_folder_of_documents_makes_its_own_queries(embedder, tmp_path, caplog):
    """Sentences of paragraphs, which go without them; the same seed draws the same."""
    place = tmp_path / "documents" / "more"
    place.mkdir(parents=True)
    (place.parent / ".hidden.txt").write_text("never")
    (place.parent / "scan.pdf").write_bytes(b"\0")
    texts = [f"{PASSAGES[n]}.\nIt is {QUERIES[n % 12]}! {PASSAGES[-n]}?" for n in range(1, 30)]
    (place.parent / "a.md").write_text("\n\n".join(texts[:20]))
    (place / "b.txt").write_text("\n\n".join([*texts[20:], texts[0]]))
    passages = read_passages(place.parent)
    assert passages == [" ".join(text.split()) for text in texts]
    with caplog.at_level(logging.INFO, logger="attar"):
        found = mine(embedder, place.parent, out=tmp_path / "pairs.csv", k=40, max_queries=20)
    assert "1 of 3 files" in caplog.text
    assert "no queries: a sentence of each" in caplog.text
    by_query = {}
    for row in found:
        by_query.setdefault(row["text"], []).append(row["text_pair"])
    assert len(by_query) == 20
    for query, (rest, *others) in by_query.items():
        (passage,) = [text for text in passages if {query} | set(END.split(rest)) == set(END.split(text))]
        assert query in END.split(passage)
        assert passage not in (rest, *others)
        assert len(others) == len(passages) - 1
    again = mine(embedder, place.parent, out=tmp_path / "again.csv", k=40, max_queries=20)
    other = mine(embedder, place.parent, out=tmp_path / "other.csv", k=40, max_queries=20, seed=1)
    assert again["text"][:] == found["text"][:] != other["text"][:]


def test_short_sentences_are_no_queries_where_there_are_others():
    drawn = draw_queries(
        ["Yes. The film is a lovely story.", "No.", "Why? 영화가 정말 재미있었다고 모두가 말했다."], count=9
    )
    assert {one.text for one in drawn} == {
        "The film is a lovely story.",
        "영화가 정말 재미있었다고 모두가 말했다.",
    }
    assert {one.rest for one in drawn} == {"Yes.", "Why?"}
    assert [one.rest for one in draw_queries(["Yes.", "No."], count=1)] == [""]


def test_what_cannot_be_mined_is_said_before_anything_is_written(embedder, collection, tmp_path, monkeypatch):
    (tmp_path / "taken.csv").write_text("mine\n")
    with pytest.raises(OutputError, match="new"):
        mine(embedder, collection, out=tmp_path / "taken.csv")
    assert (tmp_path / "taken.csv").read_text() == "mine\n"
    with pytest.raises(DataError, match="parquet"):
        mine(embedder, collection, out=tmp_path / "pairs.xlsx")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.pdf").write_bytes(b"\0")
    with pytest.raises(DataError, match="pdf"):
        mine(embedder, tmp_path / "scans", out=tmp_path / "pairs.csv")
    tiny.saved(tmp_path / "classifier")
    with pytest.raises(ModelError, match="single_label"):
        mine(tmp_path / "classifier", collection, out=tmp_path / "pairs.csv")
    monkeypatch.setattr("attar.evaluation.retrieval.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"attar\[embeddings\]"):
        mine(embedder, collection, out=tmp_path / "pairs.csv")
    assert not (tmp_path / "pairs.csv").exists()


def test_the_command_mines(embedder, collection, tmp_path):
    arguments = ["mine", embedder, "--data", collection, "--k", 2, "--out", tmp_path / "pairs.parquet"]
    shown = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert shown.exit_code == 0, shown.output
    assert f"{2 * len(QUERIES)} rows" in shown.output.replace("\n", "")
    assert len(open_table(tmp_path / "pairs.parquet", "utf-8")) == 2 * len(QUERIES)
