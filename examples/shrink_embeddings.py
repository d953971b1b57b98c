"""Shrink an embedding model on nothing but texts; the student keeps its dimensions, so an index of it stays good.

python examples/shrink_embeddings.py                    # all-MiniLM-L6-v2 and sentences of film reviews
python examples/shrink_embeddings.py MODEL TEXTS        # a sentence-transformers directory; a file of texts or a folder
"""

import sys

import attar
from attar.demo.data import model_directory, unlabelled_texts

model, texts = sys.argv[1:] if len(sys.argv) > 1 else (str(model_directory()), unlabelled_texts()[:4000])

# The student learns from the teacher's hidden states, then its embeddings and the similarities of each batch.
report = attar.distill(
    model,
    texts=texts,
    student={"layers": 3, "hidden": 192, "heads": 6, "ffn": 400},
    attention="relations",
    intermediate={"epochs": 2, "lr": 1e-3},
    prediction={"epochs": 4, "lr": 1e-3},
    out="out/embeddings/student",
    overwrite=True,
)
print(report)

# Fewer dimensions: a smaller index. The table says what each number of them keeps, in fp32, int8 and bits.
print(
    attar.dimensions("out/embeddings/student", to=64, texts=texts, out="out/embeddings/short", overwrite=True)
)

# For ONNX Runtime, pooling and the norm inside the graph: tokens go in, `sentence_embedding` comes out.
attar.export("out/embeddings/student", out="out/embeddings/onnx", formats=["fp32"], overwrite=True)
