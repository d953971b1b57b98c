"""Teacher and student go on from the same prompt, side by side."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import PreTrainedModel

from attar.data.batches import positions
from attar.errors import DataError, ModelError
from attar.model.checkpoint import load
from attar.options.base import Options
from attar.report.formatting import count, plain_text

if TYPE_CHECKING:
    from rich.table import Table

Model: TypeAlias = str | Path | PreTrainedModel


@dataclass(frozen=True)
class Continuation:
    """What one model made of a prompt.

    Attributes:
        name: of the model.
        text: what it wrote, without the prompt.
        tokens: how many new ones, the end's included.
        seconds: that it took, on this machine, now.
        parameters: of the model.
    """

    name: str
    text: str
    tokens: int
    seconds: float
    parameters: int

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Generated:
    """Continuations of one prompt, in the order of the models."""

    prompt: str
    says: tuple[Continuation, ...]

    def table(self) -> "Table":
        """A column a model."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.prompt, style="bold"), title_justify="left", box=None, expand=True)
        table.pad_edge, table.padding = False, (0, 3, 0, 0)
        for said in self.says:
            table.add_column(Text(said.name), ratio=1)
        table.add_row(*(Text(said.text.strip() or "(the end at once)") for said in self.says))
        notes = (
            f"\n{count(said.parameters)} parameters, {said.tokens} tokens, {said.speed:.0f} a second"
            for said in self.says
        )
        table.add_row(*notes, style="dim")
        return table

    def __str__(self) -> str:
        return plain_text(self.table(), 120)


def generate(models: Model | Sequence[Model], prompt: str, *, options: Options, tokenizer: Any) -> Generated:
    """Let causal language models continue a prompt, each from the same seed; see `attar.generate`."""
    length, temperature, top_p, seed = options.length, options.temperature, options.top_p, options.seed
    _check(prompt, temperature, top_p)
    wanted = [models] if isinstance(models, str | Path | PreTrainedModel) else list(models)
    says = []
    for source in wanted:
        own = tokenizer if isinstance(source, PreTrainedModel) else None
        loaded = load(source, tokenizer=own)
        says.append(
            _continue(
                loaded.model,
                loaded.tokenizer,
                Path(loaded.name).name,
                prompt,
                length=length,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )
        )
    return Generated(prompt, tuple(says))


def _check(prompt: str, temperature: float | None, top_p: float) -> None:
    if not prompt.strip():
        raise DataError(expected="a prompt", found=repr(prompt), fix="write the beginning of a text")
    if top_p < 1 and temperature is None:
        raise DataError(
            expected="a temperature with top_p, which is of draws",
            found=f"top_p={top_p} and no temperature",
            fix="set temperature to 1, or leave top_p out",
        )


@torch.inference_mode()
def _continue(
    model: PreTrainedModel,
    tokenizer: Any,
    name: str,
    prompt: str,
    *,
    length: int,
    temperature: float | None,
    top_p: float,
    seed: int,
) -> Continuation:
    if not model.can_generate() or model.config.is_encoder_decoder:
        masked = "MaskedLM" in type(model).__name__
        raise ModelError(
            expected="a causal language model, which predicts the next token",
            found=f"{type(model).__name__} in {name}" + (", a masked one" if masked else ""),
            fix=f"attar temperature {name} --text '… [MASK] …' shows its predictions of a masked word"
            if masked
            else "name a decoder, such as a GPT-2 or a Llama",
        )
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False, verbose=False).to(
        model.device
    )
    start = inputs["input_ids"].shape[1]
    if start + length > positions(model):
        raise DataError(
            expected=f"at most {positions(model)} tokens, for which {name} has positions",
            found=f"{start} of the prompt and length={length}",
            fix=f"set length to {max(1, positions(model) - start)}, or cut the prompt",
        )
    # top_k=0: nothing but what was asked for limits the draws, whatever the model's own defaults are.
    drawn = (
        {} if temperature is None else {"temperature": float(temperature), "top_p": float(top_p), "top_k": 0}
    )
    end = (
        tokenizer.eos_token_id if tokenizer.eos_token_id is not None else model.generation_config.eos_token_id
    )
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        before = time.perf_counter()
        ids = model.generate(
            **inputs,
            max_new_tokens=length,
            do_sample=temperature is not None,
            pad_token_id=padding,
            eos_token_id=end,
            **drawn,
        )[0, start:]
        seconds = time.perf_counter() - before
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    return Continuation(name, text, len(ids), seconds, model.num_parameters())
