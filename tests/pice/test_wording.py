import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from picert.pice import wording


def test_words_fold_case_and_width_and_drop_punctuation() -> None:
    assert wording.words("Don’t STOP — ＡＢＣ, 3.5!") == ["don’t", "stop", "abc", "3", "5"]


@given(st.text(st.characters(max_codepoint=0x7F)) | st.text("aB'’ _-.1\n"))
def test_words_of_ascii_text_are_those_of_any_text(text: str) -> None:
    folded = unicodedata.normalize("NFKC", text).casefold()
    assert wording.words(text) == wording._WORD.findall(folded)


def test_scripts_without_spaces_give_a_word_per_character() -> None:
    assert wording.words("睡眠 and rest") == ["睡", "眠", "and", "rest"]


def test_similarity_is_one_for_the_same_words_and_zero_for_none() -> None:
    assert wording.similarity("Sleep well, daily", "daily sleep WELL") == 1.0
    assert wording.similarity("sleep", "exercise") == 0.0
    assert wording.similarity("", "") == 0.0


def test_recall_counts_content_words_only() -> None:
    assert wording.recall("the benefits of sleep", "Sleep is good.") == 0.5
    assert wording.recall("the of and", "anything") == 1.0


def test_a_run_said_three_times_is_a_loop() -> None:
    assert wording.has_loop("it is good to walk and it is good to run and it is good to swim")
    assert not wording.has_loop(
        "Walk a little each day. It clears the head and strengthens the heart."
    )


def test_a_cycle_of_a_few_words_is_a_loop() -> None:
    assert wording.has_loop(
        "calm mind and body and mind and body and mind and body and mind and body"
    )


def test_chat_markers_are_found_and_cut() -> None:
    assert wording.has_chat_marker("done<|im_end|>")
    assert wording.before_chat_marker("done<|im_end|>\n<|im_start|>user") == "done"
    assert not wording.has_chat_marker("a < b | c > d")


def test_one_line_drops_line_breaks_and_control_characters() -> None:
    assert wording.one_line(" a\n1. b\u2028c\x00d ") == "a 1. b c d"


def test_rouge_l_is_the_longest_common_subsequence_over_the_mean_length() -> None:
    assert wording.rouge_l("a walk lifts the mood", "a walk lifts the mood") == 1.0
    assert wording.rouge_l("a walk lifts the mood", "walk the dog") == 2 * 2 / 8
    assert wording.rouge_l("walk", "sleep") == wording.rouge_l("", "sleep") == 0.0
    assert wording.rouge_l("one two three", "three two one") == 2 / 6
