"""The template around a user's prompt, and its tokens.

    <|im_start|>user
    <|vision_start|> image tokens <|vision_end|> instruction with the prompt <|im_end|>
    <|im_start|>assistant
    <reward>

`<reward>` is the last token, so with causal attention its hidden state depends on the image and the whole prompt.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from transformers import AddedToken, PreTrainedTokenizerBase

from actors.reward_input import InputError, check_prompt

REWARD_TOKEN = "<reward>"
IMAGE_TOKEN = "<|image_pad|>"
_PREFIX = "<|im_start|>user\n<|vision_start|>"
_MIDDLE = "<|vision_end|>"
_SUFFIX = f"<|im_end|>\n<|im_start|>assistant\n{REWARD_TOKEN}"
_CACHE_BYTES = 64 * 2**20  # of token ids that are kept for prompts that come again
_TOKEN_BYTES = 40  # of one id in a tuple: its place and a Python integer


def add_reward_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Adds `<reward>` to the tokenizer if it is missing, and returns its id."""
    tokenizer.add_tokens([AddedToken(REWARD_TOKEN, normalized=False, special=True)], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(REWARD_TOKEN))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class PromptTokens:
    """Token ids of one row, without its image tokens."""

    before: tuple[int, ...]  # up to and including <|vision_start|>
    after: tuple[int, ...]  # from <|vision_end|> to <reward>


class PromptTemplate:
    """Turns a prompt into token ids. Special tokens in the user's text are read as plain text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, instruction: str = "{prompt}") -> None:
        """`instruction`: the question for the model; `{prompt}` stands for the user's text.

        Raises ValueError if `{prompt}` does not occur exactly once, or if the tokenizer lacks `<reward>`.
        """
        if instruction.count("{prompt}") != 1:
            raise ValueError(f"the instruction must contain {{prompt}} exactly once, got {instruction!r}")
        self._tokenizer = tokenizer
        lead, trail = instruction.split("{prompt}")
        self._special = frozenset(tokenizer.all_special_ids) | frozenset(_added_special_ids(tokenizer))
        self.reward_id = self._single_id(REWARD_TOKEN)
        self.image_id = self._single_id(IMAGE_TOKEN)
        self._before = tuple(self._markup(_PREFIX))
        self._lead = (*self._markup(_MIDDLE), *self._plain(lead))
        self._trail = (*self._plain(trail), *self._markup(_SUFFIX))
        self._cache: dict[str, PromptTokens] = {}
        self._cached_bytes = 0

    def encode(self, prompt: str) -> PromptTokens:
        """Token ids of one prompt. The last one is `<reward>`, which occurs nowhere else.

        Raises InputError for a prompt that `check_prompt` refuses.
        """
        if (cached := self._cache.get(prompt)) is not None:
            return cached
        check_prompt(prompt)
        tokens = PromptTokens(self._before, (*self._lead, *self._plain(prompt), *self._trail))
        size = sys.getsizeof(prompt) + _TOKEN_BYTES * len(tokens.after)
        if self._cached_bytes + size > _CACHE_BYTES:
            self._cache.clear()
            self._cached_bytes = 0
        self._cache[prompt] = tokens
        self._cached_bytes += size
        return tokens

    def _plain(self, text: str) -> list[int]:
        """Token ids of text. The name of a special token in it is split, so that no special id comes out."""
        if not text.strip():
            return []
        ids = list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])  # pyright: ignore
        special = next((i for i in ids if i in self._special and i != self._tokenizer.unk_token_id), None)
        if special is None:
            return ids
        name = str(self._tokenizer.convert_ids_to_tokens(special))
        if name not in text or len(name) < 2:
            raise InputError(f"a prompt must not contain the special token {name}: remove it")
        # This tokenizer does not split it, so the text is cut after the first character of each occurrence.
        pieces = text.replace(name, f"{name[0]}\0{name[1:]}").split("\0")  # a prompt holds no other \0
        return [index for piece in pieces for index in self._plain(piece)]

    def _markup(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])  # pyright: ignore

    def _single_id(self, token: str) -> int:
        ids = self._markup(token)
        if len(ids) != 1 or ids[0] not in self._special:
            raise ValueError(f"the tokenizer must hold {token} as one special token, got ids {ids}: add it first")
        return ids[0]


def _added_special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
