"""Laws of continuing a prompt: greedy is the likeliest token each time, a seed is a text; strangers load students."""

import json
from io import StringIO

import pytest
import torch
from datasets import disable_progress_bars
from rich.console import Console
from transformers import pipeline
from typer.testing import CliRunner

import attar
import tiny
from attar.cli import app
from attar.distillation.student import student
from attar.errors import DataError, ModelError, RecipeError
from attar.model.checkpoint import save

PROMPT = "the film was"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    where = tmp_path_factory.mktemp("generate")
    teacher, tokenizer = tiny.model("gpt2", "causal-lm"), tiny.decoder_tokenizer()
    save(teacher, tokenizer, where / "teacher", lineage={})
    save(student(teacher, layers=1, init="layers").model, tokenizer, where / "student", lineage={})
    return where


def next_tokens(model, tokenizer, length):
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(length):
        with torch.no_grad():
            best = model(input_ids=ids).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, best[None]], 1)
        if best == tokenizer.eos_token_id:
            break
    return ids[0, start:]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen3"])
def test_greedy_is_the_likeliest_token_each_time(family):
    model, tokenizer = tiny.model(family, "causal-lm"), tiny.decoder_tokenizer()
    said = attar.generate(model, PROMPT, tokenizer=tokenizer, length=8).says[0]
    expected = next_tokens(model, tokenizer, 8)
    assert said.text == tokenizer.decode(expected, skip_special_tokens=True)
    assert said.tokens == len(expected)
    assert said.speed > 0


def test_it_ends_where_the_model_does():
    model, tokenizer = tiny.model("gpt2", "causal-lm"), tiny.decoder_tokenizer()
    first, second = next_tokens(model, tokenizer, 2).tolist()
    assert first == second
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first)
    said = attar.generate(model, PROMPT, tokenizer=tokenizer, length=8).says[0]
    assert said.tokens == 1


def test_a_seed_is_a_text_and_leaves_chance_alone(place):
    options = {"temperature": 1.5, "length": 12}
    state = torch.get_rng_state()
    one, again = (attar.generate([place / "teacher"] * 2, PROMPT, seed=1, **options) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    texts = [said.text for said in (*one.says, *again.says)]
    assert len(set(texts)) == 1
    assert attar.generate(place / "teacher", PROMPT, seed=2, **options).says[0].text != texts[0]
    # So few of the likeliest tokens that there is no choice left: greedy.
    narrow = attar.generate(place / "teacher", PROMPT, top_p=1e-6, **options).says[0].text
    assert narrow == attar.generate(place / "teacher", PROMPT, length=12).says[0].text


def test_draws_follow_softmax_of_the_logits_over_the_temperature():
    model, tokenizer = tiny.model("gpt2", "causal-lm"), tiny.decoder_tokenizer()
    model.generation_config.top_k, model.generation_config.temperature = (
        1,
        9.0,
    )  # which is not what was asked for
    warm = attar.temperature(model, PROMPT, tokenizer=tokenizer, temperatures=(3,), top=tiny.VOCAB)
    drawn = [
        attar.generate(model, PROMPT, tokenizer=tokenizer, temperature=3, length=1, seed=seed).says[0].text
        for seed in range(80)
    ]
    best, share = warm.tokens[0], warm.at[0].probabilities[0]
    assert len(set(drawn)) > 10
    assert abs(drawn.count(best) / 80 - share) < 4 * (share * (1 - share) / 80) ** 0.5


def test_models_stand_side_by_side(place):
    found = attar.generate([place / "teacher", place / "student"], PROMPT, length=5)
    assert [said.name for said in found.says] == ["teacher", "student"]
    assert found.says[0].parameters > found.says[1].parameters
    file = StringIO()
    Console(file=file, width=80).print(found.table())
    head = next(line for line in file.getvalue().splitlines() if "teacher" in line)
    assert head.index("teacher") < head.index("student")
    assert "tokens" in file.getvalue()


def test_a_student_loads_in_a_strangers_pipeline(place):
    for name in ("teacher", "student"):
        theirs = pipeline("text-generation", model=str(place / name))(
            PROMPT, max_new_tokens=6, do_sample=False, return_full_text=False
        )
        assert (
            theirs[0]["generated_text"].strip() == attar.generate(place / name, PROMPT, length=6).says[0].text
        )


@pytest.mark.filterwarnings("default")
def test_a_student_is_measured_by_lm_eval(place, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval", reason="pip install lm-eval")
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    disable_progress_bars()
    rows = [
        {"text": PROMPT, "choices": ["good", "bad"], "label": 0},
        {"text": "the plot is", "choices": ["dull", "fine"], "label": 1},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = ConfigurableTask(
        config={
            "task": "tiny",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{text}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{label}}",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    )
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(place / "student"), device="cpu", batch_size=2),
        tasks=[task],
        bootstrap_iters=0,
    )
    right = 0
    for row, sample in zip(rows, sorted(found["samples"]["tiny"], key=lambda s: s["doc_id"]), strict=True):
        warm = attar.temperature(place / "student", row["text"], temperatures=(1,), top=tiny.VOCAB)
        told = dict(zip(warm.tokens, warm.at[0].probabilities, strict=True))
        ours = [told[choice] for choice in row["choices"]]
        theirs = [torch.tensor(float(said[0])).exp().item() for said in sample["filtered_resps"]]
        assert theirs == pytest.approx(ours, rel=1e-4)
        right += ours.index(max(ours)) == row["label"]
    assert found["results"]["tiny"]["acc,none"] == right / 2


def test_user_mistakes_are_named(place, tmp_path):
    for family, head in (("bert", "masked-lm"), ("bert", "sequence-classification")):
        with pytest.raises(ModelError, match="causal language model"):
            attar.generate(tiny.model(family, head), PROMPT, tokenizer=tiny.tokenizer())
    teacher = place / "teacher"
    for options in ({"length": 0}, {"temperature": 0.0}, {"temperature": 1, "top_p": 0}, {"top_p": 0.5}):
        with pytest.raises((DataError, RecipeError), match=list(options)[-1]):
            attar.generate(teacher, PROMPT, **options)
    with pytest.raises(DataError, match="a prompt"):
        attar.generate(teacher, "  ")
    with pytest.raises(DataError, match="set length to 77"):
        attar.generate(teacher, PROMPT, length=78)


def test_the_command(place):
    words = ["generate", str(place / "teacher"), str(place / "student"), "--prompt", PROMPT, "--length", "4"]
    shown = CliRunner().invoke(app, [*words, "--temperature", "0.5", "--top-p", "0.9"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    assert "teacher" in shown.output
    assert max(map(len, shown.stdout.splitlines())) <= 80
