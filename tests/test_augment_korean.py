"""Korean words are replaced whole, particles included, whatever the tokenizer's pieces and the form of the text."""

import unicodedata
from itertools import product

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForMaskedLM

import attar
from attar.augmentation import EmbeddingCandidates, MaskedLMCandidates, augment
from attar.augmentation.words import is_word, words

TEXTS = [
    "영화가 정말 재미있었다",
    "배우들의 연기가 좋았다!",
    "이 영화는 정말 별로였다...",
    "음악은 (정말) 좋고 배우도 좋았다",
    "영화를 다시 보고 싶다 good film",
    "감독 이야기 음악 배우",
]
KINDS = ("wordpiece", "unigram", "bpe")
NOUNS = "영화 배우 음악 연기 감독 이야기 장면 화면 대사".split()
ADVERBS = "정말 아주 다시 너무 조금".split()
VERBS = "좋았다 별로였다 재미있었다 지루했다 예뻤다 길었다".split()
# Nouns stand alone too, so that they are pieces that their particles follow.
SEEN = [
    f"{noun}{particle} {adverb} {verb}"
    for noun, particle, adverb, verb in product(NOUNS, ("은", "도", ""), ADVERBS, VERBS)
]


def form(name, text):
    return unicodedata.normalize(name, text)


def table(texts=TEXTS):
    return Dataset.from_dict({"text": list(texts)})


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("korean") / "tokenizer"
    size = {"wordpiece": 240, "unigram": 140, "bpe": 420}[request.param]
    tokenizer = attar.tokenizer([*SEEN, *TEXTS * 5], out=out, kind=request.param, style="encoder", vocab=size)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, max_position_embeddings=64, **sizes)
    return BertForMaskedLM(config).eval(), tokenizer


def sources(made):
    return [MaskedLMCandidates(*made), EmbeddingCandidates(*made)]


def test_a_word_with_its_particle_is_one_word():
    for name in ("NFC", "NFD"):
        found = [form("NFC", place.word) for place in words(form(name, TEXTS[3]))]
        assert found == ["음악은", "정말", "좋고", "배우도", "좋았다"]
    assert is_word(form("NFD", "배우들의"))


def test_candidates_are_whole_words_in_composed_letters(made):
    vocabulary = {made[1].convert_tokens_to_string([piece]).strip() for piece in made[1].get_vocab()}
    for source in sources(made):
        found = source.find([place for text in TEXTS for place in words(text)], 30)
        candidates = {word for several in found for word in several}
        assert len(candidates) >= 8
        assert any("\uac00" <= word[0] <= "\ud7a3" and len(word) > 1 for word in candidates)
        for word in candidates:
            assert is_word(word)
            assert word == form("NFC", word)
            assert not word.startswith(("##", "▁", "Ġ"))
            assert word in vocabulary


def test_one_piece_with_a_particle_behind_it_is_not_replaced_alone(made):
    text = "감독의 영화"
    particle, alone = words(text)
    pieces = made[1](text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert sum(start < particle.end for start, _ in pieces) > 1
    for source in sources(made):
        found = source.find([particle, alone], 5)
        assert found[0] == []
        assert len(found[1]) == 5


def test_both_forms_of_a_text_have_the_same_candidates(made):
    for source in sources(made):
        composed, apart = (
            source.find([place for text in TEXTS for place in words(form(name, text))], 5)
            for name in ("NFC", "NFD")
        )
        assert composed == apart
        assert sum(map(bool, composed)) >= 4


@pytest.mark.parametrize("name", ["NFC", "NFD"])
def test_copies_replace_whole_words_and_keep_the_rest(made, name):
    for source in sources(made):
        result = augment(table(form(name, text) for text in TEXTS), source, copies=5, probability=0.7, seed=1)
        copies = [row for row in result if row["source"] >= 0]
        assert len(copies) > 5
        for row in copies:
            before, after = form("NFC", TEXTS[row["source"]]), form("NFC", row["text"])
            old, new = words(before), words(after)
            assert len(old) == len(new)
            known = [source.find([place], 15)[0] for place in old]
            for place, other, candidates in zip(old, new, known, strict=True):
                assert other.word == place.word or other.word in candidates


def test_both_forms_of_a_text_have_the_same_copies(made):
    for source in sources(made):
        composed, apart = (
            augment(table(form(name, text) for text in TEXTS), source, copies=4, seed=2)["text"][:]
            for name in ("NFC", "NFD")
        )
        assert [form("NFC", text) for text in composed] == [form("NFC", text) for text in apart]
