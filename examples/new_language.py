"""A language without a model: a tokenizer, a model, a teacher and a student, from text alone.

python examples/new_language.py                             # Korean, sentences that are made here
python examples/new_language.py TEXTS TRAIN TEST            # yours: plain text, tables with text and label
"""

import itertools
import sys

from datasets import Dataset
from transformers import BertConfig

import attar

if len(sys.argv) > 1:
    texts, train, test = sys.argv[1:]
else:
    nouns = "영화가 배우가 음악이 이야기가 장면이 연출이 대사가 결말이 주인공이 화면이".split()
    words = "정말 조금 너무 아주 다시 봐도 역시 생각보다 처음부터 끝까지".split()
    ends = {
        1: "좋았다 재미있었다 훌륭했다 아름다웠다".split(),
        0: "별로였다 지루했다 나빴다 아쉬웠다".split(),
    }
    rows = [
        {"text": f"{noun} {word} {end}", "label": label}
        for label in ends
        for noun, word, end in itertools.product(nouns, words, ends[label])
    ]
    split = Dataset.from_list(rows).train_test_split(0.2, seed=0)
    train, test = split["train"], split["test"]
    texts = train["text"]

tokenizer = attar.tokenizer(texts, out="out/ko/start", kind="wordpiece", vocab=8000, overwrite=True)
sizes = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 768}
BertConfig(vocab_size=len(tokenizer), **sizes).save_pretrained("out/ko/start")
attar.pretrain("out/ko/start", texts, out="out/ko/base", fresh=True, epochs=5, lr=5e-4, overwrite=True)
attar.finetune("out/ko/base", train, out="out/ko/teacher", lr=3e-4, overwrite=True)
attar.distill("out/ko/teacher", data=train, student={"layers": 2}, out="out/ko/student", overwrite=True)
print(attar.compare(["out/ko/teacher", "out/ko/student"], test, out="out/ko/report"))
print(attar.temperature("out/ko/base", "영화가 정말 [MASK]", temperatures=[1, 3], top=5))
