"""The targets of fuzz.py, with inputs that a fuzzer finds by the branches they reach (atheris).

    python -m pip install 'picert[fuzz]'
    python tests/fuzz/guided.py template -runs=100000

What follows the target's name goes to libFuzzer. An input that ends otherwise than its target may
is an error with that input in it, and is written to a file for another look.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["picert.cloud", "picert.models", "picert.transport"]):
    import fuzz


def main(name: str, options: list[str]) -> None:
    """Run until libFuzzer's own options end it, beginning with the target's sound inputs."""
    with tempfile.TemporaryDirectory() as folder, fuzz.bounded():
        target = fuzz.targets(Path(folder))[name]()
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)

        def one_input(data: bytes) -> None:
            if problem := fuzz.problem_of(target, data):
                raise RuntimeError(f"{name}: {problem}: {data!r}")

        atheris.Setup([sys.argv[0], str(corpus), "-rss_limit_mb=0", *options], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
