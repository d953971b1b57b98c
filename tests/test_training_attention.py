"""The attention that a CPU trains fast computes what torch's fused kernel does, for masks and lengths."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from attar.anatomy.families import ENCODERS
from attar.model import training_attention as attention


def gradients(model, inputs, *, ours: bool) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with (
        attention.training_attention(model) if ours else torch.enable_grad(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        logits = model(**inputs).logits
    mask = inputs["attention_mask"].bool()
    chosen = logits[mask] if logits.dim() == 3 else logits
    chosen.float().pow(2).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("longest", [attention.SHORT, 2], ids=["products", "fused in fp32"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "qwen3"])
def test_gradients_are_those_of_the_fused_kernel(family, longest, monkeypatch):
    monkeypatch.setattr(attention, "SHORT", longest)
    model = tiny.model(family, head="masked-lm" if family in ENCODERS else "causal-lm").eval()
    model.set_attn_implementation("sdpa")
    inputs = {"input_ids": torch.randint(5, 20, (3, 6)), "attention_mask": torch.ones(3, 6, dtype=torch.long)}
    inputs["attention_mask"][0, 4:] = 0
    expected, found = (gradients(model, inputs, ours=ours) for ours in (False, True))
    assert model.config._attn_implementation == "sdpa"
    assert expected.keys() == found.keys()
    sides = [torch.cat([g[name].flatten() for name in expected]) for g in (expected, found)]
    assert F.cosine_similarity(*sides, dim=0) > 0.998  # bf16 has three digits
