"""The offline answer is a fold of the same events as the server's."""

from __future__ import annotations

import asyncio

from radixmill.front.dialects import THINKING
from radixmill.front.session import Ask, ChatPrompt, Session
from radixmill.llm import Answer, Params, _fold
from tests.fakes import EOS, ByteText, EchoClient

SAID = b"<think>why</think>so"


async def answered() -> Answer:
    session = Session(ByteText(THINKING), EchoClient(lambda request, choice: [*SAID, EOS], cuts=(3, 1)), ("echo",))
    chat = ChatPrompt(messages=({"role": "user", "content": "hi"},))
    return await _fold(await session.start(Ask(id="q", model="echo", prompts=(chat,), keep_tokens=True)), Params())


def test_thoughts_are_told_apart_and_their_tokens_are_kept():
    [choice] = asyncio.run(answered()).choices
    assert (choice.reasoning, choice.text, choice.finish_reason) == ("why", "so", "stop")
    assert bytes(choice.token_ids[: len(SAID)]) == SAID
