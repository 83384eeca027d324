"""`picert ask`: one question to a running cloud; text on stdout, how it came to be on stderr."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing

import msgspec

from picert.client import Client
from picert.commands.flags import sampling
from picert.config import from_environment
from picert.messages import Done, TextDelta


def run(flags: argparse.Namespace) -> int:
    """Ask, and show the answer as it comes, or all at once with `--json`. Raises PicertError."""
    wishes = sampling(flags)
    key = flags.api_key or from_environment("api_key")
    with Client(flags.url, key) as client:
        if flags.json:
            answer = client.ask(flags.question, route=flags.route, sampling=wishes)
            report = msgspec.to_builtins(answer.done)
            whole = {"question": flags.question, "answer": answer.text, **report}
            sys.stdout.write(json.dumps(whole, ensure_ascii=False, indent=2) + "\n")
            return 0
        with closing(client.stream(flags.question, route=flags.route, sampling=wishes)) as events:
            for event in events:
                if isinstance(event, TextDelta):
                    sys.stdout.write(event.text)
                    sys.stdout.flush()
                elif isinstance(event, Done):
                    sys.stdout.write("\n")
                    sys.stdout.flush()
                    sys.stderr.write(f"[{_summary(event)}]\n")
    return 0


def _summary(done: Done) -> str:
    usage = done.usage
    tokens = f"{usage.cloud_completion_tokens} cloud + {usage.edge_completion_tokens} edge tokens"
    return (
        f"{done.route}: {tokens}, first text {done.first_text_s:.1f} s, total {done.total_s:.1f} s"
    )
