"""Texts in the chat template of Qwen3, the text encoder of several families."""

from __future__ import annotations

from typing import Any


def chat_tokens(tokenizer: Any, text: str, *, enable_thinking: bool) -> int:
    """Number of tokens of a text as a user's message, with those of the template."""
    message = [{"role": "user", "content": text}]
    chat = tokenizer.apply_chat_template(
        message, tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking
    )
    return len(tokenizer(chat, verbose=False).input_ids)
