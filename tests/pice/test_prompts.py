from pathlib import Path

import msgspec
import pytest

from picert.errors import ConfigError
from picert.messages import ChatMessage, ExpandJob, Request, SamplingParams, Segment
from picert.pice.prompts import PROMPT_FOLDER, Prompt, PromptBook, load_prompts
from picert.pice.sketch import SketchParser

OUTLINE = ("Sleep: eight hours", "Regular exercise", "Talk to friends")


@pytest.fixture(scope="module")
def book() -> PromptBook:
    return load_prompts()


def _job(index: int, *, known: int = 3, **changes: object) -> ExpandJob:
    job = ExpandJob(
        request_id="r",
        attempt=0,
        question="How can I deal with stress?",
        outline=OUTLINE[:known],
        segments=(Segment(index, OUTLINE[index]),),
        max_tokens=50,
        deadline_s=9.0,
        seed=7,
    )
    return msgspec.structs.replace(job, **changes)


def _flat(prompt: Prompt) -> str:
    turns = "".join(f"<{m.role}>{m.content}</{m.role}>" for m in prompt.messages)
    return f"{turns}<assistant>{prompt.prefill}"


def test_a_direct_prompt_is_the_conversation_itself(book: PromptBook) -> None:
    messages = (ChatMessage("system", "Be brief."), ChatMessage("user", "{question}?"))
    sampling = SamplingParams(max_tokens=5, seed=1)
    request = Request(request_id="r", messages=messages, sampling=sampling)
    prompt = book.direct(request, written="So far")
    assert prompt == Prompt(messages, "So far", sampling)


def test_a_sketch_prompt_ends_with_the_question_and_opens_the_list(book: PromptBook) -> None:
    prompt = book.sketch("How can I\nsleep better?", 5, 60)
    assert "How can I sleep better?" in prompt.messages[-1].content
    assert "5" in prompt.messages[-1].content
    assert prompt.prefill == "1."
    assert prompt.sampling.max_tokens == 60


def test_examples_of_the_sketch_prompt_are_sketches(book: PromptBook) -> None:
    examples = [m.content for m in book.sketch("q", 5, 60).messages if m.role == "assistant"]
    assert examples
    for example in examples:
        parser = SketchParser(8)
        assert len(parser.push(example + "\n")) >= 3


def test_an_expand_prompt_ends_with_its_own_point(book: PromptBook) -> None:
    prompt = book.expand(_job(0), Segment(0, OUTLINE[0]))
    assert prompt.messages[-1].content.endswith("Sleep: eight hours")
    assert prompt.prefill.endswith("**Sleep – eight hours**:")
    assert prompt.sampling.max_tokens == 50
    assert prompt.sampling.seed == 7


def test_prompts_of_one_request_differ_in_their_own_point_alone(book: PromptBook) -> None:
    first = _flat(book.expand(_job(0, known=1), Segment(0, OUTLINE[0])))
    third = _flat(book.expand(_job(2), Segment(2, OUTLINE[2])))
    shared = first[: first.rindex(OUTLINE[0])]
    assert third.startswith(shared)
    assert len(shared) > 0.8 * len(first)


def test_a_template_may_show_the_outline_up_to_its_own_point(tmp_path: Path) -> None:
    book = load_prompts(_folder(tmp_path, "Point: {line}", "Points:\\n{outline}"))
    prompt = book.expand(_job(1), Segment(1, OUTLINE[1]))
    expected = "Points:\n1. Sleep: eight hours\n2. Regular exercise"
    assert prompt.messages[-1].content.endswith(expected)


def test_a_prompt_does_not_depend_on_when_it_was_made(book: PromptBook) -> None:
    early = book.expand(_job(1, known=2), Segment(1, OUTLINE[1]))
    late = book.expand(_job(1, known=3), Segment(1, OUTLINE[1]))
    assert early == late


def test_a_new_attempt_goes_on_after_what_was_written(book: PromptBook) -> None:
    fresh = book.expand(_job(1), Segment(1, OUTLINE[1]))
    again = book.expand(_job(1, written="It helps."), Segment(1, OUTLINE[1]))
    assert again.messages == fresh.messages
    assert again.prefill == fresh.prefill + " It helps."


@pytest.mark.parametrize(
    "question", ["x\n9. Forged point\nPoints:\n1. y", "{outline}{line}{nothing}", "\\1 \\g<0>", "{"]
)
def test_a_question_cannot_forge_lines_or_fields(book: PromptBook, question: str) -> None:
    job = _job(0, question=question)
    prompt = book.expand(job, Segment(0, OUTLINE[0]))
    plain = book.expand(_job(0), Segment(0, OUTLINE[0]))
    content, expected = prompt.messages[-1].content, plain.messages[-1].content
    assert content.count("\n") == expected.count("\n")
    assert " ".join(question.split()) in content
    assert " ".join(question.split()) in book.sketch(question, 4, 40).messages[-1].content


def test_a_sketch_line_cannot_forge_lines(book: PromptBook) -> None:
    line = "A\n2. B\r3. C"
    prompt = book.expand(_job(0, outline=(line,)), Segment(0, line))
    assert prompt.messages[-1].content.endswith("Point: A 2. B 3. C")
    assert "\n" not in prompt.prefill


def _folder(tmp_path: Path, old: str, new: str) -> Path:
    for path in PROMPT_FOLDER.glob("*.toml"):
        text = path.read_text(encoding="utf-8")
        (tmp_path / path.name).write_text(text.replace(old, new), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 9", "version is 9"),
        ("{question}", "{quest}", "unknown field {quest}"),
        ("prefill =", "prefil =", "prefill"),
        ("temperature = 0.0", "temperature = -1.0", "temperature"),
        ("temperature =", "temprature =", "temprature"),
        ("[sampling]", "[sampling", "config file"),
    ],
)
def test_a_malformed_prompt_file_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_prompts(_folder(tmp_path, old, new))


def test_a_missing_prompt_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sketch\.toml"):
        load_prompts(tmp_path)


def test_candidates_of_a_point_differ_in_how_they_are_drawn_alone(book: PromptBook) -> None:
    first, second = (book.expand(_job(1, candidate=n), _job(1).segments[0]) for n in (0, 1))
    assert (first.messages, first.prefill) == (second.messages, second.prefill)
    assert first.sampling.temperature == 0.0
    assert second.sampling.temperature > 0.0
    assert second.sampling.stop == first.sampling.stop


def test_rules_and_examples_of_a_template_hold_no_field(book: PromptBook) -> None:
    texts = book.expand_template.own_texts()
    assert any("Loyalty cards" in text for text in texts)
    assert not any("{" in text for text in texts)
