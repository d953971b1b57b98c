"""Shrink a tagger of names to two narrow layers: it learns from what the larger one says of each word.

python examples/shrink_tagger.py                            # MiniLM, and sentences that are made here
python examples/shrink_tagger.py MODEL TRAIN DEV            # yours: CoNLL files
"""

import random
import sys

from datasets import Dataset

import attar
from attar.demo.data import model_directory

PEOPLE = "Ada Alan Emmy Grace Blaise Rosa Marie Kurt Leonhard Sofya Max Hedy".split()
PLACES = "Vienna Paris London Stockholm Manchester Boston Tokyo Lima Oslo Delhi Rome Cairo".split()
SENTENCES = ["PER moved to LOC .", "In LOC , PER met PER .", "PER never saw LOC or LOC again ."]


def tagged(people: list[str], places: list[str], rows: int) -> Dataset:
    """Sentences as words with their tags, where PER and LOC have become names."""
    table = []
    for sentence in random.choices(SENTENCES, k=rows):
        words = sentence.split()
        tags = [f"B-{word}" if word in ("PER", "LOC") else "O" for word in words]
        names = {"PER": people, "LOC": places}
        table.append({"tokens": [random.choice(names.get(word, [word])) for word in words], "tags": tags})
    return Dataset.from_list(table)


if len(sys.argv) > 1:
    model, train, dev = sys.argv[1:]
else:
    model = model_directory()
    train, dev = tagged(PEOPLE[:8], PLACES[:8], 400), tagged(PEOPLE[8:], PLACES[8:], 200)  # other names
attar.finetune(model, train, dev=dev, out="out/tagger/whole", lr=1e-4, overwrite=True)
student = {"layers": 2, "hidden": 192, "ffn": 384}
attar.distill("out/tagger/whole", data=train, student=student, out="out/tagger/small", overwrite=True)
print(attar.compare(["out/tagger/whole", "out/tagger/small"], dev, out="out/tagger/report"))
