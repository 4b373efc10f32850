"""One request's life between HTTP and the engine: render, tokenise, check, submit, decode."""

from radixmill.front.session.ask import Ask, ChatPrompt, Prompt, Sampling, TextPrompt, TokenPrompt, Tool, ToolRule
from radixmill.front.session.batch import Batch
from radixmill.front.session.echo import PromptText
from radixmill.front.session.events import Arguments, Call, Content, End, Event, FinishReason, Reasoning, Token, Usage
from radixmill.front.session.fold import Gatherer, Whole, WholeCall, gather, winners
from radixmill.front.session.front import Front
from radixmill.front.session.generation import Facts, Generation
from radixmill.front.session.receipt import Proof
from radixmill.front.session.session import Session
from radixmill.front.session.speech import template_tools
from radixmill.front.session.text import ModelText, Text

__all__ = [
    "Arguments",
    "Ask",
    "Batch",
    "Call",
    "ChatPrompt",
    "Content",
    "End",
    "Event",
    "Facts",
    "FinishReason",
    "Front",
    "Gatherer",
    "Generation",
    "ModelText",
    "Prompt",
    "PromptText",
    "Proof",
    "Reasoning",
    "Sampling",
    "Session",
    "Text",
    "TextPrompt",
    "Token",
    "TokenPrompt",
    "Tool",
    "ToolRule",
    "Usage",
    "Whole",
    "WholeCall",
    "gather",
    "template_tools",
    "winners",
]
