"""The peers of distill_throughput.py: TextBrewer and the loops one writes in plain PyTorch, on the same models.

They compute TinyBERT's intermediate losses (1909.10351 eq. 7 to 9): scores before softmax, hidden states and embedding,
one projection each, padding not counted. Nothing clips gradients here, which is in the peers' favour.
"""

import importlib.util
import random
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    BertConfig,
    BertForSequenceClassification,
    get_linear_schedule_with_warmup,
)
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from attar.demo.data import model_directory
from attar.model.pretrained import from_pretrained

PIP = "pip install --no-deps textbrewer==0.2.1.post1 tqdm"
BATCH, LR, POOL = 32, 5e-5, 50
WANTED = {"output_attentions": True, "output_hidden_states": True}
Rows = list[list[int]]
Inputs = dict[str, Tensor]


class Turn(NamedTuple):
    """What a contender did in its turn: sentences, real tokens (no padding), seconds."""

    sentences: int
    tokens: int
    seconds: float


class Contender(Protocol):
    """One way to train; it keeps its place in its own epoch between turns."""

    name: str

    def step_batches(self, n: int) -> Turn:
        """Train on the next `n` batches."""
        ...


def scores_as_weights(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Eager attention of transformers, but what it hands out are the scores before mask and softmax.

    With it `output_attentions=True` gives the peers what TinyBERT compares; transformers itself gives probabilities.
    """
    scores = query @ key.transpose(2, 3) * (query.size(-1) ** -0.5 if scaling is None else scaling)
    masked = scores if attention_mask is None else scores + attention_mask
    weights = nn.functional.dropout(masked.softmax(-1), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), scores


AttentionInterface.register("peer_scores", scores_as_weights)
AttentionMaskInterface.register("peer_scores", eager_mask)


@dataclass
class Setting:
    """What is the same for all: the sentences as token numbers, the layers compared, the weights they start from."""

    rows: Rows
    layers: tuple[int, ...]

    def models(self) -> tuple[BertForSequenceClassification, BertForSequenceClassification]:
        """A fresh copy of teacher and student, with attention that shows its scores."""
        teacher = from_pretrained(
            BertForSequenceClassification, model_directory(), attn_implementation="peer_scores"
        ).eval()
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=teacher.config.vocab_size,
            hidden_size=312,
            num_hidden_layers=4,
            num_attention_heads=12,
            intermediate_size=1200,
            attn_implementation="peer_scores",
        )
        return teacher, BertForSequenceClassification(config).train()

    def projections(self) -> list[nn.Linear]:
        """W of each pair, with a bias that starts at 0."""
        torch.manual_seed(1)
        made = [nn.Linear(312, 384) for _ in self.pairs]
        for projection in made:
            nn.init.zeros_(projection.bias)
        return made

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(student layer, teacher layer) with 0 the embedding."""
        return [(0, 0), *enumerate(self.layers, start=1)]


def collate(rows: Rows) -> Inputs:
    """Token numbers and mask (B, T), T the longest row."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def endless(rows: Rows, *, bucket: bool, seed: int = 0) -> Iterator[Inputs]:
    """Batches of one epoch after the other; `bucket` sorts pools of `POOL` batches by length."""
    draw = random.Random(seed)
    while True:
        order = draw.sample(rows, len(rows))
        if bucket:
            size = BATCH * POOL
            pools = [sorted(order[i : i + size], key=len) for i in range(0, len(order), size)]
            batches = [pool[i : i + BATCH] for pool in pools for i in range(0, len(pool), BATCH)]
            draw.shuffle(batches)
        else:
            batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        yield from map(collate, batches)


class Counted:
    """Passes batches on and counts what goes through."""

    def __init__(self, batches: Iterator[Inputs]) -> None:
        self.batches, self.sentences, self.tokens = batches, 0, 0

    def __iter__(self) -> Iterator[Inputs]:
        return self

    def __next__(self) -> Inputs:
        batch = next(self.batches)
        self.sentences += len(batch["input_ids"])
        self.tokens += int(batch["attention_mask"].sum())
        return batch


class Loop:
    """The loop one writes in plain PyTorch, textbook or tuned."""

    def __init__(self, setting: Setting, *, tuned: bool, bf16: bool = False) -> None:
        self.name = "tuned" if tuned else "textbook"
        self.setting, self.bf16 = setting, bf16
        self.teacher, self.student = setting.models()
        self.projections = nn.ModuleList(setting.projections())
        parameters = [*self.student.parameters(), *self.projections.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=LR, fused=tuned)
        self.batches = endless(setting.rows, bucket=tuned)

    def loss(self, batch: Inputs) -> Tensor:
        """The sum of all parts for one batch."""
        with torch.no_grad():
            theirs = self.teacher(**batch, **WANTED)
        ours = self.student(**batch, **WANTED)
        mask = batch["attention_mask"].float()
        tokens, pairs = mask[..., None], (mask[:, None, :, None] * mask[:, None, None, :])
        total = torch.zeros(())
        for projection, (m, n) in zip(self.projections, self.setting.pairs, strict=True):
            error = (projection(ours.hidden_states[m]) - theirs.hidden_states[n]).square()
            total = total + (error * tokens).sum() / (tokens.sum() * error.size(-1))
        for m, n in self.setting.pairs[1:]:
            error = (ours.attentions[m - 1] - theirs.attentions[n - 1]).square()
            total = total + (error * pairs).sum() / (pairs.sum() * error.size(1))
        return total

    def step_batches(self, n: int) -> Turn:
        """Train on the next `n` batches."""
        counted = Counted(self.batches)
        start = time.perf_counter()
        for _ in range(n):
            with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
                loss = self.loss(next(counted))
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return Turn(counted.sentences, counted.tokens, time.perf_counter() - start)


class TextBrewer:
    """TextBrewer 0.2.1.post1, driven as its examples do, without a line of it changed.

    What had to be adapted for torch 2.13 and transformers 5.23, and what was chosen in its favour:

    - It imports tensorboard even where nothing is logged: an empty module stands in where that is missing.
    - Its adaptors find `attentions` and `hidden_states` in what the models return. transformers 5 gives probabilities
      there; `scores_as_weights` gives the scores, so that it computes TinyBERT's loss and not another.
    - `train()` cannot be left and entered again (it adds the projections to the optimizer each time). Here its two
      halves are called: `initialize_training` once, then `train_with_num_steps` for each turn.
    - It writes a checkpoint at the end of each call, runs a progress bar, and expects a learning rate schedule: no
      checkpoint and no bar here, the schedule as in its examples.
    - Its examples pad each sentence to a fixed length: batches here are padded to their own longest sentence.
    - It copies all loss parts to Python numbers at every step, logged or not; that is its own.
    """

    name = "textbrewer"

    def __init__(self, setting: Setting) -> None:
        if not any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX")):
            stand_in = types.ModuleType("tensorboardX")
            stand_in.SummaryWriter = None  # type: ignore[attr-defined]
            sys.modules["tensorboardX"] = stand_in
        from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

        teacher, self.student = setting.models()
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=LR)
        # It makes the output directory at once, whatever is written there.
        with tempfile.TemporaryDirectory() as unused:
            self.distiller = GeneralDistiller(
                train_config=TrainingConfig(device="cpu", output_dir=unused, ckpt_steps=10**9),
                distill_config=DistillationConfig(intermediate_matches=self._matches(setting)),
                model_T=teacher,
                model_S=self.student,
                adaptor_T=self._adapt,
                adaptor_S=self._adapt,
            )
        self.distiller.save_and_callback = lambda *_: None
        schedule = {"num_warmup_steps": 100, "num_training_steps": 100_000}
        self.optimizer, self.scheduler, _ = self.distiller.initialize_training(
            optimizer, get_linear_schedule_with_warmup, schedule, None
        )
        for theirs, start in zip(self.distiller.projs, setting.projections(), strict=False):
            theirs.load_state_dict(start.state_dict())
        self.batches = endless(setting.rows, bucket=False)

    def loss(self, batch: Inputs) -> Tensor:
        """The sum of all parts for one batch."""
        return self.distiller.train_on_batch(batch, WANTED)[0]  # type: ignore[no-any-return]

    @staticmethod
    def _matches(setting: Setting) -> list[dict[str, Any]]:
        matches: list[dict[str, Any]] = []
        for m, n in setting.pairs:
            own = {"layer_T": n, "layer_S": m, "feature": "hidden", "loss": "hidden_mse", "weight": 1.0}
            matches.append({**own, "proj": ["linear", 312, 384, {"lr": LR}]})
        for m, n in setting.pairs[1:]:
            own = {"layer_T": n - 1, "layer_S": m - 1, "feature": "attention", "loss": "attention_mse"}
            matches.append({**own, "weight": 1.0})
        return matches

    @staticmethod
    def _adapt(batch: Inputs, output: Any) -> dict[str, Any]:
        found = {"hidden": output.hidden_states, "attention": output.attentions}
        return {**found, "inputs_mask": batch["attention_mask"]}

    def step_batches(self, n: int) -> Turn:
        """Train on the next `n` batches."""
        counted = Counted(self.batches)
        start = time.perf_counter()
        self.distiller.train_with_num_steps(
            self.optimizer, self.scheduler, True, counted, -1.0, n, None, None, **WANTED
        )
        return Turn(counted.sentences, counted.tokens, time.perf_counter() - start)
