"""LLM over a tiny checkpoint: what a library's user calls."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
import torch

from picert import LLM, SamplingParams
from picert.errors import ConfigError, ContextLengthExceeded, InvalidRequest, PicertError
from picert.messages import ChatMessage

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_gguf(tmp_path_factory.mktemp("models"), "qwen2", "Q8_0")


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[LLM]:
    torch.set_num_threads(1)
    with LLM(
        str(model), runner="torch", kv_tokens=2048, max_num_seqs=4, max_num_queued_reqs=2
    ) as llm:
        yield llm


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(llm: LLM) -> Iterator[None]:
    yield
    assert not llm.engine.has_work
    assert not llm._inbox
    llm.engine.self_check()


def test_one_prompt_gives_one_completion(llm: LLM) -> None:
    (completion,) = llm.generate("hello", GREEDY)
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == 6
    assert completion.text == llm.engine.tokenizer.decode(completion.token_ids)
    assert completion.mean_logprob < 0


def test_more_prompts_than_the_queue_holds_come_back_in_order(llm: LLM) -> None:
    prompts = [f"prompt number {i}" for i in range(20)]
    together = llm.generate(prompts, GREEDY)
    alone = [llm.generate(prompt, GREEDY)[0] for prompt in prompts]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]


def test_prompts_of_more_tokens_than_the_queue_holds_come_back_in_order(
    llm: LLM, model: Path
) -> None:
    prompts = [f"prompt number {i} of many" for i in range(12)]
    with LLM(str(model), runner="torch", kv_tokens=2048, max_num_queued_tokens=30) as narrow:
        together = narrow.generate(prompts, GREEDY)
    assert [c.token_ids for c in together] == [c.token_ids for c in llm.generate(prompts, GREEDY)]


def test_token_ids_are_prompts_too(llm: LLM) -> None:
    ids = llm.engine.tokenizer.encode_prompt("hello")
    assert llm.generate([ids], GREEDY)[0].token_ids == llm.generate("hello", GREEDY)[0].token_ids


def test_no_prompts_give_no_completions(llm: LLM) -> None:
    assert llm.generate([], GREEDY) == []


def test_stream_joins_to_the_completion(llm: LLM) -> None:
    outputs = list(llm.stream("hello", GREEDY))
    assert "".join(output.text for output in outputs) == llm.generate("hello", GREEDY)[0].text
    assert [output.finish_reason for output in outputs] == [None] * 5 + ["length"]


def test_streams_may_be_read_in_turns(llm: LLM) -> None:
    pairs = list(zip(llm.stream("one", GREEDY), llm.stream("two", GREEDY), strict=True))
    assert len(pairs) == 6
    first = [token for output, _ in pairs for token in output.token_ids]
    assert tuple(first) == llm.generate("one", GREEDY)[0].token_ids


def test_closed_stream_is_aborted(llm: LLM) -> None:
    stream = llm.stream("hello", GREEDY)
    next(stream)
    assert llm.engine.has_work
    stream.close()  # type: ignore[attr-defined]


def test_chat_takes_one_conversation_or_several(llm: LLM) -> None:
    chat = [ChatMessage("user", "hello")]
    as_dicts = [{"role": "user", "content": "hello"}]
    (one,) = llm.chat(chat, GREEDY)
    several = llm.chat([chat, as_dicts], GREEDY)
    assert [c.token_ids for c in several] == [one.token_ids] * 2
    ids = llm.engine.tokenizer.encode_chat(chat)
    assert llm.generate([ids], GREEDY)[0].token_ids == one.token_ids


def test_logprobs_come_with_every_token(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=2)
    (completion,) = llm.generate("hello", params)
    assert completion.logprobs is not None
    assert [t.token_id for t in completion.logprobs] == list(completion.token_ids)
    assert all(len(t.top) == 2 for t in completion.logprobs)


def test_bad_message_is_refused_by_name(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="role"):
        llm.chat([{"role": "wizard", "content": "hello"}], GREEDY)


def test_one_prompt_too_long_leaves_the_others_unserved(llm: LLM) -> None:
    with pytest.raises(ContextLengthExceeded):
        llm.generate(["hello", "word " * 5000], GREEDY)


def test_unknown_option_is_refused_by_name(model: Path) -> None:
    with pytest.raises(ConfigError, match="max_seqs"):
        LLM(str(model), max_seqs=3)


def test_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PicertError, match="none-such"):
        LLM(str(tmp_path / "none-such.gguf"))


def test_importing_picert_does_not_load_torch() -> None:
    code = "import sys, picert; assert picert.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(ImportError):
        from picert import Nothing  # type: ignore[attr-defined] # noqa: F401
