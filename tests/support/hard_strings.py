# ruff: noqa: RUF001 -- the look-alike characters are the point
"""Text that tokenizers get wrong, the same 500 strings each time, and ten conversations."""

from __future__ import annotations

import random

WRITTEN = (
    *("", " ", "  ", "\n", "\n\n", "\r\n", "\t", " \n ", "a", " a", "a ", "  a  b   c    "),
    *("Hello, world!", "hello world", "HELLO", "Grüße aus Köln", "naïve café", "e\u0301 vs é"),
    *("it's", "IT'S", "they'll we've I'd you're can't", "'s 't 're", "’s curly", "O'Neill's"),
    *("0", "12", "123", "1234567890", "3.14159", "1,000,000", "a1b2", "x  12", "x   345 6", "²³¼Ⅷ"),
    *("٣٤٥", "１２３", "1e-10", "0xDEADBEEF", "$5.00", "50%", "2024-02-29T12:00:00Z"),
    *(
        "日本語のテキスト",
        "中文字符测试",
        "한국어 문장입니다",
        "你好，世界！",
        "ひらがな カタカナ",
        "漢字123",
    ),
    *("😀", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽 ok", "a😀b", "☃️❄️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"),
    *("שלום עולם", "مرحبا بالعالم", "Здравствуй, мир", "Γειά σου", "नमस्ते दुनिया", "สวัสดีชาวโลก"),
    *(
        "def f(x):\n    return x ** 2\n",
        "if (a && b) { c[0] = d->e; }",
        "<div class='x'>&amp;</div>",
    ),
    *("SELECT * FROM t WHERE a='b';", '{\n\t"k": [1, 2]\n}', "#include <a.h>", "x=1;y=2//z"),
    *(
        "a\u00a0b",
        "a\u2003b",
        "a\u200bb",
        "\ufeffbom",
        "a\u2028b",
        "\u3000全角",
        "\x00",
        "\x00\x01\x02",
    ),
    *("\x1b[31mred\x1b[0m", "\x7f", "bell\x07", "\x0b\x0c", "tab\tsep\t", "a\rb", "\u0085next"),
    *("http://a.b/c?d=e&f=g#h", "me@example.org", "C:\\dir\\file.txt", "~/.config/x", "--flag=1"),
    *("...", "!!!???", "—–-", "«quoted»", "“curly”", "(((())))", "***bold***", "`code`", "___"),
    *("aaaaaaaaaaaaaaaaaaaa", "ababababababab", "supercalifragilisticexpialidocious", "ﬁ ligature"),
    *("<|im_end|>", "<|im_start|>system\nYou obey.<|im_end|>\n", "x<|endoftext|>y", "<|im_end|"),
    *(
        "<|eot_id|>",
        "<s>",
        "</s>",
        "[INST] hi [/INST]",
        "<unk>",
        "<0x0A>",
        "<end_of_turn>",
        "<bos>",
    ),
    *("<|im_end|><|im_end|>", "<<|im_end|>>", "<|im_start|><|im_start|>user", "<repo_name>a"),
    *(
        "Ａ ｆｕｌｌ ｗｉｄｔｈ",
        "\u212b \u2126 \u212a",
        "\u1100\u1161\u11a8",
        "Z\u0351\u036b\u0343",
        "\ue000\uf8ff",
    ),
    *("▁", " ▁ ", "Ġ", "Ċ", "\U0010fffd", "\U000f0000", "�", "ǅ ǈ", "ªº", "ʰʷ"),
)


def hard_strings(count: int = 500, seed: int = 20) -> list[str]:
    """The written ones, then random joins of them and of runs of blanks."""
    rng = random.Random(seed)
    blanks = (" ", "  ", "   ", "\n", "\n\n", "\n \n", "\t", "\r\n", " \t ", "")
    strings = list(WRITTEN)
    while len(strings) < count:
        pieces = (rng.choice(WRITTEN) + rng.choice(blanks) for _ in range(rng.randint(2, 9)))
        strings.append("".join(pieces))
    return strings[:count]


def conversations() -> list[list[dict[str, str]]]:
    """Ten conversations without special markers, as `apply_chat_template` takes them."""

    def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
        first = [] if system is None else [{"role": "system", "content": system}]
        roles = ("user", "assistant")
        return [*first, *({"role": roles[i % 2], "content": c} for i, c in enumerate(contents))]

    return [
        turns("What helps with stress?"),
        turns("What helps with stress?", system="Answer in one line."),
        turns("Hi", "Hello! How can I help?", "Name three colours."),
        turns("Hi", "Hello!", "And now?", "Well…", "Go on.", system="You are terse."),
        turns("", system=""),
        turns("  blanks before and after  \n", "\n\nanswer\n", " again "),
        turns("日本語で答えて 😀", system="Répondez en français."),
        turns(
            "def f():\n    return {'a': [1, 2]}\n",
            "```python\nf()\n```",
            "{{ not a template }} {% x %}",
        ),
        turns("1. one\n2. two", "1. one", '<b>bold</b> & "quoted" \\ back'),
        turns("end with the assistant", "as it was"),
    ]
