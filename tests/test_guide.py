"""The examples of the guides run, on a tiny model in place of the reader's."""

import re
from functools import partial
from pathlib import Path

import attar
import tiny
from attar.model.checkpoint import load

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(guide: str) -> dict[str, object]:
    """Run a guide's blocks of Python one after the other, in the current directory; the names that they leave."""
    blocks = BLOCK.findall((DOCS / guide).read_text(encoding="utf-8"))
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    return names


def test_the_examples_of_the_guide_to_pruning_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The reader's number of steps is not the test's.
    monkeypatch.setattr(attar, "plan", partial(attar.plan, steps=2))
    monkeypatch.setattr(attar, "prune", partial(attar.prune, steps=2, recover_steps=2))
    tiny.saved(tmp_path / "my" / "fine-tuned-bert")
    Path("texts.txt").write_text("\n".join(tiny.texts(16)) + "\n")
    tiny.table(16, 1).to_csv("dev.csv")
    names = run("guide-pruning.md")
    sizes = {name: load(name).model.num_parameters() for name in ("my/fine-tuned-bert", "small", "smaller")}
    assert sizes["smaller"] < sizes["small"] < sizes["my/fine-tuned-bert"]
    assert names["report"].rows[1].metrics["agreement"] > 0  # type: ignore[attr-defined]


def test_the_examples_of_the_guide_to_language_models_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = {"epochs": 1, "batch_size": 16, "max_length": 16, "precision": "fp32"}
    monkeypatch.setattr(attar, "distill_lm", partial(attar.distill_lm, **quick))
    monkeypatch.setattr(attar, "pretrain", partial(attar.pretrain, **quick))
    tiny.model("gpt2", "causal-lm").save_pretrained("my/gpt")
    tiny.decoder_tokenizer().save_pretrained("my/gpt")
    Path("texts.txt").write_text("\n".join(tiny.texts(60)) + "\n")
    names = run("guide-language-models.md")
    teacher, student = names["report"].rows  # type: ignore[attr-defined]
    assert student.parameters < teacher.parameters
    assert names["alone"].rows[0].metrics["perplexity"] < names["alone"].rows[1].metrics["perplexity"]  # type: ignore[attr-defined]
    assert [one.name for one in names["found"].says] == ["gpt", "small"]  # type: ignore[attr-defined]
