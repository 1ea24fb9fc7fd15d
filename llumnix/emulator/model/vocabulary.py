"""The emulated model's vocabulary: the 256 bytes, then short made-up words, then the end token.

Any text can be encoded, and decodes to itself. The model itself only produces words, so its text is
plain ASCII and can be cut anywhere.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

VOCABULARY = 4096
FIRST_WORD_ID = 256
END_ID = VOCABULARY - 1
"""The token that ends a text; it has no text of its own."""
WORDS = END_ID - FIRST_WORD_ID

_SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwyz" for vowel in "aeiou"]


def _word(index: int) -> str:
    # Any two-syllable word, each once: 61 has no factor in common with the 95 * 95 there are.
    first, second = divmod(index * 61 % len(_SYLLABLES) ** 2, len(_SYLLABLES))
    return " " + _SYLLABLES[first] + _SYLLABLES[second]


_WORDS = [_word(index) for index in range(WORDS)]
_BYTES = [*(bytes([byte]) for byte in range(256)), *(word.encode() for word in _WORDS), b""]
_WORD_IDS = {word.encode(): FIRST_WORD_ID + index for index, word in enumerate(_WORDS)}
_PIECES = re.compile(rb" [a-z]+|[^ ]+| ")

TEXT = tuple(piece.decode(errors="replace") for piece in _BYTES)
"""The text of each token."""
JSON_TEXT = tuple(json.dumps(text)[1:-1] for text in TEXT)
"""The same, escaped for a JSON string."""


def decode(token_ids: Iterable[int]) -> str:
    """Turn tokens into text; invalid UTF-8 becomes replacement characters."""
    return b"".join(_BYTES[token] for token in token_ids).decode(errors="replace")


def encode(text: str) -> list[int]:
    """Turn text into tokens: a known word is one token, anything else a token per byte."""
    token_ids: list[int] = []
    for piece in _PIECES.findall(text.encode()):
        word = _WORD_IDS.get(piece)
        if word is None:
            token_ids.extend(piece)
        else:
            token_ids.append(word)
    return token_ids


def chat_prompt(messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Apply the chat template: each message's `role` and `content`, then the assistant's turn."""
    turns = [f"<|{message['role']}|>\n{message['content']}\n" for message in messages]
    return encode("".join(turns) + "<|assistant|>\n")
