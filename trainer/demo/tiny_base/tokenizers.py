"""How the tiny world's captions become tokens: a byte-level CLIP vocabulary, so that any other text has tokens too."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import CLIPTokenizer

MOST_TOKENS = 24
"""Context length of both text encoders. A caption has 9 tokens; SDXL's 77 would only cost time here."""

START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizers(folder: Path, words: list[str]) -> None:
    """Write `tokenizer` and `tokenizer_2` into `folder`: every byte is a token and each of `words` is one token.

    As in SDXL the first pads with the end token and the second with "!", which is token 0.
    """
    symbols = _byte_symbols()
    merges, whole = _merges(words)
    vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols), *whole, START, END]
    for name, pad in (("tokenizer", END), ("tokenizer_2", "!")):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
        (place / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        (place / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "CLIPTokenizer",
                    "bos_token": START,
                    "eos_token": END,
                    "unk_token": END,
                    "pad_token": pad,
                    "do_lower_case": True,
                    "errors": "replace",
                    "add_prefix_space": False,
                    "model_max_length": MOST_TOKENS,
                },
                indent=2,
            )
        )
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
        (place / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
        CLIPTokenizer.from_pretrained(place)


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins of GPT-2's byte-level alphabet, "!" first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def _merges(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Merges that make each word one token, and every token that they make, each once."""
    merges: list[tuple[str, str]] = []
    for word in sorted(words):
        # Earlier words' merges come first and may already have joined parts of this one ("ri" of "right", "triangle").
        pieces = _merged([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return merges, list(dict.fromkeys(a + b for a, b in merges))


def _merged(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """What byte-pair encoding leaves of `pieces`: the earliest merge that fits anywhere is made first."""
    for merge in merges:
        at = 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == merge:
                pieces = [*pieces[:at], merge[0] + merge[1], *pieces[at + 2 :]]
            at += 1
    return pieces
