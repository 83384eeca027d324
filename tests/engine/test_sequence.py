"""Stop conditions and visible text of a sequence."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.engine.sequence import Output, Sequence, StopFilter, Times, joined
from picert.messages import FinishReason, SamplingParams, TokenLogprob

END = 0


class LetterDecoder:
    """Token n is the n-th letter; token 27 is the first half of a character, 28 the second."""

    def __init__(self) -> None:
        self.half = False

    def push(self, token_id: int) -> str:
        if token_id == 27:
            self.half = True
            return ""
        if token_id == 28:
            self.half = False
            return "é"
        return chr(ord("a") + token_id - 1)

    def flush(self) -> str:
        half, self.half = self.half, False
        return "\ufffd" if half else ""


def tokens(text: str) -> list[int]:
    return [ord(c) - ord("a") + 1 for c in text]


def make(max_new_tokens: int = 100, **params: object) -> Sequence:
    values = SamplingParams(**params)  # type: ignore[arg-type]
    end_ids = frozenset((END, *values.stop_token_ids))
    decoder = LetterDecoder()
    return Sequence("r", 1, [1], values, end_ids, max_new_tokens, decoder, Times(0.0))


def feed(seq: Sequence, ids: list[int]) -> str:
    text = ""
    for token_id in ids:
        assert seq.finish_reason is None
        text += seq.append(token_id, -1.0)
    return text


def first_stop(text: str, stops: tuple[str, ...]) -> str:
    """The oracle: grow the text by one letter at a time until it ends in a stop string."""
    for end in range(1, len(text) + 1):
        hits = [s for s in stops if text[:end].endswith(s)]
        if hits:
            return text[: end - max(map(len, hits))]
    return text


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
    st.integers(0, 2**32),
)
def test_stop_filter_equals_oracle_however_the_text_is_cut(
    text: str, stops: list[str], seed: int
) -> None:
    rng = random.Random(seed)
    stop = StopFilter(tuple(stops))
    out, rest = "", text
    while rest and not stop.is_stopped:
        size = rng.randint(1, 7)
        out += stop.push(rest[:size])
        rest = rest[size:]
        assert first_stop(text, tuple(stops)).startswith(out)
    out += stop.flush()
    assert out == first_stop(text, tuple(stops))
    assert stop.is_stopped == any(s in text for s in stops)


def test_stop_filter_holds_back_no_more_than_it_must() -> None:
    stop = StopFilter(("END",))
    assert stop.push("tEN") == "t"
    assert stop.push("Es") == "ENEs"


def test_end_token_stops_and_has_no_text() -> None:
    seq = make()
    assert feed(seq, [*tokens("hi"), END]) == "hi"
    assert seq.finish_reason == "stop"
    assert seq.output_ids == [*tokens("hi"), END]


def test_stop_token_of_params_stops() -> None:
    seq = make(stop_token_ids=(5,))
    assert feed(seq, [*tokens("ab"), 5]) == "ab"
    assert seq.finish_reason == "stop"


def test_stop_string_across_tokens_never_leaks() -> None:
    seq = make(stop=("end",))
    pieces = [seq.append(token_id, 0.0) for token_id in tokens("then")]
    assert pieces == ["t", "h", "", ""]
    assert seq.append(tokens("d")[0], 0.0) == ""
    assert seq.finish_reason == "stop"


def test_end_token_releases_text_held_for_a_stop_string() -> None:
    seq = make(stop=("end",))
    assert feed(seq, [*tokens("then"), END]) == "then"


def test_length_releases_text_held_for_a_stop_string() -> None:
    seq = make(stop=("end",), max_new_tokens=4)
    assert feed(seq, tokens("then")) == "then"
    assert seq.finish_reason == "length"


def test_half_a_character_at_the_end_becomes_a_replacement() -> None:
    seq = make(max_new_tokens=2)
    assert feed(seq, [*tokens("a"), 27]) == "a\ufffd"
    assert seq.finish_reason == "length"


def test_character_of_two_tokens_comes_whole() -> None:
    seq = make()
    assert [seq.append(27, 0.0), seq.append(28, 0.0)] == ["", "é"]


def test_stop_string_before_min_tokens_is_text() -> None:
    seq = make(stop=("b",), min_tokens=4)
    assert feed(seq, tokens("abcb")) == "abc"
    assert seq.finish_reason == "stop"
    assert len(seq.output_ids) == 4


def test_length_wins_nothing_over_a_stop_string_in_the_same_token() -> None:
    seq = make(stop=("c",), max_new_tokens=3)
    assert feed(seq, tokens("abc")) == "ab"
    assert seq.finish_reason == "stop"


def test_sum_of_logprobs_counts_every_token() -> None:
    seq = make()
    feed(seq, tokens("abc"))
    assert seq.sum_logprob == pytest.approx(-3.0)


def test_failed_sequence_gives_back_held_text() -> None:
    seq = make(stop=("zz",))
    assert feed(seq, tokens("az")) == "a"
    assert seq.fail() == "z"
    assert seq.finish_reason == "error"


def test_joined_outputs_are_what_one_step_would_have_given() -> None:
    def output(text: str, token: int, finish: FinishReason | None, so_far: int) -> Output:
        logprobs = (TokenLogprob(token, -0.5),)
        return Output("r", text, (token,), logprobs, finish, 3, 1, so_far, -0.5 * so_far)

    parts = [output("a", 7, None, 1), output("", 8, None, 2), output("b", 9, "stop", 3)]
    both = (TokenLogprob(7, -0.5), TokenLogprob(8, -0.5), TokenLogprob(9, -0.5))
    assert joined(parts) == Output("r", "ab", (7, 8, 9), both, "stop", 3, 1, 3, -1.5)
    assert joined(parts[:1]) == parts[0]
