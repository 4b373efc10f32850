"""What a model's own chat template makes of a thought and of calls: the text that the model itself would have written.

    prompt      … <|im_start|>assistant
    history     … <|im_start|>assistant <think>why</think> <tool_call>…</tool_call> <|im_end|>
                                        └───────────────── sample ────────────────┘

Templates differ in what they print of a message, so it is put to them in several shapes, until all of it is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from radixmill.front.dialects import FAMILIES, CallIds
from radixmill.front.dialects.messages import Message
from radixmill.front.dialects.proof import ANSWER, CALLS, PARAMETERS, THOUGHT, Call, Sample, Token
from radixmill.front.text import TextDecoder, TextStack

USER: Message = {"role": "user", "content": "hello"}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"calls {name}", "parameters": parameters}}
    for name, parameters in PARAMETERS.items()
]
THINKERS = tuple(family.think for family in FAMILIES if family.think)
SWITCHES = tuple(dict.fromkeys(think.switch for think in THINKERS if think.switch))
EFFORT = "reasoning_effort"  # a switch that is set to a word
THINK_TAGS = sorted({tag.strip() for think in THINKERS for tag in (think.open, think.close)}, key=len, reverse=True)
IDS: Mapping[CallIds, str] = {"ours": "call_{:024d}", "nine": "call{:05d}", "indexed": "functions.{name}:{}"}


class Rehearsal:
    """One model's template and vocabulary, and what they know. Renders when asked, each text once."""

    def __init__(self, stack: TextStack) -> None:
        self.template, self.tokenizer = stack.template, stack.tokenizer
        self.sources = " ".join(stack.template.sources.values()) if stack.template else ""
        names = stack.template.names if stack.template else frozenset()
        self.switches = tuple(switch for switch in SWITCHES if switch in names)
        self.calls = lru_cache(maxsize=8)(self._calls)
        self.thought = lru_cache(maxsize=8)(self._thought)
        self.prompt = lru_cache(maxsize=8)(self._prompt)
        self._end = lru_cache(maxsize=8)(self._turn_end)

    def where(self, tag: str) -> str:
        """Where a tag stands: "vocabulary" (there perhaps only its beginning), "chat template", or ""."""
        tag = tag.strip()
        if any(added.literal == tag for added in self.tokenizer.added) or any(
            map(tag.startswith, self.tokenizer.control)
        ):
            return "vocabulary"
        return "chat template" if tag in self.sources else ""

    def _calls(self, ids: CallIds) -> tuple[Sample, ...]:
        """The two calls as the template writes them: in one answer, or each in its own where it takes no two. None
        where it does not print them."""
        if "tool_calls" not in self.sources:
            return ()
        for content in (None, ""):
            if both := self._sample(_called(content, CALLS, ids), calls=CALLS):
                return (both,)
            each = [self._sample(_called(content, (call,), ids), calls=(call,)) for call in CALLS]
            if shown := [sample for sample in each if sample]:
                return tuple(shown) if len(shown) == len(CALLS) else ()
        return ()

    def _thought(self, ids: CallIds) -> Sample | None:
        """A thought, and if possible calls behind it, as the template writes them; None where it drops thoughts."""
        if not any(self.where(think.close) for think in THINKERS):
            return None
        thinking = {"reasoning_content": THOUGHT}
        for calls in (CALLS, CALLS[:1]) if "tool_calls" in self.sources else ():
            for content in (None, ""):
                for switch in ("", *self.switches):
                    message = _called(content, calls, ids) | thinking
                    if sample := self._sample(message, switch, thought=THOUGHT, calls=calls):
                        return sample
        message = {"role": "assistant", "content": ANSWER, **thinking}
        samples = (self._sample(message, switch, thought=THOUGHT, said=ANSWER) for switch in ("", *self.switches))
        return next(filter(None, samples), None)

    def _sample(
        self, message: Message, switch: str = "", *, thought: str = "", said: str = "", calls: Sequence[Call] = ()
    ) -> Sample | None:
        """The message as the model would write it; None where the template refuses it, or drops a part."""
        try:
            history = self._render(message, switch)
        except ValueError:
            return None
        prompt, text = _behind(self.prompt(switch), history)
        text = _before(text, self._end(switch))
        if not thought:
            text = _untagged(text)
        if not all(word in text for word in (thought, said, *_words(calls))):
            return None
        cut = tuple(self._tokens(text))
        whole = "".join(token.text for token in cut) == text  # a SentencePiece encoder may have put a space first
        return Sample(
            text=text,
            prompt=prompt,
            thought=thought,
            said=said,
            calls=tuple(calls),
            tokens=cut if whole else (),
            exact=frozenset(self.tokenizer.control),
        )

    def _prompt(self, switch: str = "", on: bool = True) -> str:
        """What stands before an answer; "" where the template refuses that."""
        try:
            return self._render(None, switch, on)
        except ValueError:
            return ""

    def _turn_end(self, switch: str) -> str:
        """What stands behind an answer."""
        try:
            return self._render({"role": "assistant", "content": ANSWER}, switch).rpartition(ANSWER)[2]
        except ValueError:
            return ""

    def _render(self, answer: Message | None, switch: str, on: bool = True) -> str:
        if self.template is None:
            return ""
        word = "high" if on else "none"
        setting: dict[str, Any] = {switch: word if switch == EFFORT else on} if switch else {}
        return self.template.render(
            [USER, answer] if answer else [USER],
            tools=TOOLS,
            add_generation_prompt=answer is None,
            **setting,
        )

    def _tokens(self, text: str) -> Iterator[Token]:
        literals = {id: literal for literal, id in self.tokenizer.control.items()}
        decoder = TextDecoder(self.tokenizer, skip_special=False)
        for id in self.tokenizer.encode(text, add_special=False):
            yield Token(decoder.push((id,)), literals.get(id, ""))


def _called(content: str | None, calls: Sequence[Call], ids: CallIds) -> Message:
    made = [
        {
            "id": IDS[ids].format(i, name=name),
            "type": "function",
            "function": {"name": name, "arguments": dict(arguments)},
        }
        for i, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": content, "tool_calls": made}


def _words(calls: Sequence[Call]) -> Iterator[str]:
    """What must be seen of calls."""
    for name, arguments in calls:
        yield name
        yield from (str(value) for value in arguments.values())


def _behind(prompt: str, history: str) -> tuple[str, str]:
    """What of the prompt stands in the history, and what follows it there. A prompt may end in tags of thoughts that
    history has otherwise, or not at all: then none count."""
    begun = prompt
    while not history.startswith(begun):
        begun, before = _without_tag(begun), begun
        if begun == before:
            return "", ""
    return begun, history[len(begun) :]


def _untagged(text: str) -> str:
    """Without the thoughts of nobody that a template may put first."""
    while tag := next(filter(text.lstrip().startswith, THINK_TAGS), ""):
        text = text.lstrip().removeprefix(tag)
    return text


def _without_tag(prompt: str) -> str:
    """Without the white space or the tag of thoughts at its end."""
    if (bare := prompt.rstrip()) != prompt:
        return bare
    return prompt.removesuffix(next(filter(prompt.endswith, THINK_TAGS), ""))


def _before(text: str, end: str) -> str:
    """Without what ends a turn."""
    bare = text.rstrip()
    return bare.removesuffix(end.strip()) if end.strip() and bare.endswith(end.strip()) else text.removesuffix(end)
