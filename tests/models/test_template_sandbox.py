"""The sandbox of chat templates: what it offers; no template runs on or fills the memory."""

from __future__ import annotations

import time
import tracemalloc
from datetime import datetime

import pytest

from picert.errors import InvalidRequest, ModelError
from picert.models.template_sandbox import MAX_TEMPLATE_CHARS, compile_template, run_template

HOSTILE = {
    "one long loop": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "loop in a loop's filter": (
        "{% for a in range(9999) %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}"
    ),
    "macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "repeated text": "{{ 'a' * 10**10 }}",
    "repeated list": "{{ ([0] * 10**9) | length }}",
    "constant that folds": "{{ 'x' * 999999999 }}",
    "great power": "{{ 10 ** (10 ** 9) }}",
    "doubling by plus": "{% set x = 'ab' %}" + "{% set x = x + x %}" * 60,
    "doubling by tilde": "{% set x = 'ab' %}" + "{% set x = x ~ x %}" * 60,
    "doubling by join": "{% set x = 'ab' %}" + "{% set x = [x, x] | join %}" * 60,
    "doubling by nesting": "{% set x = 'ab' %}" + "{% set x = [x, x] %}" * 60 + "{{ x }}",
    "doubling by macro": "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}{% set x = 'ab' %}"
    + "{% set x = d(x) %}" * 60,
    "wide centre": "{{ 'x'.center(10**9) }}",
    "wide zfill by item": "{{ 'x'['zf' ~ 'ill'](10**9) }}",
    "replace": "{% set x = 'a' * 9999 %}{{ x.replace('a', x) }}",
    "replace filter": "{% set x = 'a' * 9999 %}{{ x | replace('a', x) }}",
    "join": "{% set x = 'a' * 9999 %}{{ x.join(x) }}",
    "indent": "{{ ('a\n' * 9999) | indent(99999) }}",
    "percent width": "{{ '%999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (999999999, 1) }}",
    "format width": "{{ '{:999999999}'.format(1) }}",
    "format nested width": "{{ '{:{}}'.format(1, 999999999) }}",
    "wide bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "map of centre": "{{ ['x'] | map('center', 10**9) | list }}",
    "join of what has no length": "{{ ('x' * 999999).join(range(9999) | map('string')) }}",
    "indent by a text": "{{ ('a\n' * 99999) | indent('x' * 99999) }}",
    "tojson indented by a text": "{{ range(99999) | list | tojson(indent='x' * 99999) }}",
    "translate": "{{ ('a' * 999999).translate({97: 'x' * 999999}) }}",
    "wide bytes by percent": "{{ '%999999999d'.encode() % 1 }}",
    "round to great precision": "{{ 1.5 | round(10 ** 3 * 10 ** 6, 'ceil') }}",
    "division of long numbers": (
        "{{ (('f' * 2000000) | int(0, 16)) // (('e' * 999999) | int(0, 16)) }}"
    ),
    "test of long numbers": (
        "{{ (('f' * 999999) | int(0, 16)) is divisibleby(('e' * 499999) | int(0, 16)) }}"
    ),
    "search from the end": "{{ ('a' * 2000000).rfind('ab' ~ 'a' * 999999) }}",
    "trim of many": "{{ ('a' * 2000000) | trim('b' * 999999 ~ 'a') }}",
    "comparison of nested values": "{% set a = namespace(x=1, y=1) %}{% for i in range(30) %}"
    "{% set a.x = [a.x, a.x] %}{% set a.y = [a.y, a.y] %}{% endfor %}{{ a.x == a.y }}",
    "hash of nested values": "{% set a = namespace(x=()) %}{% for i in range(30) %}"
    "{% set a.x = (a.x, a.x) %}{% endfor %}{{ {a.x: 1} }}",
    "nesting by dict": "{% set a = namespace(x=1) %}{% for i in range(40) %}"
    "{% set a.x = dict(a=a.x, b=a.x) %}{% endfor %}{{ a.x == 2 }}",
    "nesting by namespace": "{% set a = namespace(x=1) %}{% for i in range(40) %}"
    "{% set a.x = namespace(a=a.x, b=a.x) %}{% endfor %}{{ a.x }}",
    "wide nesting": "{% set a = namespace(x=[]) %}{% for i in range(18) %}"
    "{% set a.x = [a.x, a.x, a.x, a.x] %}{% endfor %}{{ a.x | tojson }}",
    "namespace in itself": "{% set a = namespace() %}{% set a.a = a %}{{ a }}",
    "long pattern of time": "{{ strftime_now('%Y' * 999999) }}",
    "output": "{% set x = 'a' * 99999 %}{% for i in range(9999) %}{{ x }}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_template_ends_in_an_error_soon_and_small(name: str) -> None:
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(ModelError, match="chat template failed"):
        run(HOSTILE[name])
    took_s = time.perf_counter() - started
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took_s < 10  # about 1 s alone; tracing and a busy machine slow it down
    assert peak_bytes < 128 << 20


def run(source: str, **variables: object) -> str:
    return run_template(compile_template(source), variables)


def test_deadline_is_kept_by_the_clock_that_is_given() -> None:
    ticks = iter(range(1000))
    code = compile_template("{% for i in range(10) %}{% endfor %}")
    with pytest.raises(ModelError, match="over 1 s"):
        run_template(code, {}, clock=lambda: next(ticks))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace.__init__ }}{{ cycler.__init__.__globals__.os }}",
        "{{ lipsum(n=10) }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
    ],
)
def test_what_reaches_out_of_its_data_is_refused(source: str) -> None:
    with pytest.raises(ModelError, match="chat template"):
        run(source, messages=[])


@pytest.mark.parametrize(
    "source",
    ["{% for %}", "{{ x", "{% unknown %}", "{{ x | nofilter }}", "(" * 5, "{{ " + "(" * 5000],
)
def test_template_that_is_not_valid_is_a_model_error(source: str) -> None:
    if source == "(" * 5:
        assert run(source) == source
        return
    with pytest.raises(ModelError, match="not valid"):
        compile_template(source)


def test_template_over_the_size_limit_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="limit is 131,072"):
        compile_template("x" * (MAX_TEMPLATE_CHARS + 1))


def test_long_conversation_is_within_the_budget() -> None:
    source = (
        "{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim + '</' ~ m.role ~ '>' }}"
        "{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 2000}] * 200
    assert len(run(source, messages=messages)) > 1_900_000


def test_blocks_are_trimmed_and_loop_controls_work() -> None:
    skip = "    {% if i == 2 %}\n{% continue %}{% endif %}\n"
    source = "{% for i in [1, 2, 3] %}\n" + skip + "{{ i }}\n{% endfor %}"
    assert run(source) == "1\n3\n"


def test_generation_tag_is_tolerated_with_its_whitespace_control() -> None:
    assert run("a {%- generation %}b{% endgeneration -%} c") == "abc"


def test_tojson_writes_unicode_and_markup_as_they_are() -> None:
    assert run("{{ x | tojson }}", x={"a": "é<b>'😀"}) == '{"a": "é<b>\'😀"}'
    assert run("{{ x | tojson(indent=2) }}", x=[1]) == "[\n  1\n]"


def test_strftime_now_formats_the_day() -> None:
    assert run("{{ strftime_now('%Y') }}") in {str(datetime.now().year + n) for n in (-1, 0)}


def test_operators_give_what_jinja_gives() -> None:
    source = (
        "{{ 'a' ~ 1 ~ none }} {{ 2 ** 3 }} {{ 'ab' * 2 }} {{ [1] + [2] }} {{ '%s-%d' % ('x', 3) }}"
    )
    assert run(source) == "a1None 8 abab [1, 2] x-3"
    assert run("{{ '{}:{}'.format(1, 'b') }} {{ ['a', 'b'] | join(', ') }}") == "1:b a, b"
    assert run("{{ ['b', 'a'] | sort | map('upper') | join }} {{ 7 % 4 }}") == "AB 3"
    assert run("{{ 7 // 2 }} {{ 8 is divisibleby 2 }} {{ 2.345 | round(1) }}") == "3 True 2.3"
    assert run("{% set a, b = 3, [4] %}{{ (a, {'k': b}) }}{{ b in [b] }}") == "(3, {'k': [4]})True"


def test_refusal_of_a_template_is_one_line() -> None:
    code = compile_template("{{ raise_exception('no\\n' ~ 'such role' * 99) }}")
    with pytest.raises(InvalidRequest, match="no such role") as caught:
        run_template(code, {})
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith("no such role")
