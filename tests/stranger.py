"""Load slim directories in a process of its own, and print as JSON how far their outputs are from the expected ones.

python stranger.py attar PLACE    after `import attar`
python stranger.py alone PLACE    where attar cannot be imported, with `trust_remote_code=True`
python stranger.py onnx FILE      where neither attar nor torch nor transformers can be imported

Beside each directory below PLACE, and beside FILE, is what its model gave in memory: `NAME.npz`.
"""

import json
import sys
import warnings
from importlib.abc import MetaPathFinder
from pathlib import Path

BLOCKED = {
    "attar": (),
    "alone": ("attar", "wrapt", "tiny", "slims"),
    "onnx": ("attar", "wrapt", "torch", "transformers"),
}


class Block(MetaPathFinder):
    """Nothing of these names is installed."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def gap(expected, found):
    """The largest difference of arrays of the same names."""
    import numpy as np

    names = [name for name in expected if not name.startswith("in.")]
    assert names
    return max(float(np.abs(expected[name] - found[name]).max()) for name in names)


def load(place, **trust):
    """The largest difference, classes and pipeline's answer of each directory."""
    import numpy as np
    import torch
    import transformers

    found = {}
    for directory in sorted(path for path in place.iterdir() if path.is_dir()):
        head = directory.name.rpartition("-")[2].replace("Model", "")
        config = transformers.AutoConfig.from_pretrained(directory, **trust)
        model = getattr(transformers, f"AutoModel{head}").from_pretrained(directory, **trust).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **trust)
        expected = np.load(place / f"{directory.name}.npz")
        given = {k[3:]: torch.from_numpy(v) for k, v in expected.items() if k.startswith("in.")}
        with torch.no_grad():
            said = {k: v.numpy() for k, v in model(**given).items() if isinstance(v, torch.Tensor)}
        kind = type(model)
        found[directory.name] = {
            "gap": gap(expected, said),
            "class": kind.__name__,
            "module": kind.__module__,
            "config": type(config).__name__,
            "tokens": tokenizer("the film is good")["input_ids"],
        }
        if (
            directory.name == "bert-ForSequenceClassification"
        ):  # of the others it would load what was just loaded
            classify = transformers.pipeline("text-classification", str(directory), **trust)
            found[directory.name]["score"] = classify("the film is good", top_k=None)
    return found


def refused(directory, **options):
    """What transformers says of a directory when it is not told to trust it."""
    import transformers

    try:
        transformers.AutoModel.from_pretrained(directory, **options)
    except ValueError as error:
        return str(error)
    return "loaded"


def main(mode, place):
    warnings.simplefilter("error")
    sys.meta_path.insert(0, Block(BLOCKED[mode]))
    if mode == "onnx":
        import numpy as np
        import onnxruntime

        expected = np.load(place.with_suffix(".npz"))
        session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
        given = {item.name: expected[f"in.{item.name}"] for item in session.get_inputs()}
        return {"gap": gap(expected, {"logits": session.run(None, given)[0]})}
    if mode == "attar":
        import attar  # noqa: F401

        late = "torch" not in sys.modules
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(place / "stock" / "bert-ForSequenceClassification")
        quick = "attar.model.slim" not in sys.modules
        return {"late": late, "quick": quick, "models": load(place / "models")}
    directory = place / "models" / "bert-Model"
    return {
        "refused": [refused(directory), refused(directory, trust_remote_code=False)],
        "stock": load(place / "stock"),
        "models": load(place / "models", trust_remote_code=True),
    }


if __name__ == "__main__":
    answer = main(sys.argv[1], Path(sys.argv[2]))
    print("\n" + json.dumps(answer))  # transformers asks a question without an end of line
