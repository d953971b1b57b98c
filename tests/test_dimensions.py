"""Laws of fewer dimensions: the best ones, inside the model, in a table that has what is written."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from embedders import TEXTS, embed, embedder
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F

import tiny
from attar import dimensions
from attar.data.embedding_task import Embedding
from attar.model.checkpoint import load
from attar.model.sentence_modules import Head


@pytest.mark.parametrize("name", ["plain", "teacher"])
def test_fewer_dimensions_are_the_best_ones_and_are_inside_the_model(name, request, tmp_path):
    source = request.getfixturevalue(name)
    report = dimensions(source, to=6, texts=TEXTS, compare=(3,), out=tmp_path / "out")
    whole, cut = load(source), load(tmp_path / "out")
    assert cut.model.width == 6
    library = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(library.encode(TEXTS[:4]), embed(cut.model, TEXTS[:4]), atol=1e-5)
    full, small = embed(whole.model, TEXTS), embed(cut.model, TEXTS)
    first = full[:, :6] / np.linalg.norm(full[:, :6], axis=1, keepdims=True)
    gram = full @ full.T
    assert np.abs(small @ small.T - gram).mean() < 0.9 * np.abs(first @ first.T - gram).mean()
    agreed = {row.runtime: row.metrics["agreement"] for row in report.rows}
    width = whole.model.width
    assert agreed["6 dimensions, fp32"] < agreed[f"{width} dimensions, int8"] < 1
    assert agreed[f"{width} dimensions, binary"] < agreed[f"{width} dimensions, int8"]
    assert agreed["6 dimensions, fp32"] >= agreed["3 dimensions, fp32"] > agreed["3 dimensions, binary"]
    assert agreed["6 dimensions, fp32"] >= agreed["6 dimensions, int8"] - 1e-3
    assert [row.bytes for row in report.rows][:6] == [4 * width, width, -(-width // 8), 24, 6, 1]
    assert report.columns()["size"][3:6] == ["24 B", "6 B", "1 B"]


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_the_table_of_dimensions_has_what_is_written(similarity, tmp_path):
    """Of a model that does not normalise, and a folder of documents: lengths count where its similarity reads them."""
    model = embedder(head=Head(("mean_sqrt_len_tokens",), similarity=similarity, max_length=40))
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "all.md").write_text("\n\n".join(TEXTS))
    options = {"tokenizer": tiny.tokenizer(), "to": 6, "texts": tmp_path / "documents", "compare": ()}
    sides = [" ".join([text] * (1 + n % 3)) for n, text in enumerate(TEXTS[:40])], TEXTS[60:100]
    alike = np.diag(Embedding("embedding", (), similarity).alike(*(embed(model, side) for side in sides)))
    pairs = {"text": sides[0], "text_pair": sides[1], "label": (alike - alike.min()).tolist()}
    report = dimensions(model, data=Dataset.from_dict(pairs), out=tmp_path / "out", **options)
    library = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    wanted = EmbeddingSimilarityEvaluator(*pairs.values(), main_similarity=similarity)(library)
    ours = next(row for row in report.rows if row.role == "student")
    assert ours.metrics["spearman"] == pytest.approx(wanted[f"spearman_{similarity}"], abs=1e-4)


def test_leading_dimensions_are_those_that_truncation_leaves(plain, tmp_path):
    options = {"texts": TEXTS, "compare": (3,), "out": tmp_path / "out"}
    report = dimensions(plain, to=6, directions="leading", **options)
    library = SentenceTransformer(str(plain), device="cpu", truncate_dim=6)
    cut = library.encode(TEXTS[:9])
    np.testing.assert_allclose(
        embed(load(tmp_path / "out").model, TEXTS[:9]), F.normalize(torch.tensor(cut)).numpy(), atol=1e-5
    )
    best = dimensions(plain, to=6, **(options | {"out": tmp_path / "best"}))
    assert best.student.metrics["agreement"] > report.student.metrics["agreement"]
