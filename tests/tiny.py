"""Tiny seeded models of each family, a tokenizer and tables, built in code: what the tests of several rooms share."""

import os
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertTokenizer,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from attar.data.batches import Batches, encode

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD = "good great fine warm bright lovely".split()
BAD = "bad dull poor cold grey awful".split()
PLAIN = "the a film plot cast story is was and very with of in music scene actor it she he they".split()
WORDS = [*GOOD, *BAD, *PLAIN]
VOCABULARY = [*SPECIAL, *WORDS, *"abcdefghijklmnopqrstuvwxyz", "##s", "##ly", ".", ",", '"']
VOCAB = len(VOCABULARY)

# Dropouts on: a test that compares two runs bit by bit must not pass for want of chance.
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
COMMON = {"vocab_size": VOCAB, "max_position_embeddings": 80, "pad_token_id": 0, "initializer_range": 0.2}
CONFIGS = {
    "bert": (BertConfig, SIZES),
    "roberta": (RobertaConfig, SIZES),
    "xlm-roberta": (XLMRobertaConfig, SIZES),
    "camembert": (CamembertConfig, SIZES),
    "electra": (ElectraConfig, {**SIZES, "embedding_size": 16}),
    "distilbert": (DistilBertConfig, {"dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40}),
    "albert": (AlbertConfig, {**SIZES, "embedding_size": 16}),
    # A window of 4 tokens in the first layer, so that the sliding mask is seen at work on short texts.
    "modernbert": (
        ModernBertConfig,
        {
            **SIZES,
            "local_attention": 4,
            "layer_types": ["sliding_attention", "full_attention"],
            "bos_token_id": 2,
            "eos_token_id": 3,
            "cls_token_id": 2,
            "sep_token_id": 3,
        },
    ),
}
# Two query heads share one of keys and values where the family has that; sliding windows of 4 tokens where it has them.
MARKS = {"bos_token_id": 2, "eos_token_id": 3}
GROUPED = {**SIZES, **MARKS, "num_key_value_heads": 2}
DECODERS = {
    "gpt2": (GPT2Config, {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40, **MARKS}),
    "gpt_neox": (GPTNeoXConfig, {**SIZES, **MARKS, "rotary_pct": 0.5, "num_attention_heads": 3}),
    "opt": (
        OPTConfig,
        {**MARKS, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 40},
    ),
    "llama": (LlamaConfig, GROUPED),
    "qwen2": (
        Qwen2Config,
        {**GROUPED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, {**GROUPED, "head_dim": 10, "tie_word_embeddings": True}),
    "mistral": (MistralConfig, {**GROUPED, "sliding_window": 4, "tie_word_embeddings": True}),
}
HEADS = {
    "sequence-classification": AutoModelForSequenceClassification,
    "masked-lm": AutoModelForMaskedLM,
    "causal-lm": AutoModelForCausalLM,
    "base": AutoModel,
}
TYPED = {"bert", "electra", "albert"}


def tokenizer(family: str = "bert") -> BertTokenizer:
    """WordPiece over `VOCABULARY`; token types only where the family's own tokenizer gives them."""
    names = (
        ["input_ids", "token_type_ids", "attention_mask"]
        if family in TYPED
        else ["input_ids", "attention_mask"]
    )
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(VOCABULARY)}, model_input_names=names)


def decoder_tokenizer() -> PreTrainedTokenizerFast:
    """Words of `VOCABULARY`; a text ends with [SEP], and nothing is added to it."""
    words = Tokenizer(WordLevel({piece: i for i, piece in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[PAD]",
        eos_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def config(family: str = "bert", **changes):
    """A config of the family's own class."""
    made, sizes = (CONFIGS | DECODERS)[family]
    return made(**{**COMMON, **sizes, **changes})


def model(
    family: str = "bert", head: str = "sequence-classification", seed: int = 0, **changes
) -> PreTrainedModel:
    """A random model, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = HEADS[head].from_config(config(family, **changes))
        # Biases start at 0 and norms at 1, which would hide a mistake with either.
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    made.config.architectures = [type(made).__name__]
    return made.eval()


def texts(rows: int = 40, seed: int = 0, longest: int = 9) -> list[str]:
    """Sentences of 1 to `longest` words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest + 1))) for _ in range(rows)]


def table(
    rows: int = 40, seed: int = 0, *, longest: int = 9, pair: bool = False, kind: str = "single_label"
) -> Dataset:
    """A table that can be learned: the label says which of the good and bad words are more."""
    columns: dict[str, list] = {"text": texts(rows, seed, longest)}
    if pair:
        columns["text_pair"] = texts(rows, seed + 1000, longest)
    words = [row.split() for row in columns["text"]]
    tone = [sum(w in GOOD for w in row) - sum(w in BAD for w in row) for row in words]
    if kind == "single_label":
        columns["label"] = [int(t > 0) for t in tone]
    elif kind == "multi_label":
        columns["label"] = [
            [float(t > 0), float(t < 0), float(len(row) > 2)] for t, row in zip(tone, words, strict=True)
        ]
    else:
        columns["label"] = [t / 3 for t in tone]
    return Dataset.from_dict(columns)


def sentiment(rows: int = 100, seed: int = 0) -> Dataset:
    """Sentences of plain words with one good or bad one, which is their label: what a tiny model can learn."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        good = bool(generator.integers(2))
        said = [str(word) for word in generator.choice(PLAIN, size=generator.integers(3, 9))]
        said.insert(int(generator.integers(len(said) + 1)), str(generator.choice(GOOD if good else BAD)))
        found.append({"text": " ".join(said), "label": "good" if good else "bad"})
    return Dataset.from_list(found)


def batches(rows: Dataset | list[str] | None = None, family: str = "bert", **options) -> Batches:
    """Batches of a table, of texts, or of `table()`."""
    if rows is None:
        rows = table()
    elif isinstance(rows, list):
        rows = Dataset.from_dict({"text": rows})
    ours = tokenizer(family)
    return Batches(encode(rows, ours, max_length=32), ours, **options)


def saved(path: Path, family: str = "bert", **options) -> Path:
    """A model directory with its tokenizer."""
    model(family, **options).save_pretrained(path)
    tokenizer(family).save_pretrained(path)
    return path


def surroundings() -> dict[str, str]:
    """The environment of a process that a test starts."""
    here = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(here), "OMP_NUM_THREADS": "1"}


def difference(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """Largest difference of two models' weights.

    Biases of keys are passed over: softmax takes no notice of them, so their gradient is rounding, which Adam blows up.
    """
    left, right = ours.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    keys = ("key.bias", "k_lin.bias", "c_attn.bias")
    names = [name for name in left if left[name].numel() and not name.endswith(keys)]
    return max((left[name] - right[name]).abs().max().item() for name in names)


def identical(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    """Whether two models have the same weights, bit for bit."""
    left, right = ours.state_dict(), theirs.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
