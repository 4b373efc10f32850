"""Strings ⇄ token ids, and messages → strings. Knows nothing of requests, engines or HTTP."""

from __future__ import annotations

from radixmill.front.text.chat import Literals, Rendered, encode_chat, encode_rendered, render_chat
from radixmill.front.text.decoder import TextDecoder
from radixmill.front.text.stack import TextStack, load_text
from radixmill.front.text.stops import StopScanner
from radixmill.front.text.template import ChatTemplate, TemplateError, TooSlow
from radixmill.front.text.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "Literals",
    "Rendered",
    "StopScanner",
    "TemplateError",
    "TextDecoder",
    "TextStack",
    "Tokenizer",
    "TooSlow",
    "encode_chat",
    "encode_rendered",
    "load_text",
    "render_chat",
]
