"""Prune a classifier until it takes half of its time on this machine, and recover what it lost.

python examples/prune_to_latency.py                     # MiniLM, fine-tuned here on film reviews
python examples/prune_to_latency.py MODEL TRAIN TEST    # yours, fine-tuned: tables with the column text
"""

import sys

import attar
from attar.demo.data import model_directory, reviews

if len(sys.argv) > 1:
    model, train, test = sys.argv[1:]
else:
    train, test = (reviews()[name].select(range(1000)) for name in ("train", "test"))
    model = "out/latency/whole"
    attar.finetune(model_directory(), train, out=model, epochs=2, lr=1e-4, overwrite=True)

# Which heads and feed-forward units can go? Layers are timed here first; `table` keeps the times for the next run.
plan = attar.plan(
    model,
    budget=0.5,
    cost="latency",
    axes=("heads", "ffn"),
    data=train,
    length=64,
    table="out/latency/times.json",
    out="out/latency/plan.json",
    overwrite=True,
)
print(plan)

# Cut, fit what stays by least squares, and stay close to the model before.
attar.prune(model, plan, data=train, recover_steps=60, out="out/latency/pruned", overwrite=True)
print(attar.compare([model, "out/latency/pruned"], test, latency_length=64, out="out/latency/report"))
