"""The examples of the guides run, on a tiny model in place of the reader's."""

import json
import re
from functools import partial
from pathlib import Path

from datasets import Dataset

import asked
import attar
import onnx_backend
import tiny
from attar.model.checkpoint import load
from attar.model.sentence_modules import Head, write_head

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(guide: str, **sizes: str) -> dict[str, object]:
    """Run a guide's blocks of Python one after the other, in the current directory; the names that they leave.

    `sizes` stand in place of the reader's: `hidden_size="64"` of `"hidden_size": 256`.
    """
    text = (DOCS / guide).read_text(encoding="utf-8")
    for name, size in sizes.items():
        text, found = re.subn(rf'(?<="{name}": )\d+', size, text)
        assert found
    blocks = BLOCK.findall(text)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    return names


def test_the_examples_of_the_guide_to_pruning_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The reader's number of steps is not the test's.
    monkeypatch.setattr(attar, "plan", partial(attar.plan, steps=2))
    monkeypatch.setattr(attar, "prune", partial(attar.prune, steps=2, recover_steps=2))
    tiny.saved(tmp_path / "my" / "fine-tuned-bert")
    Path("texts.txt").write_text("\n".join(tiny.texts(16)) + "\n")
    tiny.table(16, 1).to_csv("dev.csv")
    names = run("guide-pruning.md")
    sizes = {name: load(name).model.num_parameters() for name in ("my/fine-tuned-bert", "small", "smaller")}
    assert sizes["smaller"] < sizes["small"] < sizes["my/fine-tuned-bert"]
    assert names["report"].rows[1].metrics["agreement"] > 0  # type: ignore[attr-defined]


def test_the_examples_of_the_guide_to_language_models_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = {"epochs": 1, "batch_size": 16, "max_length": 16, "precision": "fp32"}
    monkeypatch.setattr(attar, "distill_lm", partial(attar.distill_lm, **quick))
    monkeypatch.setattr(attar, "pretrain", partial(attar.pretrain, **quick))
    tiny.model("gpt2", "causal-lm").save_pretrained("my/gpt")
    tiny.decoder_tokenizer().save_pretrained("my/gpt")
    Path("texts.txt").write_text("\n".join(tiny.texts(60)) + "\n")
    names = run("guide-language-models.md")
    teacher, student = names["report"].rows  # type: ignore[attr-defined]
    assert student.parameters < teacher.parameters
    assert names["alone"].rows[0].metrics["perplexity"] < names["alone"].rows[1].metrics["perplexity"]  # type: ignore[attr-defined]
    assert [one.name for one in names["found"].says] == ["gpt", "small"]  # type: ignore[attr-defined]


def test_the_examples_of_the_guide_to_a_new_language_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = {"epochs": 1, "batch_size": 24}

    def quick(verb, **options):
        return lambda *given, **named: verb(*given, **(named | options))

    part = {"intermediate": short, "prediction": short, "cache": False}
    for name, options in (("pretrain", short), ("finetune", short), ("distill", part)):
        monkeypatch.setattr(attar, name, quick(getattr(attar, name), precision="fp32", **options))
    nouns, ends = ("영화", "배우"), ("좋았다", "재미있었다", "별로였다", "지루했다")
    rows = [
        {"text": f"{noun}{particle} 정말 {end}", "label": int(end in ends[:2])}
        for noun in nouns
        for particle in ("가", "는", "도")
        for end in ends
    ]
    Path("texts.txt").write_text("\n".join(row["text"] for row in rows) + "\n", encoding="utf-8")
    for name in ("train.csv", "dev.csv"):
        Dataset.from_list(rows).to_csv(name)
    names = run("guide-new-language.md", hidden_size="64", num_hidden_layers="9", intermediate_size="32")
    assert names["tokenizer"].tokenize("영화가 정말")[-1] == "정말"  # type: ignore[attr-defined]
    teacher, small, shared = (load(f"ko/{name}").model for name in ("teacher", "small", "shared-small"))
    assert (teacher.config.num_hidden_layers, small.config.num_hidden_layers) == (9, 3)
    assert shared.config.num_hidden_groups == 3
    assert shared.num_parameters() < teacher.num_parameters()
    assert "<svg" in Path("ko/temperature.html").read_text(encoding="utf-8")


def test_the_examples_of_the_guide_to_answers_and_tags_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = {"epochs": 1, "batch_size": 16}
    monkeypatch.setattr(attar, "finetune", partial(attar.finetune, precision="fp32", **quick))
    phases = {"intermediate": quick, "prediction": quick, "precision": "fp32"}
    monkeypatch.setattr(attar, "distill", partial(attar.distill, **phases))
    tiny.saved(tmp_path / "my" / "encoder", head="masked-lm", max_position_embeddings=128)
    for name, seed in (("train", 1), ("dev", 2)):
        asked.write_conll(Path(f"{name}.conll"), asked.sentences(24, seed=seed))
        asked.write_squad(Path(f"{name}.json"), 24, seed=seed, impossible=0.2)
    names = run("guide-qa-and-tagging.md")
    metrics = names["report"].rows[1].metrics  # type: ignore[attr-defined]
    assert set(metrics) == {"exact_match", "f1", "agreement", "kl"}
    assert load("small-tagger").model.num_parameters() < load("tagger").model.num_parameters()


def test_the_examples_of_the_guide_to_embeddings_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    phase = {"epochs": 1, "batch_size": 16}
    quick = {"intermediate": phase, "prediction": phase, "precision": "fp32"}
    real = attar.distill
    monkeypatch.setattr(attar, "distill", lambda *given, **named: real(*given, **{**named, **quick}))
    monkeypatch.setattr(attar, "dimensions", partial(attar.dimensions, compare=(4,)))
    monkeypatch.setattr(attar, "export", partial(attar.export, max_drop=0.2))  # random weights suffer more
    tiny.saved(tmp_path / "my" / "embedder", head="base", hidden_size=256, intermediate_size=800)
    write_head(Head(normalize=True, max_length=64), {}, 256, tmp_path / "my" / "embedder")
    Path("texts.txt").write_text("\n".join(tiny.texts(320)) + "\n")
    onnx_backend.provide(monkeypatch)
    names = run("guide-embeddings.md")
    assert names["report"].student.metrics["agreement"] > 0  # type: ignore[attr-defined]
    assert load("small-128").model.width == 128


def test_the_examples_of_the_guide_to_rerankers_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    phase = {"epochs": 1, "batch_size": 16}
    quick = {"intermediate": phase, "prediction": phase, "precision": "fp32"}
    real = attar.distill
    monkeypatch.setattr(attar, "distill", lambda *given, **named: real(*given, **{**named, **quick}))
    monkeypatch.setattr(attar, "mine", partial(attar.mine, max_queries=20))
    monkeypatch.setattr(attar, "compare", partial(attar.compare, latency_length=8))
    monkeypatch.setattr(attar, "export", partial(attar.export, max_drop=2))  # random weights suffer more
    sizes = {"hidden_size": 192, "intermediate_size": 800, "max_position_embeddings": 260}
    tiny.saved(tmp_path / "my" / "reranker", num_labels=1, **sizes)
    tiny.saved(tmp_path / "my" / "embedder", head="base")
    write_head(Head(normalize=True, max_length=64), {}, 24, tmp_path / "my" / "embedder")
    texts = tiny.texts(120)
    (tmp_path / "documents").mkdir()
    passages = (". ".join(texts[n : n + 3]) for n in range(0, 120, 3))
    (tmp_path / "documents" / "all.md").write_text("\n\n".join(passages))
    place = tmp_path / "my" / "collection"
    (place / "qrels").mkdir(parents=True)
    for name, some in (("corpus", texts), ("queries", texts[:12])):
        rows = [{"_id": f"{name[0]}{n}", "text": text} for n, text in enumerate(some)]
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [f"q{q}\tc{c}\t1" for q in range(12) for c in range(0, 120, 2)]
    (place / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]))
    names = run("guide-rerankers.md")
    assert names["report"].student.metrics["agreement"] > -1  # type: ignore[attr-defined]
    assert set(names["graded"].unique("label")) == {0, 1}  # type: ignore[attr-defined]
    assert load("small").model.config.num_labels == 1
