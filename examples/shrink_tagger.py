"""Shrink a tagger of names to two narrow layers: it learns from what the larger one says of each word.

python examples/shrink_tagger.py                            # MiniLM, and sentences that are made here
python examples/shrink_tagger.py MODEL TRAIN DEV            # yours: CoNLL files
"""

import sys
from random import Random

from datasets import Dataset

import attar
from attar.demo.data import model_directory

PEOPLE = "Ada Alan Emmy Grace Blaise Rosa Marie Kurt Leonhard Sofya Max Hedy".split()
PLACES = "Vienna Paris London Stockholm Manchester Boston Tokyo Lima Oslo Delhi Rome Cairo".split()
SENTENCES = ["PER moved to LOC .", "In LOC , PER met PER .", "PER never saw LOC or LOC again ."]


def tagged(names: dict[str, list[str]], rows: int) -> Dataset:
    """Sentences as words with their tags, where PER and LOC have become names."""
    table, chance = [], Random(rows)
    for sentence in chance.choices(SENTENCES, k=rows):
        words = sentence.split()
        tags = [f"B-{word}" if word in names else "O" for word in words]
        table.append({"tokens": [chance.choice(names.get(word, [word])) for word in words], "tags": tags})
    return Dataset.from_list(table)


if len(sys.argv) > 1:
    model, train, dev = sys.argv[1:]
else:
    model = model_directory()
    train = tagged({"PER": PEOPLE[:8], "LOC": PLACES[:8]}, 400)
    dev = tagged({"PER": PEOPLE[8:], "LOC": PLACES[8:]}, 200)  # names that are not in train
whole, small = "out/tagger/whole", "out/tagger/small"
attar.finetune(model, train, dev=dev, out=whole, lr=1e-4, overwrite=True)
sizes, phase = {"layers": 2, "hidden": 192, "ffn": 384}, {"epochs": 10, "lr": 3e-4}
attar.distill(whole, data=train, student=sizes, prediction=phase, out=small, overwrite=True)
print(attar.compare([whole, small], dev, out="out/tagger/report"))
