"""Laws of augmentation: what is replaced, what is kept, and batched candidates as those of one forward pass each."""

import json
import math

import numpy as np
import pytest
import regex
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from attar.augmentation import (
    EmbeddingCandidates,
    MaskedLMCandidates,
    PaperCandidates,
    VocabularyCandidates,
    WordVectorCandidates,
    augment,
)
from attar.augmentation.words import is_word, match_case, words
from attar.errors import DataError, ModelError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WHOLE = [
    *"a the film movie good bad great dull cast plot is was story actor and very seen won".split(),
    *"café 영화 좋다 정말 배우 3".split(),
]
PIECES = [*SPECIAL, "[unused1]", *WHOLE, "##s", "##ing", "##ly", ",", ".", "!", "'", "-", "##der"]
TEXTS = [
    "The film is good, and the cast great!",
    "A dull plot.",
    "wonders  -- seen  the films",
    "정말 좋다 영화 café!",
]
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


class Swap:
    """Replaces any word with one of two that name it."""

    def find(self, places, k):
        return [[f"{place.word}{mark}" for mark in "xyz"[:k]] for place in places]


@pytest.fixture(scope="module")
def tokenizer():
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(PIECES)}, strip_accents=False)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(vocab_size=len(PIECES), initializer_range=0.5, **SIZE)).eval()


@pytest.fixture(scope="module")
def vectors():
    table = np.random.default_rng(0).normal(size=(len(WHOLE), 8))
    return WordVectorCandidates(WHOLE, table), table


@pytest.fixture(scope="module")
def byte_level():
    pieces = ["Ġgood", "good", "Ġfilm", "Ġbad", "bad", "Ġcaf", "Ã©", "ing", "Ġing!", "(", "Ġ(", "Ġ", "Ġgreat"]
    vocabulary = {p: i for i, p in enumerate(["<pad>", "<s>", "</s>", "<unk>", "<mask>", *pieces])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        bos_token="<s>",
        eos_token="</s>",
    )


def table(texts=TEXTS, **columns):
    return Dataset.from_dict({"text": list(texts), **columns})


def places(texts=TEXTS):
    return [place for text in texts for place in words(text)]


def copies(result):
    return result.filter(lambda row: row["source"] >= 0)


def test_words_are_those_of_unicode():
    text = "Don't stop, 안녕하세요 cafe\u0301 3.5 stars — नमस्ते!"
    assert [p.word for p in words(text)] == ["Don't", "stop", "안녕하세요", "cafe\u0301", "stars", "नमस्ते"]


def test_case_of_the_original_is_kept():
    assert [match_case("new", like) for like in ("old", "Old", "OLD", "A")] == ["new", "New", "NEW", "New"]
    assert match_case("iPhone", "OLD") == "iPhone"


def test_probability_zero_gives_the_rows_alone():
    rows = table(label=[0, 1, 0, 1])
    result = augment(rows, Swap(), probability=0)
    assert result.remove_columns("source")[:] == rows[:]
    assert result["source"][:] == [-1] * len(rows)


def test_probability_one_replaces_every_word_that_has_candidates():
    for row in copies(augment(table(), Swap(), probability=1, copies=3)):
        before, after = words(TEXTS[row["source"]]), words(row["text"])
        assert [p.word for p in before] == [p.word[:-1] for p in after]


def test_share_of_replaced_words_is_binomial():
    text = " ".join(["word"] * 50)
    result = copies(augment(table([text]), Swap(), copies=200, probability=0.4))
    n = 50 * len(result)
    replaced = sum(word != "word" for row in result["text"] for word in row.split())
    assert abs(replaced / n - 0.4) < 5 * math.sqrt(0.4 * 0.6 / n)


def test_candidates_are_drawn_uniformly():
    text = " ".join(["word"] * 50)
    result = copies(augment(table([text]), Swap(), copies=200, probability=1, k=3))
    drawn = [word[-1] for row in result["text"] for word in row.split()]
    counts = np.array([drawn.count(mark) for mark in "xyz"])
    assert (np.abs(counts / len(drawn) - 1 / 3) < 5 * math.sqrt(2 / 9 / len(drawn))).all()


def test_same_seed_same_copies_whatever_the_batch(model, tokenizer):
    first = augment(table(), MaskedLMCandidates(model, tokenizer), seed=3, copies=5)
    again = augment(table(), MaskedLMCandidates(model, tokenizer), seed=3, copies=5, batch_size=1)
    other = augment(table(), MaskedLMCandidates(model, tokenizer), seed=4, copies=5)
    assert first[:] == again[:]
    assert first["text"][:] != other["text"][:]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3), st.floats(0, 1), st.integers(0, 5))
def test_what_is_between_words_is_kept(texts, probability, seed):
    mark = regex.compile(r"\p{Co}")
    texts = [mark.sub("", text) for text in texts]

    class Mark:
        def find(self, places, k):
            return [[chr(0xE000 + n) + place.word for n in range(2)] for place in places]

    result = augment(table(texts), Mark(), probability=probability, copies=4, seed=seed)
    assert result["text"][: len(texts)] == texts
    for row in copies(result):
        assert mark.sub("", row["text"]) == texts[row["source"]]


def test_columns_are_carried_over_and_pairs_augmented_on_both_sides():
    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=["no", "yes"]),
            "text_pair": Value("string"),
            "all": List(Value("float32")),
        }
    )
    rows = Dataset.from_dict(
        {"text": ["a b", "c"], "label": [1, 0], "text_pair": ["d", "e f"], "all": [[1.0], [2.0, 3.0]]},
        features=features,
    )
    result = augment(rows.shuffle(seed=1), Swap(), probability=1, copies=4)
    assert {k: v for k, v in result.features.items() if k != "source"} == features
    originals = result[:2]
    for row in copies(result):
        n = row["source"]
        assert (row["label"], row["all"]) == (originals["label"][n], originals["all"][n])
        for side in ("text", "text_pair"):
            assert row[side] != originals[side][n]
            assert row[side].translate({ord(mark): None for mark in "xyz"}) == originals[side][n]


def test_no_copy_comes_twice():
    result = augment(table(["word", "word", "1 2 3"]), Swap(), copies=50, probability=0.5)
    assert sorted(zip(result["source"][:], result["text"][:], strict=True)) == sorted(
        [(-1, "word"), (-1, "word"), (-1, "1 2 3"), *((n, f"word{mark}") for n in (0, 1) for mark in "xyz")]
    )


def test_equal_texts_are_looked_up_once():
    asked = []

    class Count(Swap):
        def find(self, places, k):
            asked.extend(places)
            return super().find(places, k)

    augment(table(["one two", "three", "one two", "one two"]), Count(), probability=1, batch_size=1)
    assert sorted(place.word for place in asked) == ["one", "three", "two"]


def one_at_a_time(model, tokenizer, place, k):
    """The paper's words: one sentence, one mask, the whole head, the most probable whole words but the word itself."""
    encoded = tokenizer(place.text, return_tensors="pt")
    position = encoded.char_to_token(place.start)
    if encoded.char_to_token(place.end - 1) != position:
        return []
    encoded["input_ids"][0, position] = tokenizer.mask_token_id
    with torch.no_grad():
        order = model(**encoded).logits[0, position].argsort(descending=True)
    ranked = [PIECES[i] for i in order]
    whole = [w for w in ranked if w in WHOLE and w != "3" and w != place.word.lower()]
    return [match_case(w, place.word) for w in whole[:k]]


@pytest.mark.parametrize("tokens", [1, 40, 4096])
def test_batched_candidates_are_those_of_one_masked_word_at_a_time(model, tokenizer, tokens):
    found = MaskedLMCandidates(model, tokenizer, tokens=tokens).find(places(), 4)
    expected = [one_at_a_time(model, tokenizer, place, 4) for place in places()]
    assert [sorted(c) for c in found] == [sorted(c) for c in expected]
    assert sum(map(bool, found)) == len(found) - 2  # "wonders" and "films" are of several pieces


def test_head_sees_the_masked_positions_only(model, tokenizer):
    seen = []
    handle = model.cls.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[:2]))
    MaskedLMCandidates(model, tokenizer).find(places(), 3)
    handle.remove()
    assert sum(rows * columns for rows, columns in seen) == len(places()) - 2


@pytest.mark.parametrize("masks", ["one", "several", "none"])
def test_candidates_do_not_depend_on_what_else_is_asked(model, tokenizer, masks):
    source = MaskedLMCandidates(model, tokenizer, masks=masks)
    asked = places([*TEXTS, "the film " * 10])
    assert source.find(asked, 3) == [source.find([place], 3)[0] for place in asked]


@pytest.mark.parametrize("masks", ["one", "several", "none"])
def test_long_texts_are_seen_through_a_window(model, tokenizer, masks):
    text = "the film was good and " * 30
    found = MaskedLMCandidates(model, tokenizer, max_length=16, masks=masks).find(words(text), 3)
    assert all(len(candidates) == 3 for candidates in found)
    # Far from both ends the windows of one mask are alike, wherever the text was cut.
    middle = slice(50, 55)
    assert masks != "one" or found[middle] == found[55:60]


@pytest.mark.parametrize("build", [RobertaForMaskedLM, ModernBertForMaskedLM])
def test_other_heads_see_gathered_states_too(tokenizer, build):
    torch.manual_seed(0)
    config = {RobertaForMaskedLM: RobertaConfig, ModernBertForMaskedLM: ModernBertConfig}[build]
    model = build(config(vocab_size=len(PIECES), pad_token_id=0, initializer_range=0.5, **SIZE)).eval()
    found = MaskedLMCandidates(model, tokenizer).find(places(), 4)
    assert [sorted(c) for c in found] == [sorted(one_at_a_time(model, tokenizer, p, 4)) for p in places()]


def test_every_candidate_is_a_whole_word(model, tokenizer, vectors):
    for source in (MaskedLMCandidates(model, tokenizer), EmbeddingCandidates(model, tokenizer), vectors[0]):
        found = source.find(places(), 100)
        known = {word for candidates in found for word in candidates}
        assert known
        assert all(is_word(word) and word.lower() in WHOLE for word in known)
        assert not any(p.word.lower() in map(str.lower, c) for p, c in zip(places(), found, strict=True))


def test_words_of_the_vocabulary_are_drawn_whatever_they_mean_and_some_are_joined(tokenizer):
    source, whole = VocabularyCandidates(tokenizer), sorted({word for word in WHOLE if is_word(word)})
    found = source.find(places(), 2000)
    assert found == source.find(places()[::-1], 2000)[::-1]
    for place, candidates in zip(places(), found, strict=True):
        single = {word.lower() for word in candidates} & {word.lower() for word in whole}
        assert single == {word.lower() for word in whole} - {place.word.lower()}
        joined = {word.lower() for word in candidates} - single
        assert joined
        assert all(any(word == (a + b).lower() for a in whole for b in whole) for word in joined)


def test_byte_level_pieces_with_a_beginning_mark_are_words(byte_level):
    torch.manual_seed(0)
    model = RobertaForMaskedLM(RobertaConfig(vocab_size=len(byte_level), pad_token_id=0, **SIZE)).eval()
    for source in (MaskedLMCandidates(model, byte_level), EmbeddingCandidates(model, byte_level)):
        first, bracket, unknown = source.find(places(["good (bad café"]), 9)
        assert set(first) <= {"bad", "film", "great", "caf"}
        assert "bad" not in bracket
        assert unknown == []
    # Without the mark of a beginning only pieces without it fit, and only those that are words with it.
    assert MaskedLMCandidates(model, byte_level).find(places(["good film"]), 9)[0] == ["bad"]


def test_nearest_vectors_are_those_of_the_cosine(vectors):
    source, rows = vectors
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for word in ("film", "café", "영화"):
        order = np.argsort(-unit @ unit[WHOLE.index(word)])
        expected = [WHOLE[i] for i in order if WHOLE[i] not in (word, "3")][:5]
        assert source.find(words(word), 5) == [expected]
    assert source.find(words("Film FILM zzz"), 5)[:2] == [
        [match_case(c, like) for c in source.find(words("film"), 5)[0]] for like in ("Film", "FILM")
    ]
    assert source.find(words("zzz"), 5) == [[]]


def test_paper_takes_vectors_for_words_of_several_pieces(model, tokenizer, vectors):
    rest = WordVectorCandidates(["wonders", "film", "miracles"], np.eye(3)[[0, 1, 0]])
    source = PaperCandidates(MaskedLMCandidates(model, tokenizer), rest)
    asked = words("wonders seen")
    assert source.find(asked, 1) == [["miracles"], MaskedLMCandidates(model, tokenizer).find(asked, 1)[1]]


def test_vector_files_are_read_alike(tmp_path, vectors):
    source, rows = vectors
    lines = "\n".join(f"{word} {' '.join(map(str, row))}" for word, row in zip(WHOLE, rows, strict=True))
    (tmp_path / "glove.txt").write_text(lines + "\n", encoding="utf-8")
    (tmp_path / "word2vec.txt").write_text(f"{len(rows)} {rows.shape[1]}\n{lines} \n", encoding="utf-8")
    (tmp_path / "vectors.json").write_text(
        json.dumps(dict(zip(WHOLE, rows.tolist(), strict=True))), encoding="utf-8"
    )
    for name in ("glove.txt", "word2vec.txt", "vectors.json"):
        again = WordVectorCandidates.from_file(tmp_path / name)
        assert len(again) == len(source) == len(WHOLE) - 1
        assert again.find(places(), 4) == source.find(places(), 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.txt", b"a 1 2\nb 1\n", "line 2 of short.txt"),
        ("text.txt", b"a 1 2\nb 1 2\nc 1 x\n", "line 3 of text.txt"),
        ("nan.txt", b"a 1 2\nb nan 2\n", "line 2 of nan.txt"),
        ("bytes.txt", b"a 1 2\n\xff 1 2\n", "line 2 of bytes.txt"),
        ("header.txt", b"2 3\na 1 2\n", "line 2 of header.txt"),
        ("empty.txt", b"", "empty.txt"),
        ("broken.json", b'{"a": [1, 2],\n "b": ', "line 2 of broken.json"),
        ("ragged.json", b'{"a": [1, 2], "b": [1]}', "ragged.json"),
        ("list.json", b"[1, 2]", "list.json"),
    ],
)
def test_a_bad_vector_file_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        WordVectorCandidates.from_file(tmp_path / name)


def test_user_mistakes_are_named(tmp_path, model, tokenizer):
    for bad in ({"copies": -1}, {"probability": 1.5}, {"k": 0}):
        with pytest.raises(DataError, match=f"{next(iter(bad))}="):
            augment(table(), Swap(), **bad)
    with pytest.raises(DataError, match="source"):
        augment(table(source=[1, 2, 3, 4]), Swap())
    with pytest.raises(DataError, match="row 1"):
        augment(table(["a", None]), Swap())
    with pytest.raises(DataError, match="no file"):
        WordVectorCandidates.from_file(tmp_path / "none.txt")
    with pytest.raises(DataError, match="all"):
        MaskedLMCandidates(model, tokenizer, masks="all")
    plain = BertTokenizer(vocab={piece: i for i, piece in enumerate(PIECES)})
    plain.mask_token = None
    with pytest.raises(ModelError, match="mask token"):
        MaskedLMCandidates(model, plain)


def test_an_empty_table_stays_empty():
    assert augment(table([]).cast_column("text", Value("string")), Swap()).num_rows == 0
