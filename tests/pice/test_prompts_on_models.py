"""Do the demo's models obey the prompts? Greedy, so the same on every run of one machine."""

import pytest

from picert import LLM
from picert.messages import ExpandJob, Segment
from picert.pice.ensemble import Context, vetoes
from picert.pice.prompts import Prompt, load_prompts
from picert.pice.shaping import ExpansionShaper
from picert.pice.sketch import SketchParser

QUESTION = "What are the most effective ways to deal with stress?"
POINTS = ("Regular exercise", "Deep breathing exercises", "Talks with friends: weekly")

pytestmark = pytest.mark.real_model


def _write(llm: LLM, prompt: Prompt) -> tuple[str, bool]:
    """The text, and whether its budget cut it."""
    ids = llm.engine.tokenizer.encode_chat(prompt.messages, prefill=prompt.prefill)
    completion = llm.generate([ids], prompt.sampling)[0]
    return completion.text, completion.finish_reason == "length"


def test_the_cloud_model_writes_a_sketch() -> None:
    with LLM("qwen2.5-coder-1.5b-instruct", threads=2) as llm:
        prompt = load_prompts().sketch(QUESTION, 6, 65)
        text, was_cut = _write(llm, prompt)
    parser = SketchParser(6, QUESTION)
    segments = parser.push(prompt.prefill + text) + parser.finish(cut=was_cut)
    assert 4 <= len(segments) <= 6
    assert all(len(segment.text.split()) <= 12 for segment in segments)


def test_what_sketches_of_one_length_share_fills_whole_blocks_of_the_cache() -> None:
    with LLM("qwen2.5-coder-1.5b-instruct", threads=2) as llm:
        encode, book = llm.engine.tokenizer.encode_chat, load_prompts()
        for num_points in range(2, 9):
            prompts = [book.sketch(text, num_points, 60) for text in (QUESTION, "Zebras?")]
            first, second = (encode(p.messages, prefill=p.prefill) for p in prompts)
            pairs = enumerate(zip(first, second, strict=False))
            shared = next(n for n, (a, b) in pairs if a != b)
            assert shared % llm.engine.config.block_size == 0


@pytest.mark.parametrize("model", ["qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"])
def test_the_edge_models_write_each_point_and_nothing_else(model: str) -> None:
    book = load_prompts()
    others: tuple[str, ...] = ()
    with LLM(model, threads=2) as llm:
        for segment in (Segment(index, point) for index, point in enumerate(POINTS)):
            job = ExpandJob(
                request_id="r",
                attempt=0,
                question=QUESTION,
                outline=POINTS,
                segments=(segment,),
                max_tokens=72,
                deadline_s=60.0,
            )
            raw, was_cut = _write(llm, book.expand(job, segment))
            shaper = ExpansionShaper(segment.text)
            text = shaper.push(raw) + shaper.finish(cut=was_cut)
            assert vetoes(text, segment, Context(QUESTION, POINTS, others)) == ()
            assert 8 <= len(text.split()) <= 72
            others += (text,)


def test_an_edge_model_goes_on_after_what_was_written() -> None:
    written = "A brisk walk lowers the level of stress hormones."
    segment = Segment(0, POINTS[0])
    job = ExpandJob(
        request_id="r",
        attempt=1,
        question=QUESTION,
        outline=POINTS,
        segments=(segment,),
        max_tokens=60,
        deadline_s=60.0,
        written=written,
    )
    with LLM("smollm2-135m-instruct", threads=2) as llm:
        raw, was_cut = _write(llm, load_prompts().expand(job, segment))
    shaper = ExpansionShaper(segment.text, written)
    rest = shaper.push(raw) + shaper.finish(cut=was_cut)
    assert written not in rest
    assert rest == "" or rest.startswith(" ")
