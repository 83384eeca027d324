"""A real byte-level BPE tokenizer of 384 tokens, trained on the fly, in both forms of model.

Special tokens come first, as in SmolLM2: <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2 (end of
a turn).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 384
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, IM_START, IM_END = 0, 1, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = (
    "The large model writes a short sketch of the answer, one line for each point that matters.",
    "Small models expand the points in parallel, and the cloud merges what they wrote in order.",
    "When the work is done, the reader has the whole answer and never waited for a single one.",
    "What helps with stress? Sleep, exercise, time with friends, and a plan for the next day.",
    "user assistant system\n1. first 2. second 3. third 4. fourth 5. fifth\nfor i in range(10):",
)


@cache
def tiny_tokenizer() -> Tokenizer:
    """The tokenizer: Qwen2's pre-tokenizer, merges learned from CORPUS (the same each time)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer


def write_tokenizer_files(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json (with the chat template), as folders have them."""
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def tokens_and_merges() -> tuple[list[str], list[str]]:
    """The vocabulary in id order and the merges ("a b") in rank order, as GGUF stores them."""
    state = json.loads(tiny_tokenizer().to_str())["model"]
    by_id = sorted(state["vocab"].items(), key=lambda item: item[1])
    return [token for token, _ in by_id], [" ".join(pair) for pair in state["merges"]]
