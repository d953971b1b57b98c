"""Halve a GPT: every second layer stays, and learns to expect what the whole model expects at each token.

python examples/halve_gpt.py                            # a small GPT-2, trained here on plots of films
python examples/halve_gpt.py MODEL TEXTS                # yours, and plain text, one text a line
"""

import sys

from transformers import GPT2Config

import attar
from attar.demo.data import unlabelled_texts

if len(sys.argv) > 1:
    model, texts = sys.argv[1:]
else:
    texts = unlabelled_texts()
    tokenizer = attar.tokenizer(texts, out="out/gpt/start", vocab=4000, overwrite=True)
    sizes = {"n_layer": 6, "n_embd": 128, "n_head": 4, "n_positions": 128}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    GPT2Config(vocab_size=len(tokenizer), **sizes, **ends).save_pretrained("out/gpt/start")
    model = "out/gpt/whole"
    attar.pretrain(
        "out/gpt/start", texts, out=model, fresh=True, epochs=4, lr=2e-3, batch_size=16, overwrite=True
    )

report = attar.distill_lm(model, texts, out="out/gpt/half", epochs=1, overwrite=True)
print(report)  # perplexity on texts that were held out
print(attar.generate([model, "out/gpt/half"], "The film", length=20, temperature=0.8))
print(attar.bench([model, "out/gpt/half"], lengths=[64]))
