"""`picert generate`: one prompt, one model, no cloud and no edges."""

from __future__ import annotations

import argparse
import sys

from picert.commands.flags import engine_config, sampling
from picert.engine.llm import LLM
from picert.messages import ChatMessage, SamplingParams


def run(flags: argparse.Namespace) -> int:
    """Complete a raw prompt, or answer a chat turn, on stdout. Raises PicertError."""
    params = sampling(flags) or SamplingParams()
    config = engine_config(flags).model_dump(exclude_unset=True)
    with LLM(config.pop("model"), **config) as llm:
        prompt: str | list[int] = flags.prompt
        if flags.chat:
            prompt = llm.engine.tokenizer.encode_chat([ChatMessage("user", flags.prompt)])
        pieces = []
        for output in llm.stream(prompt, params):
            pieces.append(output.text)
            if flags.stream:
                sys.stdout.write(output.text)
                sys.stdout.flush()
    sys.stdout.write("\n" if flags.stream else "".join(pieces) + "\n")
    return 0
