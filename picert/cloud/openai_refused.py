"""Fields that OpenAI or vLLM know and picert does not serve: refused by name, unless the value asks
for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from picert.cloud.openai_schema import shown
from picert.errors import InvalidRequest
from picert.log import get_logger

logger = get_logger(__name__)
Neutral = Mapping[str, tuple[Any, ...]]  # field -> values that ask for nothing; None always does

_ANYWHERE: dict[str, tuple[Any, ...]] = {
    # OpenAI
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
    # vLLM
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "prompt_logprobs": (),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "truncate_prompt_tokens": (),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "logits_processors": ([],),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "cache_salt": (),
    "kv_transfer_params": (),
    "vllm_xargs": ({},),
}
IN_CHAT: Neutral = MappingProxyType(
    {
        **_ANYWHERE,
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "reasoning_effort": ("none",),
        "verbosity": (),
        "web_search_options": (),
        "add_special_tokens": (False,),
        "echo": (False,),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "documents": ([],),
        "mm_processor_kwargs": ({},),
    }
)
IN_COMPLETION: Neutral = MappingProxyType(
    {
        **_ANYWHERE,
        "suffix": ("",),
        "response_format": ({"type": "text"},),
        "add_special_tokens": (True,),
        "prompt_embeds": (),
    }
)
# What an answer holds when a client sends it back as it came.
IN_MESSAGE: Neutral = MappingProxyType(
    {
        "refusal": (),
        "annotations": ([],),
        "audio": (),
        "function_call": (),
        "reasoning": ("",),
        "reasoning_content": ("",),
    }
)
IN_STREAM_OPTIONS: Neutral = MappingProxyType({"continuous_usage_stats": (False,)})
IN_TOKENIZE: Neutral = MappingProxyType(
    {"chat_template": (), "chat_template_kwargs": ({},), "mm_processor_kwargs": ({},)}
)


def refuse_unsupported(extra: Mapping[str, Any] | None, neutral: Neutral, prefix: str = "") -> None:
    """Raises InvalidRequest for a field of `neutral` that asks for something."""
    for name, value in (extra or {}).items():
        if name not in neutral:
            logger.debug("unknown field %s%.60r is ignored", prefix, name)
        elif value is not None and not any(_same(value, other) for other in neutral[name]):
            field = prefix + name
            raise InvalidRequest(
                f"{field} is {shown(value)}, which is not supported: leave it out", param=field
            )


def _same(value: Any, other: Any) -> bool:
    """Equal, where 1 is not True."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)
