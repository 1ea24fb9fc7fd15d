"""The vocabulary: text to tokens and back."""

import json

from hypothesis import given
from hypothesis import strategies as st

from llumnix.emulator.model.vocabulary import (
    END_ID,
    FIRST_WORD_ID,
    JSON_TEXT,
    TEXT,
    VOCABULARY,
    chat_prompt,
    decode,
    encode,
)


@given(st.text())
def test_any_text_survives_a_round_trip(text: str) -> None:
    """Encoding loses nothing."""
    assert decode(encode(text)) == text


@given(st.lists(st.integers(FIRST_WORD_ID, END_ID - 1)))
def test_answers_survive_a_round_trip(token_ids: list[int]) -> None:
    """What the model says is encoded as it was said, token by token."""
    assert encode(decode(token_ids)) == token_ids


@given(st.lists(st.integers(FIRST_WORD_ID, END_ID)))
def test_answers_may_be_cut_anywhere(token_ids: list[int]) -> None:
    """The text of an answer is the texts of its tokens, one after the other."""
    assert decode(token_ids) == "".join(TEXT[token] for token in token_ids)


def test_tokens_are_the_bytes_distinct_words_and_an_end() -> None:
    """4096 in all."""
    assert [encode(chr(byte)) for byte in range(128)] == [[byte] for byte in range(128)]
    words = TEXT[FIRST_WORD_ID:END_ID]
    assert len(set(words)) == len(words) == VOCABULARY - 256 - 1
    assert all(word.startswith(" ") and word.isascii() for word in words)
    assert TEXT[END_ID] == ""


def test_json_texts_are_ready_to_be_quoted() -> None:
    """They stand between quotes in a chunk as they are."""
    assert [json.loads(f'"{text}"') for text in JSON_TEXT] == list(TEXT)


def test_the_chat_template_tells_who_said_what() -> None:
    """Roles matter, and the assistant's turn is opened."""
    said = chat_prompt(
        [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    )
    assert decode(said) == "<|system|>\nbe kind\n<|user|>\nhi\n<|assistant|>\n"
