"""Torch-Pruning's part of prune_peers.py, run by the Python of the peers' environment: `prune_torchpruning.py JOB`.

What Torch-Pruning 1.6.1 needed: nothing beyond torch (`pip install --no-deps`). It runs here with transformers 4.33.3
since that environment is there; it follows the package's own example for BERT (examples/transformers/prune_hf_bert.py):
heads grouped, whole heads pruned, one iteration, head numbers written back into the attention modules. In place of the
example's weight magnitude it has GroupTaylorImportance, as its examples for vision transformers, on gradients summed
over the same batches; "uniform" prunes every layer alike as the example does, "isomorphic" ranks over layers
(`global_pruning=True, isomorphic=True`, 2407.04616), which its README advises for transformers.

Sizes are asked for as ratios. Hidden size is uncut in "heads and FFN" (the layers that write it are ignored); in "all"
hidden, heads and FFN are cut by one ratio, and so is the pooler's output, which it chooses apart from the hidden size.
"""

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from prune_textpruner import batches, fresh, write

# Against rounding: of 12 heads a ratio of 4/12 must take 4, neither 3 nor 5.
HAIR = 1e-6


def gradients(model: Any, scored: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The sum of the loss's gradients over the batches, by weight."""
    for batch in scored:
        model(**batch).loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def prune(model: Any, goal: dict[str, Any], way: str, example: dict[str, torch.Tensor]) -> None:
    """Prune a model that has gradients, in place."""
    config, count = model.config, model.config.num_attention_heads
    attention = [layer.attention.self for layer in model.bert.encoder.layer]
    ignored = [model.classifier]
    if goal["hidden"] == config.hidden_size:
        ignored += [model.bert.embeddings, model.bert.pooler]
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=way == "isomorphic",
        isomorphic=way == "isomorphic",
        pruning_ratio=goal["ratio"],
        num_heads={part: count for a in attention for part in (a.query, a.key, a.value)},
        prune_head_dims=False,
        prune_num_heads=True,
        head_pruning_ratio=1 - goal["heads"] / count - HAIR,
        output_transform=lambda out: out.logits.sum(),
        ignored_layers=ignored,
    )
    pruner.step()
    for a in attention:
        a.num_attention_heads = pruner.num_heads[a.query]
        a.all_head_size = a.query.out_features
        a.attention_head_size = a.all_head_size // a.num_attention_heads


def main() -> None:
    place = Path(sys.argv[1])
    job = json.loads((place / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    scored, check = batches(place / "batches.safetensors"), batches(place / "check.safetensors")[0]
    start = time.process_time()
    whole = fresh(job)
    found = gradients(whole, scored)
    seconds = time.process_time() - start
    for size, goal in job["sizes"].items():
        for way in ("uniform", "isomorphic"):
            model, start = copy.deepcopy(whole), time.process_time()
            for name, parameter in model.named_parameters():
                parameter.grad = found[name].clone()
            prune(model, goal, way, check)
            said = {
                "passes": len(scored),
                "seconds": seconds + time.process_time() - start,
                "hidden": whole.config.hidden_size,
                "version": tp.__version__,
            }
            write(place, f"{way}-{size}", model, check, said)


if __name__ == "__main__":
    main()
