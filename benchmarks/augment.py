"""Candidates for augmentation: many masks per forward pass against one masked word at a time, in one run.

Two loops are the yardstick. `one word` is the paper's algorithm as one would write it: per masked word one forward pass
of one sentence, the head over the whole sentence, and the best k of the masked position. `authors` adds what the
authors' data_augmentation.py does on top: the unmasked sentence as second segment, both tokenized again for each word,
and a full sort of the vocabulary. Neither counts the drawing of copies, which costs next to nothing.
`speedup` is that of masks="one", the same forward computation as `one word`; the others do other work (see
MaskedLMCandidates). Threads that wait for busy cores slow down the loops most: on a shared machine take
--threads 1, the cautious setting.
The head's weights are random: what the candidates are does not change what they cost.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

from attar.augmentation import MaskedLMCandidates, Place
from attar.augmentation.masked_lm import Masks
from attar.augmentation.words import words
from attar.demo.data import model_directory, reviews
from attar.model.pretrained import from_pretrained
from common import Figure, Result, benchmark, figure, remembered

K = 15
TARGET = 20.0
MASKS: tuple[Masks, ...] = ("one", "several", "none")


def one_word(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Place]], None]:
    mask = tokenizer.mask_token_id

    def run(places: Sequence[Place]) -> None:
        for place in places:
            encoded = tokenizer(place.text, return_tensors="pt", truncation=True)
            position = encoded.char_to_token(place.start)
            encoded["input_ids"][0, position] = mask
            model(**encoded).logits[0, position].topk(K).indices.tolist()

    return run


def authors(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Place]], None]:
    def run(places: Sequence[Place]) -> None:
        for place in places:
            position = tokenizer(place.text).char_to_token(place.start)
            pieces = ["[CLS]", *tokenizer.tokenize(place.text)]
            again = tokenizer.tokenize(place.text)
            segments = [0] * (len(pieces) + 1) + [1] * (len(again) + 1)
            pieces[position] = "[MASK]"
            ids = tokenizer.convert_tokens_to_ids([*pieces, "[SEP]", *again, "[SEP]"])
            logits = model(torch.tensor([ids]), token_type_ids=torch.tensor([segments])).logits
            best = torch.argsort(logits[0, position], descending=True)[:K].tolist()
            [piece for piece in tokenizer.convert_ids_to_tokens(best) if not piece.startswith("##")]

    return run


def seconds_per_word(run: Callable[[Sequence[Place]], object], places: Sequence[Place]) -> float:
    start = time.perf_counter()
    run(places)
    return (time.perf_counter() - start) / len(places)


def measure(shape: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per word of every way, one number per round; the ways take turns within a round."""
    torch.manual_seed(0)
    tokenizer = from_pretrained(AutoTokenizer, model_directory())
    config = BertConfig() if shape == "bert-base" else from_pretrained(AutoConfig, model_directory())
    model = BertForMaskedLM(config).eval()
    texts = reviews()["train"][: options.sentences]["text"]
    single = MaskedLMCandidates(model, tokenizer)
    places = [p for encoded in single._encode(texts) for p in encoded.single.values()]
    print(
        f"\n{shape}: {model.num_parameters() / 1e6:.1f}M parameters; {len(texts)} sentences, "
        f"{sum(len(words(t)) for t in texts)} words, {len(places)} of a single piece"
    )
    loops = {"authors": authors(model, tokenizer), "one word": one_word(model, tokenizer)}
    batched = {f"batched, masks={masks}": masks for masks in MASKS}
    times: dict[str, list[float]] = {name: [] for name in [*loops, *batched]}
    with torch.inference_mode():
        for number in range(options.rounds + 1):
            sample = random.Random(number).sample(places, options.words)
            for name, loop in loops.items():
                times[name].append(seconds_per_word(loop, sample if number else sample[:5]))
            for name, masks in batched.items():
                source = MaskedLMCandidates(model, tokenizer, masks=masks)
                some = places if number else places[:20]
                times[name].append(seconds_per_word(partial(source.find, k=K), some))
    return {name: values[1:] for name, values in times.items()}  # the first round warms up


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def main(options: argparse.Namespace, work: Path) -> Result:
    if options.quick:
        options.sentences, options.words, options.rounds = 24, 20, 2
    figures: dict[str, Figure] = {}
    for shape in ["minilm"] if options.quick else ["minilm", "bert-base"]:
        times = remembered(work / f"{shape}.json", partial(measure, shape, options))
        print(f"{'':28}{'ms per word':>12}{'x one word':>12}{'x authors':>12}")
        for name, values in times.items():
            print(
                f"{name:28}{1e3 * statistics.median(values):12.2f}"
                f"{ratio(times, 'one word', name):12.1f}{ratio(times, 'authors', name):12.1f}"
            )
        prefix = "" if shape == "minilm" else "bert_base_"
        for name, masks in zip(list(times)[2:], MASKS, strict=True):
            key = f"{prefix}speedup" if masks == "one" else f"{prefix}speedup_masks_{masks}"
            figures[key] = figure(ratio(times, "one word", name), TARGET)
            figures[f"{key}_over_authors"] = figure(ratio(times, "authors", name))
    return Result(figures, {"k": K, "data": "Rotten Tomatoes, train"})


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="MiniLM's shape only, few words",
        threads=torch.get_num_threads(),
        options={
            "--sentences": {
                "type": int,
                "default": 48,
                "help": "sentences of Rotten Tomatoes, all their words batched",
            },
            "--words": {"type": int, "default": 40, "help": "words of these that the loops do in each round"},
            "--rounds": {"type": int, "default": 3},
        },
    )
