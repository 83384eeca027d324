from picert.messages import AnswerJob, ChatMessage, ExpandJob, SamplingParams, Segment
from picert.pice.dispatch import DispatchQueue, EdgeView, choose_edge, job_size
from picert.pice.grouping import group


def _job(request_id: str, num_segments: int = 1) -> ExpandJob:
    return ExpandJob(
        request_id=request_id,
        attempt=0,
        question="q",
        outline=(),
        segments=tuple(Segment(i, "s") for i in range(num_segments)),
        max_tokens=8,
        deadline_s=1.0,
    )


def _answer_job(request_id: str) -> AnswerJob:
    return AnswerJob(
        request_id=request_id,
        attempt=0,
        messages=(ChatMessage("user", "q"),),
        sampling=SamplingParams(),
        deadline_s=1.0,
    )


def test_jobs_leave_in_the_order_they_came() -> None:
    queue = DispatchQueue()
    for name in "abc":
        queue.push(_job(name))
    assert [queue.next_for(1).request_id for _ in range(3)] == ["a", "b", "c"]  # type: ignore[union-attr]
    assert queue.next_for(1) is None


def test_a_job_that_lost_its_edge_goes_first() -> None:
    queue = DispatchQueue()
    queue.push(_job("a"))
    queue.push(_answer_job("b"), first=True)
    first = queue.next_for(4)
    assert first is not None
    assert first.request_id == "b"


def test_no_free_slot_takes_no_job() -> None:
    queue = DispatchQueue()
    queue.push(_job("a"))
    assert queue.next_for(0) is None
    assert len(queue) == 1


def test_a_job_that_fits_passes_one_that_does_not() -> None:
    queue = DispatchQueue()
    queue.push(_job("large", 4))
    queue.push(_job("small", 1))
    assert queue.next_for(2) == _job("small", 1)
    assert queue.next_for(2) == _job("large", 4)  # nothing smaller waits: it must not starve


def test_removing_a_request_removes_all_its_jobs_and_no_other() -> None:
    queue = DispatchQueue()
    for name in ("a", "b", "a", "c"):
        queue.push(_job(name))
    assert queue.remove("a") == 2
    assert queue.remove("a") == 0
    queue.discard(_job("c"))
    queue.discard(_job("c"))
    assert queue.next_for(1) == _job("b")
    assert len(queue) == 0


def _view(name: str, in_flight: int = 0, *, last_used: float = 0.0, ready: bool = True) -> EdgeView:
    return EdgeView(name, ready, slots=2, num_in_flight=in_flight, last_used=last_used)


def test_the_edge_with_the_fewest_jobs_is_chosen() -> None:
    assert choose_edge([_view("a", 1), _view("b", 0), _view("c", 1)]) == "b"


def test_among_equals_the_longest_unused_is_chosen() -> None:
    assert choose_edge([_view("a", last_used=9.0), _view("b", last_used=3.0)]) == "b"


def test_every_edge_gets_work() -> None:
    last_used = {"a": 0.0, "b": 0.0, "c": 0.0}
    for now in range(1, 7):
        name = choose_edge([_view(n, last_used=t) for n, t in last_used.items()])
        assert name is not None
        last_used[name] = float(now)
    assert sorted(last_used.values()) == [4.0, 5.0, 6.0]


def test_full_absent_and_avoided_edges_are_not_chosen() -> None:
    views = [_view("full", 2), _view("away", ready=False), _view("failed")]
    assert choose_edge(views, avoid=["failed"]) is None
    assert choose_edge([]) is None


def test_job_size_counts_sequences() -> None:
    assert job_size(_job("a", 3)) == 3
    assert job_size(_answer_job("a")) == 1


def test_every_segment_is_in_one_group_in_order() -> None:
    segments = [Segment(i, f"s{i}") for i in range(4)]
    assert [s for members in group(segments) for s in members] == segments
    assert group([]) == []
