"""What a stranger does first, with the attar that is installed: the command, and the main verbs on a tiny model.

python smoke.py ATTAR    in an empty directory, with the path of the `attar` command
"""

import csv
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from itertools import product
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

import attar

WORDS = {"neg": ["bad", "dull", "poor", "cold"], "pos": ["good", "fine", "warm", "great"]}
NOUNS = ["film", "plot", "story"]


def command(*words: str) -> str:
    """What `attar` prints."""
    return subprocess.run([sys.argv[1], *words], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """The command, then fine-tune, distil, prune, export and compare, as in the README."""
    assert Path(sys.prefix) in Path(attar.__file__).parents, "not the attar that is installed"
    assert files("attar").joinpath("py.typed").is_file()
    assert command("--version").split() == ["attar", version("attar")]
    help_text = command("--help")
    assert all(verb in help_text for verb in ("distill", "prune", "export", "compare"))

    rows = [
        (f"the {noun} is {word} and {other}", label)
        for noun, (label, words) in product(NOUNS, WORDS.items())
        for word, other in product(words, words)
    ]
    with Path("data.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(text for text, _ in rows).split()]
    vocabulary = list(dict.fromkeys(vocabulary))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"initializer_range": 0.2}  # or a model so small does not learn in a few steps
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained("start")
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained("start")

    data = {"data": "data.csv", "dev": "data.csv"}
    attar.finetune("start", **data, out="teacher", epochs=4, lr=3e-3, batch_size=8)
    report = attar.distill(
        "teacher",
        **data,
        student={"layers": 1},
        intermediate={"epochs": 2, "lr": 3e-3, "batch_size": 8},
        prediction={"epochs": 2, "lr": 3e-3, "batch_size": 8},
        out="student",
    )
    assert "student" in str(report)
    attar.prune("teacher", budget=0.8, **data, steps=8, recover_steps=4, out="pruned")
    attar.export("student", out="exported", data="data.csv", max_drop=1.0)
    models = ["teacher", "student", "pruned", "exported/int8"]
    found = attar.compare(models, data="data.csv", out="report", latency_length=16, threads=1)
    print(found)
    assert [row.metrics["accuracy"] > 0.9 for row in found.rows] == [True] * 4
    assert Path("report/report.html").is_file()


if __name__ == "__main__":
    main()
