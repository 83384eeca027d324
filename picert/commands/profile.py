"""`picert profile`: measure one model on this machine, once, for the policy to plan with.

Its seconds of prompts and steps, and the log-probabilities that are usual for the texts it expands.
What was measured goes into a file under the hash of the weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from picert import hub
from picert.commands.flags import engine_config
from picert.config import read_toml
from picert.engine.engine import Engine, load_engine
from picert.engine.machine import usable_cores
from picert.engine.measure import Speeds, measure
from picert.errors import ConfigError
from picert.messages import Calibration, ChatMessage, ExpandJob, SamplingParams, Segment
from picert.pice.profile_file import ModelProfile, ProfileFile, read_profiles, write_profiles
from picert.pice.prompts import PROMPT_FOLDER, PromptBook, load_prompts
from picert.pice.training import MIN_QUESTIONS, Answered, Scores, train

_MAX_TOKENS = 64  # of a calibration text
_MAX_ANSWER_TOKENS = 700  # of an answer to learn from


class _Line(msgspec.Struct):
    """Of a file of questions; what else is in it is of no interest."""

    question: str


def run(flags: argparse.Namespace) -> int:
    """Measure and write. Raises PicertError; a file that cannot be written is told beforehand."""
    out = Path(flags.out)
    known = read_profiles(out) if out.exists() else ProfileFile()
    write_profiles(out, known)
    questions = read_questions(Path(flags.train_heads)) if flags.train_heads else []
    config = engine_config(flags)
    began = time.perf_counter()
    path = hub.find(config.model)
    engine = load_engine(config.model_copy(update={"model": str(path)}))
    load_s = time.perf_counter() - began
    try:
        speeds = measure(engine)
        trained = train(answer_all(engine, questions)) if questions else None
        profile = ModelProfile(
            model=engine.identity.name,
            threads=config.threads or usable_cores(),
            load_s=round(load_s, 3),
            prefill=speeds.prefill,
            decode=speeds.decode,
            calibration=calibrate(engine, load_prompts()),
            heads=trained[0] if trained else None,
        )
        write_profiles(out, known.with_model(engine.identity.fingerprint, profile))
    finally:
        engine.close()
    lines = [*_lines(profile, speeds), *(_told(trained[1]) if trained else ())]
    sys.stdout.write("".join(f"{line}\n" for line in (*lines, f"written to {out}")))
    return 0


def read_questions(path: Path) -> list[str]:
    """Of a file of JSON lines with a question each. Raises ConfigError."""
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        questions = [msgspec.json.decode(line, type=_Line).question for line in lines]
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"questions {path}: {error}") from None
    if len(questions) < MIN_QUESTIONS:
        raise ConfigError(
            f"questions {path}: {len(questions)} are too few, at least {MIN_QUESTIONS} are needed"
        )
    return questions


def answer_all(engine: Engine, questions: Sequence[str]) -> list[Answered]:
    """What the model answers, greedily; answers that did not end by themselves are left out."""
    waiting = [*enumerate(questions)][::-1]
    texts = {n: "" for n, _ in waiting}
    answered: dict[int, Answered] = {}
    while waiting or engine.has_work:
        while waiting and engine.num_requests < engine.config.max_num_seqs:
            n, question = waiting.pop()
            ids = engine.tokenizer.encode_chat([ChatMessage("user", question)])
            params = SamplingParams(temperature=0.0, max_tokens=_MAX_ANSWER_TOKENS)
            engine.add(f"answer-{n}", ids, params)
        for output in engine.step():
            n = int(output.request_id.rpartition("-")[2])
            texts[n] += output.text
            if output.finish_reason == "stop":
                answered[n] = Answered(questions[n], texts[n], output.num_completion_tokens)
    return [answered[n] for n in sorted(answered)]


def _told(scores: Scores) -> Iterator[str]:
    count, lists = scores.num_questions, scores.num_lists
    yield f"heads of {count} questions, {lists} answered as a list; on questions not trained on:"
    yield f"suits a sketch: area under the curve {scores.auc:.3f}, by wording {scores.free_auc:.3f}"
    yield f"length: Kendall's tau {scores.tau:.3f}, by wording {scores.free_tau:.3f}"


def calibrate(engine: Engine, prompts: PromptBook) -> Calibration:
    """Mean log-probability per token of the texts that the model expands, and its spread."""
    table = read_toml(PROMPT_FOLDER / "calibration.toml")
    for n, (job, segment) in enumerate(_jobs(table["sketches"])):
        prompt = prompts.expand(job, segment)
        ids = engine.tokenizer.encode_chat(prompt.messages, prefill=prompt.prefill)
        engine.add(f"calibrate-{n}", ids, prompt.sampling)
    means = []
    while engine.has_work:
        for output in engine.step():
            if output.finish_reason in ("stop", "length"):
                means.append(output.sum_logprob / output.num_completion_tokens)
    return Calibration(min(0.0, statistics.fmean(means)), statistics.pstdev(means))


def _jobs(sketches: Sequence[dict[str, list[str]]]) -> Iterator[tuple[ExpandJob, Segment]]:
    for sketch in sketches:
        lines = tuple(sketch["lines"])
        for index, line in enumerate(lines):
            segment = Segment(index, line)
            job = ExpandJob(
                request_id="calibration",
                attempt=0,
                question=str(sketch["question"]),
                outline=lines,
                segments=(segment,),
                max_tokens=_MAX_TOKENS,
                deadline_s=1.0,  # nobody waits by it: the engine is stepped here
            )
            yield job, segment


def _lines(profile: ModelProfile, speeds: Speeds) -> Iterator[str]:
    yield f"{profile.model}: loaded in {profile.load_s:.1f} s, {profile.threads} threads"
    for tokens, count, seconds in speeds.prefill:
        rate = tokens * count / seconds
        yield f"prefill  {count:>2} x {tokens:>4} tokens  {seconds:8.3f} s  {rate:8.1f} tokens/s"
    for batch, context, seconds in speeds.decode:
        rate = batch / seconds
        yield f"decode   {batch:>2} after {context:>4}     {seconds:8.4f} s  {rate:8.1f} tokens/s"
    if profile.calibration is not None:
        mean, std = profile.calibration.mean, profile.calibration.std
        yield f"log-probability of a token of its expansions: {mean:.3f}, deviation {std:.3f}"
