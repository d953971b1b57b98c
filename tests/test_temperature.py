"""Laws of the temperature picture: softmax of the model's own logits, entropy that grows, an order that stays."""

import math
from io import StringIO
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import attar
import tiny
from attar.cli import app
from attar.errors import DataError, ModelError, OutputError, RecipeError
from attar.evaluation.temperature import shown

MASKED, PLAIN = "the film was [MASK] and warm", "the film was"
FAMILIES = [("bert", "masked-lm"), ("modernbert", "masked-lm"), ("gpt2", "causal-lm"), ("qwen3", "causal-lm")]


def given(family, head):
    tokenizer = tiny.tokenizer(family) if head == "masked-lm" else tiny.decoder_tokenizer()
    return tiny.model(family, head), tokenizer, MASKED if head == "masked-lm" else PLAIN


@pytest.fixture(scope="module")
def picture():
    model, tokenizer, text = given("bert", "masked-lm")
    return attar.temperature(model, text, tokenizer=tokenizer)


@pytest.mark.parametrize(("family", "head"), FAMILIES)
def test_it_is_softmax_of_the_models_logits(family, head):
    model, tokenizer, text = given(family, head)
    with torch.no_grad():
        encoded = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        logits = model(**encoded).logits[0]
    place = encoded["input_ids"][0].tolist().index(4) if head == "masked-lm" else -1
    found = attar.temperature(model, text, tokenizer=tokenizer, temperatures=(1, 2.5), top=tiny.VOCAB + 5)
    for warm in found.at:
        expected = (logits[place] / warm.temperature).softmax(-1)
        best = expected.sort(descending=True)
        assert warm.probabilities == pytest.approx(best.values.tolist(), abs=1e-6)
        assert sum(warm.probabilities) == pytest.approx(1)
        assert warm.entropy == pytest.approx(-(expected * expected.log()).sum().item(), abs=1e-5)
        # The tiny vocabulary has a row of which no token knows.
        named = [piece or "<18>" for piece in tokenizer.convert_ids_to_tokens(best.indices)]
        assert list(found.tokens) == named


def test_entropy_grows_and_the_order_stays(picture):
    assert [warm.temperature for warm in picture.at] == [1, 2, 3, 6]
    entropies = [warm.entropy for warm in picture.at]
    assert entropies == sorted(set(entropies))
    assert entropies[-1] < math.log(tiny.VOCAB)
    for warm in picture.at:
        assert list(warm.probabilities) == sorted(warm.probabilities, reverse=True)
        assert warm.bits == pytest.approx(math.log2(warm.choices))
    ratios = [warm.probabilities[0] / warm.probabilities[1] for warm in picture.at]
    assert ratios[1] == pytest.approx(ratios[0] ** (1 / 2))  # what is twice as likely is a root of 2 at t = 2


def test_limits():
    model, tokenizer, text = given("gpt2", "causal-lm")
    found = attar.temperature(model, text, tokenizer=tokenizer, temperatures=(1e-4, 1e6), top=3)
    assert found.at[0].probabilities == pytest.approx((1, 0, 0))
    assert found.at[0].entropy == pytest.approx(0, abs=1e-6)
    assert found.at[1].choices == pytest.approx(tiny.VOCAB, rel=1e-4)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_finds_room(picture, width):
    file = StringIO()
    Console(file=file, width=width).print(picture.table(width))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any("equal choices" in line for line in lines)
    assert all(any(line.startswith(token) for line in lines) for token in picture.tokens)
    assert "…" not in file.getvalue()


def test_the_drawing_stands_alone(picture, tmp_path):
    svg = ElementTree.fromstring(picture.write(tmp_path / "new" / "t.svg").read_text(encoding="utf-8"))
    name = "{http://www.w3.org/2000/svg}"
    bars = [float(bar.get("width")) for bar in svg.iter(f"{name}rect")]
    assert len(bars) == 4 * len(picture.tokens)
    longest = max(bars)
    for column, warm in enumerate(picture.at):
        own = bars[10 * column : 10 * (column + 1)]
        assert own[0] == longest
        assert own[1] / own[0] == pytest.approx(warm.probabilities[1] / warm.probabilities[0], abs=0.02)
    page = picture.write(tmp_path / "t.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("<rect") == len(bars)
    with pytest.raises(OutputError, match="html"):
        picture.write(tmp_path / "t.png")


def test_what_the_user_wrote_is_escaped(tmp_path):
    model, tokenizer, _ = given("gpt2", "causal-lm")
    found = attar.temperature(model, "<script>alert(1)</script> the film", tokenizer=tokenizer)
    assert "<script" not in found.write(tmp_path / "t.html").read_text(encoding="utf-8")


def test_tokens_are_shown_as_text(tmp_path):
    texts = ["영화가 정말 좋다 the film was good"] * 3
    made = attar.tokenizer(texts, out=tmp_path / "t", vocab=300)
    ids = made("영화가 정말\n뷁")["input_ids"]
    told = [shown(made, number) for number in ids]
    assert told[:2] == ["영화가", "␣정말"]
    assert told[2] == "⏎"
    assert "".join(told[3:]) == "".join(f"<{byte:02X}>" for byte in "뷁".encode())
    assert shown(made, made.eos_token_id) == "<|endoftext|>"
    assert shown(made, 10**6) == "<1000000>"


def test_user_mistakes_are_named(tmp_path):
    model, tokenizer, _ = given("bert", "masked-lm")
    for text, message in ((PLAIN, "one \\[MASK\\]"), ("[MASK] [MASK]", "found 2"), (" ", "a text")):
        with pytest.raises(DataError, match=message):
            attar.temperature(model, text, tokenizer=tokenizer)
    with pytest.raises(DataError, match="80 tokens"):
        attar.temperature(model, "film " * 99 + "[MASK]", tokenizer=tokenizer)
    for options in ({"temperatures": (1, 0)}, {"temperatures": ()}, {"top": 0}):
        with pytest.raises(RecipeError, match=next(iter(options))):
            attar.temperature(model, MASKED, tokenizer=tokenizer, **options)
    with pytest.raises(ModelError, match="language model"):
        attar.temperature(tiny.model(), MASKED, tokenizer=tokenizer)
    decoder, words, _ = given("gpt2", "causal-lm")
    with pytest.raises(DataError, match="a text"):
        attar.temperature(decoder, "", tokenizer=words)


def test_the_command(tmp_path):
    place = str(tiny.saved(tmp_path / "model", head="masked-lm"))
    words = ["temperature", place, "--text", MASKED, "--temperatures", "1,4", "--top", "3"]
    shown = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "t.html")], env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    assert "t = 4" in shown.output
    assert (tmp_path / "t.html").is_file()
    assert CliRunner().invoke(app, [*words[:4], "--temperatures", "1,x"]).exit_code == 1
