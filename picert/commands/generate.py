"""`picert generate`: one prompt, one model, no cloud and no edges."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

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
        with closing(llm.stream(prompt, params)) as outputs:
            for output in outputs:
                pieces.append(output.text)
                if flags.stream:
                    sys.stdout.write(output.text)
                    sys.stdout.flush()
    sys.stdout.write("\n" if flags.stream else "".join(pieces) + "\n")
    return 0
