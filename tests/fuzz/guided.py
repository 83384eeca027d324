"""The targets of fuzz.py, with inputs that a fuzzer finds by the branches they reach (atheris).

    python -m pip install 'picert[fuzz]'
    python tests/fuzz/guided.py --inputs 1000000
    python tests/fuzz/guided.py --targets template --inputs 250000 --seed 2 --corpus FOLDER

Each target runs in a process of its own. With `--corpus` the inputs that reached something new are
kept in a folder, and the next run goes on from there, with another seed. An input that ends
otherwise than its target may ends the run: it is printed, and written there to a file.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

# Jinja reads templates in Python, so its branches guide, too; other parsers here are compiled.
OURS = ("picert.cloud", "picert.messages", "picert.models", "picert.transport")
with atheris.instrument_imports(include=[*OURS, "jinja2"]):
    import fuzz

    from picert.cloud.openai_schema import ChatRequest
    from picert.models.template_sandbox import _FILTERS

WORDS = {  # what chance alone seldom writes
    "http": [f'"{name}":' for name in (*ChatRequest.model_fields, "route", "text", "function")],
    "safetensors": [
        '"F16"',
        '"BF16"',
        '"dtype":',
        '"shape":',
        '"data_offsets":',
        '"__metadata__":',
    ],
    "gguf": ["general.alignment", "GGUF"],
    "template": [*fuzz.TEMPLATE_WORDS, *(f" | {name}" for name in sorted(_FILTERS))],
    "codec": ["type", "request_id"],
}
DONE = re.compile(r"Done (\d+) runs")
STATE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


def run(name: str, num_inputs: int, seed: int, corpus: Path, log: Path) -> None:
    """Try so many inputs, beginning with those of the corpus; ends the process."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with tempfile.TemporaryDirectory() as folder, fuzz.bounded():
        target = fuzz.targets(Path(folder))[name]()
        for number, data in enumerate(target.seeds):
            (corpus / f"seed-{number}").write_bytes(data)
        words = Path(folder) / "words"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS[name]))

        def one_input(data: bytes) -> None:
            if problem := fuzz.problem_of(target, data):
                raise RuntimeError(f"{name}: {problem}: {data!r}")

        limits = [f"-runs={num_inputs}", f"-seed={seed}", "-rss_limit_mb=0"]
        places = [f"-dict={words}", f"-artifact_prefix={corpus.parent}/{name}-", str(corpus)]
        atheris.Setup([sys.argv[0], *limits, *places], one_input)
        atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


def explore(name: str, num_inputs: int, seed: int, folder: Path) -> tuple[str, bool]:
    """How one target's run ended, in words, and whether all was tried without a find."""
    corpus, log = folder / name, folder / f"{name}.log"
    corpus.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=run, args=(name, num_inputs, seed, corpus, log)
    )
    process.start()
    process.join()
    text = log.read_text(errors="replace")
    done, states = DONE.search(text), STATE.findall(text)
    if process.exitcode or done is None or not states:
        return f"{name}, seed {seed}: {text[-4000:]}", False
    branches, features, kept = states[-1]
    reached = f"{branches} branches, {features} features, {kept} inputs kept"
    return f"{name}: {int(done[1]):,} inputs, no find, {reached}", True


def main() -> int:
    """Try all that is asked for; 1 if there was a find."""
    parser = fuzz.parser(__doc__)
    parser.add_argument("--corpus", type=Path, help="folder of inputs to go on from, and to keep")
    given = parser.parse_args()
    are_good = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.targets.split(","):
            began = time.monotonic()
            place = given.corpus or Path(folder)
            outcome, is_good = explore(name, given.inputs, given.seed, place)
            are_good.append(is_good)
            sys.stdout.write(f"{outcome}, {time.monotonic() - began:.0f} s\n")
            sys.stdout.flush()
    return 0 if all(are_good) else 1


if __name__ == "__main__":
    sys.exit(main())
