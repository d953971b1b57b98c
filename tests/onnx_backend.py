"""sentence-transformers' ONNX backend where optimum is not to be had: no release of it imports with transformers 5."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import torch
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput


class Session:
    """What the library uses of optimum's models: a file that it chose, and an output that is asked for by its name."""

    output, made = "", None
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, path, config):
        self.config, self.session = config, onnxruntime.InferenceSession(str(path))
        self.path, self._save_pretrained = path, None

    @classmethod
    def from_pretrained(cls, source, *, config, export, file_name="model.onnx", subfolder="", **_):
        assert not export, f"sentence-transformers finds no {file_name} in {source}"
        return cls(Path(source) / subfolder / file_name, config)

    def __call__(self, **given):
        return self.forward(**given)

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, **_):
        known = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        feed = {one.name: np.asarray(known[one.name]) for one in self.session.get_inputs()}
        return self.made(**{self.output: torch.from_numpy(self.session.run([self.output], feed)[0])})

    def eval(self):
        return self


class ORTModelForFeatureExtraction(Session):
    output, made = "last_hidden_state", BaseModelOutput


class ORTModelForSequenceClassification(Session):
    output, made = "logits", SequenceClassifierOutput


def provide(monkeypatch):
    """Put this in optimum's place for a test, where optimum itself cannot be imported."""
    try:
        from optimum.onnxruntime import ORTModelForFeatureExtraction as _  # noqa: F401
    except ImportError:
        module = ModuleType("optimum.onnxruntime")
        module.ONNX_WEIGHTS_NAME = "model.onnx"
        for kind in (ORTModelForFeatureExtraction, ORTModelForSequenceClassification):
            setattr(module, kind.__name__, kind)
        module.ORTModelForCausalLM = module.ORTModelForMaskedLM = None
        monkeypatch.setitem(sys.modules, "optimum", ModuleType("optimum"))
        monkeypatch.setitem(sys.modules, "optimum.onnxruntime", module)
