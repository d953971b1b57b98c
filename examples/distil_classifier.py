"""Distil a classifier of sentences into one that is several times smaller and faster.

python examples/distil_classifier.py                            # MiniLM and film reviews, as in `attar demo`
python examples/distil_classifier.py MODEL TRAIN DEV TEST       # yours: tables with the columns text and label
"""

import sys

import attar
from attar.demo.data import model_directory, reviews

if len(sys.argv) > 1:
    model, train, dev, test = sys.argv[1:]
else:
    model, tables = model_directory(), reviews()
    train, dev, test = (tables[name].select(range(1000)) for name in ("train", "dev", "test"))

# The teacher: the model after fine-tuning on the labels. Leave this out where yours is fine-tuned already.
attar.finetune(model, train, dev=dev, out="out/classifier/teacher", epochs=2, lr=1e-4, overwrite=True)

# The student learns from the teacher's hidden states and answers; it does not see the labels.
attar.distill(
    "out/classifier/teacher",
    data=train,
    dev=dev,
    student={"layers": 4, "hidden": 128, "heads": 4, "ffn": 256, "embedding": 64},
    attention="relations",
    augment={"copies": 2},
    intermediate={"epochs": 3, "lr": 1e-3},
    prediction={"epochs": 3, "lr": 5e-4},
    out="out/classifier/student",
    overwrite=True,
)
attar.export("out/classifier/student", data=dev, formats=["int8"], out="out/classifier/onnx", overwrite=True)

models = [f"out/classifier/{name}" for name in ("teacher", "student", "onnx/int8")]
print(attar.compare(models, test, out="out/classifier/report"))
