"""One request's life between HTTP and the engine: render, tokenise, check, submit, decode."""

from radixmill.front.session.ask import Ask, ChatPrompt, Prompt, Sampling, TextPrompt, TokenPrompt, Tool, ToolRule
from radixmill.front.session.batch import Batch
from radixmill.front.session.caller import ANYONE, Caller, Meter, salts
from radixmill.front.session.echo import PromptText
from radixmill.front.session.events import Arguments, Call, Content, End, Event, FinishReason, Reasoning, Token, Usage
from radixmill.front.session.fold import Gatherer, Whole, WholeCall, gather, winners
from radixmill.front.session.front import Condition, Front, Mode, Reloaded, Served, not_ready
from radixmill.front.session.generation import Facts, Generation
from radixmill.front.session.open import UNLIMITED, open_session, open_text
from radixmill.front.session.receipt import Proof
from radixmill.front.session.session import Session
from radixmill.front.session.speech import template_tools
from radixmill.front.session.text import ModelText, Text
from radixmill.front.session.view import EngineView

__all__ = [
    "ANYONE",
    "Arguments",
    "Ask",
    "Batch",
    "Call",
    "Caller",
    "ChatPrompt",
    "Condition",
    "Content",
    "End",
    "EngineView",
    "Event",
    "Facts",
    "FinishReason",
    "Front",
    "Gatherer",
    "Generation",
    "Meter",
    "Mode",
    "ModelText",
    "Prompt",
    "PromptText",
    "Proof",
    "Reasoning",
    "Reloaded",
    "Served",
    "Sampling",
    "Session",
    "Text",
    "TextPrompt",
    "Token",
    "TokenPrompt",
    "Tool",
    "ToolRule",
    "UNLIMITED",
    "Usage",
    "Whole",
    "WholeCall",
    "gather",
    "salts",
    "not_ready",
    "open_session",
    "open_text",
    "template_tools",
    "winners",
]
