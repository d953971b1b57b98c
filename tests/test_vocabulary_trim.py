"""A trimmed tokenizer: same tokens for its corpus, and still a spelling for everything else."""

import json
from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertTokenizer,
    AutoTokenizer,
    BertTokenizer,
    CamembertTokenizer,
    RobertaTokenizer,
    TokenizersBackend,
    XLMRobertaTokenizer,
)

import tiny
from attar.demo.data import model_directory
from attar.errors import DataError, MissingExtraError, ModelError
from attar.pruning.vocabulary import config_ids, trim

TRAINED_ON = [
    "the warm film was lovely and the cold plot was dull",
    "a bright story is a story with great actors in it",
    "he undoubtedly overacted; unbearable, unthinkable, unlovely!",
    "따뜻한 영화와 차가운 줄거리가 있는 이야기",
    "영화는 밝고 이야기는 지루하다 그리고 배우는 훌륭하다",
    "good 👍 bad 👎 laughing 😂😂 tears 😭 film 🎬",
] * 3
LETTERS = sorted(set("".join(TRAINED_ON)))
WORDS = sorted({word for text in TRAINED_ON for word in text.split()})
# What was trained on, cut and glued anew, in other cases, with letters of no token among them.
word = (
    st.sampled_from(WORDS)
    | st.text(LETTERS, max_size=6)
    | st.sampled_from(["Ünïcode", "漢字", "ФИЛЬМ", "[MASK]"])
)
text = st.lists(word, min_size=1, max_size=8).map(" ".join)
KINDS = ("bert", "roberta", "xlm-roberta", "albert", "camembert", "gpt-neox", "bytes", "suffix")
SENTENCEPIECE = {
    "xlm-roberta": XLMRobertaTokenizer,
    "albert": AlbertTokenizer,
    "camembert": CamembertTokenizer,
}
FIRST = {
    "xlm-roberta": ["<s>", "<pad>", "</s>", "<unk>"],
    "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
    "camembert": ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"],
    "bytes": ["<unk>", "<pad>"],
}


def trained(model, trainer, pre_tokenizer, normalizer=None):
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.train_from_iterator(TRAINED_ON, trainer)
    return backend


def wordpiece():
    # Tokens that nobody uses lie before the special ones, as in BERT's own vocabulary.
    special = ["[PAD]", "unused", "moreunused", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    lower = normalizers.BertNormalizer()
    split = pre_tokenizers.BertPreTokenizer()
    backend = trained(models.WordPiece(unk_token="[UNK]"), trainer, split, lower)
    return BertTokenizer(vocab=backend.get_vocab(with_added_tokens=False))


def byte_level(name):
    special = ["<s>", "<pad>", "</s>", "<unk>"] if name == "roberta" else []
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend = trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))
    if name == "roberta":
        model = json.loads(backend.to_str())["model"]
        return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    # ModernBERT's: special tokens after all others, runs of spaces as tokens that are not special.
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(["  ", "    "])
    backend.add_special_tokens(["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"])
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    template = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return TokenizersBackend(tokenizer_object=backend, **NAMES)


NAMES = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def unigram(name):
    trainer = trainers.UnigramTrainer(vocab_size=220, show_progress=False, unk_token="<unk>")
    backend = trained(models.Unigram(), trainer, pre_tokenizers.Metaspace())
    pieces = [tuple(entry) for entry in json.loads(backend.to_str())["model"]["vocab"] if entry[0] != "<unk>"]
    first = [(token, 0.0) for token in FIRST[name]]
    if name in SENTENCEPIECE:
        return SENTENCEPIECE[name](vocab=[*first, *pieces, ("<mask>", 0.0)])
    bytewise = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    letters = [(letter, -20.0) for letter in "<0123456789xABCDEF>" if letter not in dict(pieces)]
    pieces = [*first, *bytewise, *letters, *pieces]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return TokenizersBackend(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")


def suffixed():
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["[UNK]", "[PAD]"], end_of_word_suffix="</w>", show_progress=False
    )
    model = models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>")
    backend = trained(model, trainer, pre_tokenizers.Whitespace())
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    return TokenizersBackend(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")


@cache
def tokenizer(kind):
    if kind == "bert":
        return wordpiece()
    if kind == "suffix":
        return suffixed()
    return byte_level(kind) if kind in {"roberta", "gpt-neox"} else unigram(kind)


def assert_same(old, trimmed, *texts, **options):
    was, now = old(*texts, **options), trimmed.tokenizer(*texts, **options)
    assert now.tokens() == was.tokens()
    assert [trimmed.kept[i] for i in now["input_ids"]] == was["input_ids"]
    assert {**now, "input_ids": 0} == {**was, "input_ids": 0}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(corpus=st.lists(text, min_size=1, max_size=4), outside=text)
def test_the_corpus_is_encoded_as_before_and_the_rest_is_spelled(kind, corpus, outside):
    old = tokenizer(kind)
    if not any(old(line, add_special_tokens=False)["input_ids"] for line in corpus):
        return
    trimmed = trim(old, corpus)
    new = trimmed.tokenizer
    assert len(new) == len(trimmed.kept) == len(new.get_vocab()) <= len(old)
    assert list(trimmed.kept) == sorted(set(trimmed.kept))
    assert new.convert_ids_to_tokens(range(len(new))) == old.convert_ids_to_tokens(list(trimmed.kept))
    for line in corpus:
        assert_same(old, trimmed, line)
        assert_same(old, trimmed, line, corpus[0])
        assert_same(old, trimmed, line, corpus[0], truncation=True, max_length=6)
        assert_same(old, trimmed, line, padding="max_length", max_length=20, truncation=True)
    was, now = old(outside)["input_ids"], new(outside)["input_ids"]
    assert now.count(new.unk_token_id) == 0 or old.unk_token_id in was
    if old.unk_token_id not in was and kind != "bert":
        assert new.decode(now) == old.decode(was)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    old = tokenizer(kind)
    trimmed = trim(old, [TRAINED_ON[0], TRAINED_ON[3]])
    assert len(trimmed.kept) < len(old)
    trimmed.tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(old)
    assert again.get_vocab() == trimmed.tokenizer.get_vocab()
    assert again.special_tokens_map == old.special_tokens_map
    for line in [*TRAINED_ON, "something ELSE 漢字"]:
        assert again(line, line).data == trimmed.tokenizer(line, line).data
    for name in ("pad", "unk", "cls", "sep", "mask", "bos", "eos"):
        was = getattr(old, f"{name}_token_id")
        now = getattr(again, f"{name}_token_id")
        assert was == (None if now is None else trimmed.kept[now])


def test_the_old_tokenizer_is_left_as_it_was():
    old = tokenizer("roberta")
    before = old.backend_tokenizer.to_str()
    trim(old, TRAINED_ON)
    assert old.backend_tokenizer.to_str() == before


def test_a_fixed_length_travels_with_its_padding_id():
    old = byte_level("gpt-neox")
    old.backend_tokenizer.enable_padding(pad_id=old.pad_token_id, pad_token="[PAD]", length=12)
    old.backend_tokenizer.enable_truncation(12)
    new = trim(old, TRAINED_ON[:1]).tokenizer
    section = json.loads(new.backend_tokenizer.to_str())
    assert section["padding"]["pad_id"] == new.pad_token_id != old.pad_token_id
    assert section["padding"]["strategy"] == {"Fixed": 12}
    assert section["truncation"]["max_length"] == 12


def test_a_word_that_was_unknown_stays_unknown():
    # Greedy: `ab` is taken, then nothing fits. Without `ab`, `a` and `##bx` would.
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "x", "##b", "ab", "##bx"]
    old = BertTokenizer(vocab={piece: i for i, piece in enumerate(vocab)})
    assert old.tokenize("abx") == ["[UNK]"]
    trimmed = trim(old, ["abx", "a"])
    assert trimmed.tokenizer.tokenize("ABX a") == ["[UNK]", "a"]


def unigram_of(**scores):
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), *scores.items()], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return TokenizersBackend(tokenizer_object=backend, unk_token="<unk>")


def test_the_score_of_an_unknown_letter_stays():
    # `q` alone costs 10 more than the lowest score, that of `zz`: x aq y costs less than xa <unk> y.
    old = unigram_of(x=-30.0, xa=-1.0, aq=-30.0, y=-1.0, a=-3.0, z=-1.0, zz=-60.0)
    assert old.tokenize("xaqy") == ["▁", "x", "aq", "y"]
    assert_same(old, trim(old, ["xaqy", "xa"]), "xaqy xa")


def test_pieces_of_letters_without_a_piece_stay():
    vocab = [*tiny.SPECIAL, "a", "##b", "film", "##ly"]
    old = BertTokenizer(vocab={piece: i for i, piece in enumerate(vocab)})
    new = trim(old, ["ab"]).tokenizer
    assert new.tokenize("film filmly ab") == ["film", "film", "##ly", "a", "##b"]
    new = trim(unigram_of(a=-1.0, b=-1.0, film=-9.0, ab=-1.5, ba=-11.0), ["ab"]).tokenizer
    # By id, since Unigram shows an unknown letter as it is.
    assert new.convert_ids_to_tokens(new("filmba")["input_ids"]) == ["▁", "film", "b", "a"]


def test_merges_on_the_way_stay_and_others_go():
    old = tokenizer("roberta")
    model = json.loads(trim(old, [" lovely"]).tokenizer.backend_tokenizer.to_str())["model"]
    whole = json.loads(old.backend_tokenizer.to_str())["model"]
    assert 0 < len(model["merges"]) < len(whole["merges"])
    order = [whole["merges"].index(pair) for pair in model["merges"]]
    assert order == sorted(order)
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(model["vocab"])


def test_the_real_tokenizer_loses_most_of_its_vocabulary(tmp_path):
    try:
        directory = model_directory()
    except MissingExtraError:
        pytest.skip("the demo's packages are not installed")
    old = AutoTokenizer.from_pretrained(directory)
    corpus = [*TRAINED_ON, "It's Ünwörtlichkeit: xyzzy, 漢字 and the undoubtedly naïve re-enactment."]
    trimmed = trim(old, iter(corpus))
    assert len(trimmed.kept) < 2500 < len(old)
    trimmed.tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == old.model_max_length
    for line in corpus:
        assert_same(old, trimmed, line, corpus[-1])
        assert again(line).data == trimmed.tokenizer(line).data
    outside = "hypercritical antidisestablishmentarianism überraschend 東京"
    assert old.unk_token not in old.tokenize(outside)
    assert again.unk_token not in again.tokenize(outside)
    letters = "".join(piece.removeprefix("##") for piece in again.tokenize(outside))
    assert letters == "".join(piece.removeprefix("##") for piece in old.tokenize(outside))


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "albert"])
def test_a_model_cut_to_the_kept_rows_answers_as_before(family):
    old = tiny.tokenizer(family)
    corpus = tiny.texts(6)[:3]
    trimmed = trim(old, corpus)
    whole = tiny.model(family, "base", vocab_size=tiny.VOCAB + 3)
    ids = config_ids(whole.config, trimmed.kept)
    assert ids["vocab_size"] == len(trimmed.kept) < tiny.VOCAB
    cut = type(whole)(tiny.config(family, **ids)).eval()
    state = whole.state_dict()
    table = next(name for name in state if name.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
    state[table] = state[table][list(trimmed.kept)]
    cut.load_state_dict(state)
    with torch.no_grad():
        for line in corpus:
            was = whole(**old(line, return_tensors="pt"))[0]
            assert torch.equal(cut(**trimmed.tokenizer(line, return_tensors="pt"))[0], was)


def test_ids_of_a_config_move_with_their_tokens():
    trimmed = trim(tokenizer("gpt-neox"), TRAINED_ON[:1])
    old, new = tokenizer("gpt-neox"), trimmed.tokenizer
    config = tiny.config(
        "modernbert",
        vocab_size=len(old) + 20,
        pad_token_id=old.pad_token_id,
        cls_token_id=old.cls_token_id,
        sep_token_id=old.sep_token_id,
        bos_token_id=len(old) + 1,  # a row that no token has
        eos_token_id=[old.sep_token_id, len(old) + 2],
    )
    assert config_ids(config, trimmed.kept) == {
        "vocab_size": len(new),
        "pad_token_id": new.pad_token_id,
        "cls_token_id": new.cls_token_id,
        "sep_token_id": new.sep_token_id,
        "bos_token_id": None,
        "eos_token_id": [new.sep_token_id],
    }


def test_positions_that_begin_after_padding_may_not_move():
    old = tokenizer("gpt-neox")
    trimmed = trim(old, TRAINED_ON[:1])
    sizes = {"pad_token_id": old.pad_token_id, "vocab_size": len(old)}
    ids = config_ids(tiny.config("bert", **sizes), trimmed.kept)
    assert ids["pad_token_id"] == trimmed.tokenizer.pad_token_id < old.pad_token_id
    with pytest.raises(ModelError, match="after which positions are counted"):
        config_ids(tiny.config("roberta", **sizes), trimmed.kept)


def test_ids_above_the_embedding_are_an_error():
    trimmed = trim(tokenizer("bert"), TRAINED_ON)
    with pytest.raises(ModelError, match="rows of the embedding"):
        config_ids(tiny.config("bert", vocab_size=trimmed.kept[-1]), trimmed.kept)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], "no text"),
        (["", " "], "texts without any"),
        ("a film", "one string"),
        ([{"text": "a film"}], "dict"),
    ],
)
def test_a_corpus_without_tokens_is_an_error(texts, found):
    with pytest.raises(DataError, match=found):
        trim(tokenizer("bert"), texts)


def test_tokenizers_that_cannot_be_trimmed():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "film": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match="WordLevel"):
        trim(TokenizersBackend(tokenizer_object=words, unk_token="[UNK]"), ["film"])
    with pytest.raises(ModelError, match="found object"):
        trim(object(), ["film"])
    random = byte_level("gpt-neox")
    random.backend_tokenizer.model.dropout = 0.5
    with pytest.raises(ModelError, match="at random"):
        trim(random, ["film"])


def test_a_backend_that_loading_undoes_is_found_out():
    old = wordpiece()
    old.backend_tokenizer.normalizer = normalizers.Replace("film", "plot")
    with pytest.raises(ModelError, match="encode as the old one does"):
        trim(old, ["the film"])


@pytest.mark.parametrize("kind", KINDS)
def test_rare_tokens_go_and_texts_without_them_stay_as_they_were(kind):
    old = tokenizer(kind)
    corpus = ["the warm film was lovely", "the warm film was great", "the warm film was dull"]
    counts = Counter(i for line in corpus for i in old(line, add_special_tokens=False)["input_ids"])
    trimmed, all_used = trim(old, corpus, min_count=3), trim(old, corpus)
    gone = set(all_used.kept) - set(trimmed.kept)
    assert gone
    assert all(0 < counts[i] < 3 or i not in counts for i in gone)
    assert {i for i, count in counts.items() if count >= 3} <= set(trimmed.kept)
    assert_same(old, trimmed, "the warm film was")
    assert trimmed.tokenizer.unk_token_id not in trimmed.tokenizer(corpus[1])["input_ids"]
