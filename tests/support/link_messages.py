"""One message of every type that crosses the link, with every field set to something telling."""

from __future__ import annotations

from picert.messages import (
    AnswerJob,
    Cancel,
    ChatMessage,
    Drain,
    ExpandJob,
    Expansion,
    Failure,
    Heartbeat,
    Hello,
    LinkMessage,
    LoadModel,
    ModelInfo,
    Probe,
    SamplingParams,
    Segment,
    SpareModel,
    SpeedCurve,
    TextDelta,
    Welcome,
)


def hello(name: str = "edge-1", instance: str = "") -> Hello:
    """The Hello of a small edge."""
    models = (ModelInfo("tiny", "00ff", 1000, 128),)
    return Hello(
        name=name,
        picert_version="0.1.0",
        models=models,
        slots=4,
        kv_tokens=4096,
        curves=(
            SpeedCurve(
                model="tiny",
                prefill_s_per_token=0.002,
                decode_s_per_token={1: 0.02, 8: 0.05},
                load_s=1.5,
            ),
        ),
        instance=instance,
        spares=(SpareModel(ModelInfo("large", "11ee", 9000, 128), 5_000_000, 0.5),),
    )


HEARTBEAT = Heartbeat(sent_at=12.5, num_running=2, num_waiting=1, kv_usage=0.25, rtt_s=0.001)
TO_EDGE: tuple[ExpandJob | AnswerJob | Cancel | LoadModel, ...] = (
    ExpandJob(
        request_id="q1",
        attempt=1,
        question="Why is the sky blue?",
        outline=("light", "scattering — Rayleigh"),
        segments=(Segment(1, "scattering — Rayleigh"),),
        max_tokens=64,
        deadline_s=3.5,
        written="It ",
        model="tiny",
        seed=7,
    ),
    AnswerJob(
        request_id="q2",
        attempt=0,
        messages=(ChatMessage("system", "Be brief."), ChatMessage("user", "Hi \U0001f44b")),
        sampling=SamplingParams(temperature=0.5, stop=("\n\n",), logit_bias={3: -1.0}, seed=1),
        deadline_s=10.0,
    ),
    Cancel("q1"),
    Cancel("q1", 2),
    LoadModel("large"),
)
TO_CLOUD: tuple[TextDelta | Expansion | Failure, ...] = (
    TextDelta("q1", 1, 1, "scatters \u00e9"),
    Expansion(
        request_id="q1",
        index=1,
        attempt=1,
        text="scatters é",
        finish_reason="stop",
        model="tiny",
        prompt_tokens=30,
        cached_tokens=16,
        completion_tokens=4,
        mean_logprob=-0.25,
        seconds=0.5,
    ),
    Failure(request_id="q1", attempt=1, code="deadline_exceeded", message="too late", index=1),
)
ALL: tuple[LinkMessage, ...] = (
    *TO_EDGE,
    *TO_CLOUD,
    hello(instance="abc"),
    Welcome("0.1.0", 1.0),
    HEARTBEAT,
    Probe("0.1.0", 1_800_000_000.0),
    Drain("maintenance", has_left=True),
)
