"""Shrink a reranker on nothing but documents: queries are drawn from them, an embedding model finds their passages.

python examples/shrink_reranker.py                              # film plots, and a reranker that is made here
python examples/shrink_reranker.py RERANKER EMBEDDER DOCUMENTS  # a CrossEncoder directory; a folder or a file of texts
"""

import sys
from pathlib import Path

import attar
from attar.demo.data import model_directory, unlabelled_texts

whole, small, onnx = (f"out/reranker/{name}" for name in ("whole", "small", "onnx"))
if len(sys.argv) > 1:
    whole, embedder, documents = sys.argv[1:]
else:
    plots = unlabelled_texts()
    embedder, documents = model_directory(), [" ".join(plots[n : n + 3]) for n in range(0, 900, 3)]

# For each query five passages: first the one that it was drawn from, without it, then what the embedding model finds.
Path("out/reranker/pairs.csv").unlink(missing_ok=True)
pairs = attar.mine(embedder, documents, out="out/reranker/pairs.csv", k=5)
first = [n == 0 or text != pairs["text"][n - 1] for n, text in enumerate(pairs["text"][:])]
known = pairs.add_column("label", [float(own) for own in first])
queries = pairs.unique("text")
held = set(queries[: len(queries) // 5])
train, test = (known.filter(lambda row, side=side: (row["text"] in held) == side) for side in (False, True))

if len(sys.argv) == 1:
    score = {"problem_type": "regression", "epochs": 2, "lr": 1e-4}
    attar.finetune(embedder, train, out=whole, overwrite=True, **score)

# The student learns the teacher's scores; the labels only measure: how high the passage stands that a query is of.
sizes, phase = {"layers": 3, "hidden": 192, "heads": 6, "ffn": 400}, {"epochs": 4, "lr": 5e-4}
phases = {"intermediate": phase, "prediction": phase}
attar.distill(whole, data=train, test=test, student=sizes, out=small, overwrite=True, **phases)
attar.export(small, out=onnx, data=test, formats=["int8"], overwrite=True)
print(attar.compare([whole, small, f"{onnx}/int8"], test, out="out/reranker/report"))
