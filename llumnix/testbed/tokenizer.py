"""A byte-level tokenizer: 256 bytes and a few words of chat, tools and reasoning.

One token is one byte, so characters beyond ASCII span several tokens: the hardest case for cutting
a stream.
"""

import json
from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Never shown to a client."""
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""One token each, shown to clients; parsers of tools and reasoning look for them."""
VOCABULARY_SIZE = 256 + len(SPECIAL) + len(MARKS)
EOS_ID = 256
IM_END_ID = 258
THINK_END_ID = VOCABULARY_SIZE - 1

CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system
Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as `transformers` reads them."""
    _write(folder / "tokenizer.json", _tokenizer())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[0],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 20,
        "chat_template": CHAT_TEMPLATE,
    }
    _write(folder / "tokenizer_config.json", config)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def _tokenizer() -> dict[str, Any]:
    vocabulary = {letter: byte for byte, letter in enumerate(_byte_letters())}
    added = []
    for number, text in enumerate((*SPECIAL, *MARKS), start=256):
        vocabulary[text] = number
        added.append(
            {
                "id": number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": text in SPECIAL,
            }
        )
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def _byte_letters() -> list[str]:
    """Return the letter for each byte in GPT-2's byte-level alphabet."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    letters.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)]
