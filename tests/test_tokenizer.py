"""Laws of trained tokenizers: text comes back, Hangul stays whole, the same texts give the same pieces."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer
from typer.testing import CliRunner

import attar
from attar.cli import app
from attar.errors import DataError, OutputError, RecipeError

KINDS = ("bpe", "wordpiece", "unigram")
SEEN = [
    "영화가 정말 재미있었어요! 배우들의 연기도 좋았고 음악도 좋았습니다.",
    "The film was not so good, but the cast is great: see the café scene.",
    "이 영화를 보고 나서 정말 많이 울었다… 배우의 연기가 좋다 ㅋㅋㅋ",
    "별로였어요. 시간이 아깝다! 감독의 다음 영화는 안 볼 것 같아요 😂👍",
    "다시 보고 싶은 영화, 정말 좋은 영화! 음악이 좋았어요 good film",
    "배우들의 연기가 좋았어요. 영화의 음악은 별로였습니다.",
]
# Syllables with all their parts, jamo, letters and the marks that compose with them, an emoji sequence.
HANGUL = st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3)
TEXT = st.text(
    st.one_of(
        HANGUL, st.sampled_from("각각ᄒ\u0301é e\u0308👨‍👩‍👧A!\n"), st.characters(exclude_categories=["Cs"])
    )
)
LETTERS = sorted({letter for text in SEEN for letter in text} - {" "})
KNOWN = st.lists(st.text(st.sampled_from(LETTERS), min_size=1, max_size=9), max_size=6).map(" ".join)


def nfc(text):
    return unicodedata.normalize("NFC", text)


def nfd(text):
    return unicodedata.normalize("NFD", text)


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizers")
    (out / "texts.txt").write_text("\n".join(SEEN * 4) + "\n", encoding="utf-8")
    return {kind: attar.tokenizer(out / "texts.txt", out=out / kind, kind=kind, vocab=400) for kind in KINDS}


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_bytes_give_every_text_back(trained, text):
    assert trained["bpe"].decode(ids(trained["bpe"], text)) == nfc(text)


@settings(max_examples=150, deadline=None)
@given(text=KNOWN)
def test_unigram_gives_back_all_letters_that_it_saw(trained, text):
    assert trained["unigram"].decode(ids(trained["unigram"], text)) == text
    assert trained["unigram"].decode(ids(trained["unigram"], f" {text}\n  ")) == text


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
@settings(max_examples=100, deadline=None)
@given(text=KNOWN)
def test_no_letter_that_was_seen_is_unknown(trained, kind, text):
    assert trained[kind].unk_token_id not in ids(trained[kind], text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=TEXT)
def test_both_forms_of_a_text_are_the_same_tokens(trained, kind, text):
    assert ids(trained[kind], nfd(text)) == ids(trained[kind], nfc(text))


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_no_piece_holds_parts_of_syllables_or_accents_alone(trained, kind):
    pieces = list(trained[kind].get_vocab())
    assert any("영화" in piece for piece in pieces)
    assert all(piece == nfc(piece) for piece in pieces)
    assert "é" in pieces


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lowercase", [False, True])
def test_the_same_texts_give_the_same_files(tmp_path, kind, lowercase):
    found = set()
    for name in "abc":
        options = {"vocab": 450, "coverage": 1 if kind == "bpe" else 0.98, "lowercase": lowercase}
        attar.tokenizer(SEEN * 4, out=tmp_path / name, kind=kind, **options)
        found.add((tmp_path / name / "tokenizer.json").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_small_letters_compose_like_others(tmp_path, kind):
    # T with a diaeresis has no capital of one letter; its small letter is one.
    made = attar.tokenizer(
        [*SEEN, "T\u0308 ẗ É é"] * 2, out=tmp_path / "t", kind=kind, vocab=500, lowercase=True
    )
    assert ids(made, "T\u0308 FILM É") == ids(made, "ẗ film é")
    assert made.decode(ids(made, "T\u0308 FILM É")) == "ẗ film é"


def test_an_encoder_sets_texts_and_pairs(trained, tmp_path):
    bpe = attar.tokenizer(SEEN, out=tmp_path / "bpe", kind="bpe", style="encoder", vocab=300)
    for made, typed in ((trained["wordpiece"], True), (trained["unigram"], True), (bpe, False)):
        assert made.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        encoded = made("좋다", "별로")
        tokens = made.convert_ids_to_tokens(encoded["input_ids"])
        assert (tokens[0], tokens.count("[SEP]"), tokens[-1]) == ("[CLS]", 2, "[SEP]")
        assert ("token_type_ids" in encoded) == typed
        if typed:
            assert encoded["token_type_ids"] == [0] * (tokens.index("[SEP]") + 1) + [1] * (
                len(tokens) - tokens.index("[SEP]") - 1
            )
        assert made("영화 [MASK]는")["input_ids"].count(made.mask_token_id) == 1
        assert "length" not in made(["가", "나 다 라"], padding=True)


def test_a_particle_after_a_mask_begins_no_word(trained):
    made = trained["unigram"]
    tokens = made.convert_ids_to_tokens(ids(made, "나는 [MASK]를 보고 [MASK] 좋다"))
    after = [tokens[n + 1] for n, token in enumerate(tokens) if token == "[MASK]"]
    assert [token.startswith("▁") for token in after] == [False, True]
    assert tokens[tokens.index("[MASK]") - 1] != "▁"


def test_a_decoder_adds_nothing_and_ends_by_a_token_of_its_own(trained, tmp_path):
    unigram = attar.tokenizer(SEEN * 4, out=tmp_path / "u", kind="unigram", style="decoder", vocab=400)
    for made in (trained["bpe"], unigram):
        assert made("영화")["input_ids"] == ids(made, "영화")
        assert made.bos_token == made.eos_token == "<|endoftext|>"
        assert made.pad_token_id not in {None, made.eos_token_id}
        assert made("영화<|endoftext|>")["input_ids"][-1] == made.eos_token_id
    assert unigram.unk_token_id in ids(unigram, "뷁")


@pytest.mark.parametrize(
    "model_type", ["bert", "distilbert", "electra", "albert", "roberta", "gpt2", "llama"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_beside_a_model_of_any_family(trained, tmp_path, kind, model_type):
    # AutoTokenizer reads the config too, and BERT's own tokenizer takes syllables apart.
    trained[kind].save_pretrained(tmp_path)
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*SEEN, nfd(SEEN[0]), "Café [MASK]", "갏뷁"):
        assert again(text)["input_ids"] == trained[kind](text)["input_ids"]
    assert again.special_tokens_map == trained[kind].special_tokens_map


def test_rare_letters_may_be_left_out(tmp_path):
    texts = [*SEEN * 20, "龘"]
    for kind in ("wordpiece", "unigram"):
        made = attar.tokenizer(texts, out=tmp_path / kind, kind=kind, vocab=600, coverage=0.999)
        assert "龘" not in "".join(made.get_vocab())
        assert made.unk_token_id in ids(made, "龘")
        assert made.unk_token_id not in ids(made, "영화가 정말")


def test_files_and_texts_give_the_same(trained, tmp_path):
    made = attar.tokenizer(SEEN * 4, out=tmp_path / "t", kind="wordpiece", vocab=400)
    assert made.get_vocab() == trained["wordpiece"].get_vocab()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least one line"),
        (b"\n  \n\n", "at least one line"),
        ("영화가 정말\n".encode("cp949"), "UTF-8"),
        ("영화가 정말\n".encode("utf-16"), "zero byte|UTF-8|text|binary"),
        (b"some text\n" * 10000 + b"\0\1\0", "zero byte|binary"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_text_is_refused_and_leaves_nothing(tmp_path, kind, content, message):
    (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        attar.tokenizer(tmp_path / "texts.txt", out=tmp_path / "t", kind=kind, vocab=300)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


def test_user_mistakes_are_named(tmp_path):
    for kind, message in (("bpe", "256 bytes"), ("wordpiece", "inside"), ("unigram", "letters")):
        with pytest.raises(DataError, match=message):
            attar.tokenizer(SEEN, out=tmp_path / "t", kind=kind, vocab=60)
    for options in (
        {"kind": "sentencepiece"},
        {"style": "both"},
        {"vocab": 0},
        {"coverage": 0},
        {"coverage": 1.5},
    ):
        with pytest.raises(RecipeError, match=next(iter(options))):
            attar.tokenizer(SEEN, out=tmp_path / "t", **options)
    with pytest.raises(DataError, match="no such file"):
        attar.tokenizer(tmp_path / "none.txt", out=tmp_path / "t")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError):
        attar.tokenizer(SEEN, out=tmp_path / "taken", overwrite=True)
    attar.tokenizer(SEEN, out=tmp_path / "t", vocab=300)
    with pytest.raises(OutputError, match="overwrite"):
        attar.tokenizer(SEEN, out=tmp_path / "t", vocab=300)
    attar.tokenizer(SEEN, out=tmp_path / "t", vocab=310, overwrite=True)


@pytest.mark.parametrize("kind", KINDS)
def test_one_endless_line(tmp_path, kind):
    (tmp_path / "texts.txt").write_text("".join(SEEN).replace(" ", "") * 200, encoding="utf-8")
    made = attar.tokenizer(tmp_path / "texts.txt", out=tmp_path / "t", kind=kind, vocab=400)
    assert len(ids(made, SEEN[0])) > 3


def test_the_command(tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(SEEN), encoding="utf-8")
    words = [
        "tokenizer",
        str(tmp_path / "texts.txt"),
        "--out",
        str(tmp_path / "t"),
        "--kind",
        "unigram",
        "--vocab",
    ]
    shown = CliRunner().invoke(app, [*words, "300"])
    assert shown.exit_code == 0, shown.output
    assert "tokens in" in shown.output
    assert AutoTokenizer.from_pretrained(tmp_path / "t").mask_token == "[MASK]"
    assert CliRunner().invoke(app, [*words, "10", "--overwrite"]).exit_code == 1
