"""Laws of `fit`: how a step is split does not matter, nor whether it was interrupted; what is not finite stops it."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import nn

import tiny
from attar.data.batches import Batches, Counts
from attar.data.tasks import Task
from attar.errors import OutputError, TrainingError
from attar.training.finetuning import Supervised
from attar.training.loop import _groups, _linear, check_whole, fit, settle
from attar.training.used_embeddings import used_rows

BINARY = Task("single_label", ("bad", "good"))


def learner(dropout=0.0, seed=0, family="bert"):
    return Supervised(
        tiny.model(family, seed=seed, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout),
        BINARY,
    )


def run(module, batches, *, stop=None, **options):
    steps = []
    for step in fit(module, batches, **{"epochs": 2, "lr": 3e-3, "precision": "fp32", **options}):
        steps.append(step)
        if step.index == stop:
            break
    return steps


class Recorded:
    """The global batches of `Batches`, each cut into micro-batches of `size` rows."""

    def __init__(self, size, whole=8):
        self.size, self.whole = size, whole
        self.inner = tiny.batches(tiny.table(24, longest=12), batch_size=whole, shuffle=True, bucket=False)

    def __len__(self):
        return len(self.inner) * self.whole // self.size

    def epoch(self, number=0, *, start=0):
        cuts = [
            rows[i : i + self.size]
            for rows in self.inner.order(number)
            for i in range(0, self.whole, self.size)
        ]
        for rows in cuts[start:]:
            yield self.inner.rows(rows)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_accumulation_is_a_large_batch(size):
    whole, split = learner(), learner()
    first = run(whole, Recorded(8))
    second = run(split, Recorded(size), accumulate=8 // size)
    assert [s.index for s in first] == [s.index for s in second] == [1, 2, 3, 4, 5, 6]
    assert [s.loss for s in second] == pytest.approx([s.loss for s in first], rel=1e-4)
    assert tiny.difference(whole, split) < 2e-5
    assert tiny.difference(whole, learner()) > 1e-3


def test_every_micro_batch_is_used_once_where_they_do_not_fill_the_last_step():
    seen = []

    class Noted(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, batch):
            seen.extend(batch.index.tolist())
            return {"loss": (self.w * 0).sum()}

    source = tiny.batches(tiny.table(23), batch_size=4, shuffle=True)
    steps = run(Noted(), source, epochs=2, accumulate=4)
    assert sorted(seen) == sorted([*range(23), *range(23)])
    assert [(s.index, s.epoch, s.last_of_epoch) for s in steps] == [
        (1, 0, False),
        (2, 0, True),
        (3, 1, False),
        (4, 1, True),
    ]


@pytest.mark.parametrize("stop", [1, 4, 5, 7])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, stop):
    source = tiny.batches(tiny.table(24), batch_size=6, shuffle=True)
    whole, options = learner(dropout=0.3), {"epochs": 3, "every": 2}
    first = run(whole, source, **options)
    cut = learner(dropout=0.3)
    run(cut, source, stop=stop, checkpoint=tmp_path / "state", **options)
    torch.manual_seed(99)  # what happened in between must not matter
    again = learner(dropout=0.3, seed=5 if stop > 2 else 0)  # a state holds the weights too
    rest = run(again, source, checkpoint=tmp_path / "state", **options)
    # A step counts as done once the caller asks for the next: the one it stopped at is repeated.
    done = max((i for i in (2, 4, 6, 8, 10) if i < stop), default=0)
    assert rest[0].index == done + 1
    assert [(s.loss, s.lr) for s in rest] == [(s.loss, s.lr) for s in first[done:]]
    assert tiny.identical(whole, again)


def test_dropout_is_at_work_in_the_law_above():
    source = tiny.batches(tiny.table(24), batch_size=6, shuffle=True)
    one, other = learner(dropout=0.3), learner(dropout=0.3)
    run(one, source, seed=1)
    run(other, source, seed=2)
    assert tiny.difference(one, other) > 1e-4


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    source = tiny.batches(tiny.table(24), batch_size=6, shuffle=True)
    state = tmp_path / "state"
    run(learner(), source, stop=6, checkpoint=state, every=2)
    state.rename(tmp_path / "state.old")
    (tmp_path / "state.new").mkdir()
    (tmp_path / "state.new" / "half").write_text("written")
    rest = run(learner(), source, checkpoint=state, every=2)
    assert [s.index for s in rest] == [5, 6, 7, 8]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state"]


def test_a_state_of_other_processes_is_refused(tmp_path):
    source = tiny.batches(tiny.table(24), batch_size=6)
    run(learner(), source, stop=6, checkpoint=tmp_path / "state", every=2)
    text = (tmp_path / "state" / "step.json").read_text()
    (tmp_path / "state" / "step.json").write_text(text.replace('"processes": 1', '"processes": 2'))
    with pytest.raises(TrainingError, match="expected 2 processes"):
        run(learner(), source, checkpoint=tmp_path / "state")


class Poisoned(Supervised):
    """NaN at one step."""

    def forward(self, batch):
        self.calls = getattr(self, "calls", 0) + 1
        parts = super().forward(batch)
        return {"task": parts["task"] * (float("nan") if self.calls == 5 else 1.0)}


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_state(tmp_path):
    source = tiny.batches(tiny.table(24), batch_size=6)
    module = Poisoned(tiny.model(), BINARY)
    done = []
    with pytest.raises(TrainingError, match="task nan at step 5") as caught:
        done.extend(
            fit(module, source, epochs=2, lr=1e-3, precision="fp32", checkpoint=tmp_path / "state", every=2)
        )
    assert "last good state" in caught.value.found
    assert all(p.isfinite().all() for p in module.parameters())
    rest = run(learner(), source, checkpoint=tmp_path / "state")
    assert rest[0].index == 5


def test_decay_is_for_matrices_that_are_no_embeddings():
    module = learner()
    decayed, kept = _groups(module, 0.01)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)
    names = {id(p): n for n, p in module.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        n for n, p in module.named_parameters() if p.ndim == 2 and "embeddings" not in n
    }
    assert len(decayed["params"]) + len(kept["params"]) == len(list(module.parameters()))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    rates = [_linear(i, 100, 0.1) for i in range(100)]
    assert rates[10] == max(rates) == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02
    assert rates[0] > 0
    assert [_linear(i, 4, 0.0) for i in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert math.isfinite(_linear(0, 1, 0.1))


def test_steps_tell_what_was_done():
    source = tiny.batches(tiny.table(24), batch_size=6)
    steps = run(learner(), source, lr=1e-3)
    assert [s.lr for s in steps] == pytest.approx([1e-3 * _linear(i, 8, 0.1) for i in range(8)])
    assert all(s.loss == s.parts["task"] for s in steps)
    assert [s.last_of_epoch for s in steps] == [False, False, False, True] * 2


def test_fitting_lowers_the_loss():
    source = tiny.batches(tiny.table(32), batch_size=8, shuffle=True)
    steps = run(learner(), source, epochs=8, lr=5e-3)
    assert sum(s.loss for s in steps[-4:]) < 0.6 * sum(s.loss for s in steps[:4])


def test_only_the_used_rows_of_an_embedding_give_the_same_weights():
    rows = Dataset.from_dict(
        {"text": ["good film", "bad film", "the cast is good", "dull"], "label": [1, 0, 1, 0]}
    )
    source = tiny.batches(rows, batch_size=2, shuffle=True)
    whole, part = learner(), learner()
    before = part.model.get_input_embeddings()
    run(whole, source)
    with used_rows(part.model, source):
        assert part.model.get_input_embeddings().weight.shape[0] < tiny.VOCAB / 2
        run(part, source)
    assert part.model.get_input_embeddings() is before
    assert tiny.difference(whole, part) < 1e-6
    assert tiny.difference(whole, learner()) > 1e-3


def test_padding_has_a_row_though_no_text_uses_it():
    model = tiny.model("bert")
    model.get_input_embeddings().padding_idx = None
    source = tiny.batches(["good", "the film is bad"])
    batch = next(iter(source))
    expected = model(**batch.inputs).logits
    with used_rows(model, source):
        torch.testing.assert_close(model(**batch.inputs).logits, expected)


def test_a_process_without_a_row_adds_nothing_and_takes_nothing_away():
    # Two processes, batches of one row: in each, one process has no row of its own. Gradients are averaged over both.
    rows = tiny.table(8)
    one = tiny.batches(rows, batch_size=1)
    shares = [tiny.batches(rows, batch_size=1, rank=r, world=2) for r in range(2)]
    from attar.training.loop import _share_counts

    module = learner()

    def gradients(micro):
        module.zero_grad()
        for batch in micro:
            module(batch)["task"].backward()
        return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    whole = gradients(_share_counts(list(one.epoch(0))[:4]))
    split = sum(gradients(_share_counts(list(share.epoch(0))[:4])) for share in shares) / 2
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)
    assert whole.abs().max() > 1e-3


def test_precision_is_settled_once():
    assert settle("auto") == settle("auto")
    assert (settle("fp32"), settle("bf16")) == ("fp32", "bf16")


def test_bf16_trains_and_its_weights_stay_fp32():
    source = tiny.batches(tiny.table(16), batch_size=8)
    module = learner()
    steps = run(module, source, precision="bf16", epochs=1)
    assert all(math.isfinite(s.loss) for s in steps)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert run(learner(), source, epochs=1)[0].loss == pytest.approx(steps[0].loss, rel=0.05)


def test_a_full_disk_is_told_and_leaves_the_last_state(tmp_path, monkeypatch):
    source = tiny.batches(tiny.table(24), batch_size=6)
    state = tmp_path / "state"
    module = learner()
    steps = fit(module, source, epochs=2, lr=1e-3, precision="fp32", checkpoint=state, every=2)
    while next(steps).index < 5:
        pass

    def full(*_args, **_options):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="free space"):
        list(steps)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert run(learner(), source, checkpoint=state)[0].index == 5


def test_counts_add_up():
    counts = Counts.of([3, 4])
    assert (counts.examples, counts.tokens, counts.pairs) == (2.0, 7.0, 25.0)
    assert counts + Counts.of([5]) == Counts.of([3, 4, 5])
    assert replace(counts / 2, examples=1.0).tokens == 3.5
    assert isinstance(tiny.batches(), Batches)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_model_that_is_parted_among_processes_is_refused(kind):
    with pytest.raises(TrainingError, match=f"{kind}, which parts it"):
        check_whole(DistributedType(kind))
