"""The examples of the guides run, on a tiny model in place of the reader's."""

import re
from functools import partial
from pathlib import Path

import pytest

import attar
import tiny
from attar.model.checkpoint import load

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("guide", ["guide-pruning.md"])
def test_the_examples_of_a_guide_run(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The reader's number of steps is not the test's.
    monkeypatch.setattr(attar, "plan", partial(attar.plan, steps=2))
    monkeypatch.setattr(attar, "prune", partial(attar.prune, steps=2, recover_steps=2))
    tiny.saved(tmp_path / "my" / "fine-tuned-bert")
    Path("texts.txt").write_text("\n".join(tiny.texts(16)) + "\n")
    tiny.table(16, 1).to_csv("dev.csv")
    blocks = BLOCK.findall((DOCS / guide).read_text(encoding="utf-8"))
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    sizes = {name: load(name).model.num_parameters() for name in ("my/fine-tuned-bert", "small", "smaller")}
    assert sizes["smaller"] < sizes["small"] < sizes["my/fine-tuned-bert"]
    assert names["report"].rows[1].metrics["agreement"] > 0  # type: ignore[attr-defined]
