"""TextPruner's part of prune_peers.py, run by the Python of the peers' own environment: `prune_textpruner.py JOB`.

What TextPruner 1.1.post2 (2022) needed to run beside torch 2.13 on Python 3.11:

- transformers 4.33.3 with numpy below 2, in an environment of its own: it calls `prune_heads` and reads plain BERT
  modules as they were then. Installed with `--no-deps`: sentencepiece and protobuf are for vocabularies, which are not
  pruned here.
- Nothing of it is changed. `save_model` is off (it writes a checkpoint of its own form, and none where FFN sizes
  differ); the pruned weights are written from here.

Its own choices: eval mode, importance |sum of weight x gradient| summed over batches, FFN sizes alike in all layers,
head numbers free ("uneven heads", the best in its README), 4 iterations as in its README's example.

JOB is a directory with job.json, batches.safetensors (tokens and labels) and check.safetensors (8 sentences); each
pruned model is written beside them as weights and a JSON with its logits on the 8 sentences.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification


def batches(path: Path) -> list[dict[str, torch.Tensor]]:
    """The batches as the model's arguments, labels among them."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(path).items():
        number, _, kind = name.partition(".")
        found.setdefault(int(number), {})[kind] = tensor
    return [found[number] for number in sorted(found)]


def fresh(job: dict[str, Any]) -> Any:
    """The fine-tuned model."""
    return AutoModelForSequenceClassification.from_pretrained(job["model"], trust_remote_code=False).eval()


def write(place: Path, name: str, model: Any, check: dict[str, torch.Tensor], said: dict[str, Any]) -> None:
    """A pruned model, and what is known of it; an embedding that is as it was is left out."""
    with torch.no_grad():
        logits = model.eval()(**check).logits
    weights = {
        k: v.detach().clone().contiguous() for k, v in model.state_dict().items() if "position_ids" not in k
    }
    if weights["bert.embeddings.word_embeddings.weight"].shape[1] == said["hidden"]:
        weights = {k: v for k, v in weights.items() if not k.endswith("word_embeddings.weight")}
    save_file(weights, place / f"{name}.safetensors")
    (place / f"{name}.json").write_text(json.dumps({**said, "check": logits.tolist()}))


def main() -> None:
    from textpruner import GeneralConfig, TransformerPruner, TransformerPruningConfig, __version__

    place = Path(sys.argv[1])
    job = json.loads((place / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    scored, check = batches(place / "batches.safetensors"), batches(place / "check.safetensors")[0]
    for size, goal in job["sizes"].items():
        model, start = fresh(job), time.process_time()
        config = TransformerPruningConfig(
            target_ffn_size=goal["ffn"],
            target_num_of_heads=goal["heads"],
            pruning_method="iterative",
            head_even_masking=False,
            n_iters=job["iterations"],
        )
        with tempfile.TemporaryDirectory() as unused:
            pruner = TransformerPruner(model, config, GeneralConfig(use_device="cpu", output_dir=unused))
            pruner.prune(dataloader=scored, save_model=False)
        said = {
            "passes": job["iterations"] * len(scored),
            "seconds": time.process_time() - start,
            "hidden": model.config.hidden_size,
            "version": __version__,
        }
        write(place, f"uneven-{size}", model, check, said)


if __name__ == "__main__":
    main()
