"""The rest of text completions: the prompt echoed with its log-probabilities, and gaps filled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from radixmill.core.errors import BadRequest
from radixmill.core.request import GenerateRequest
from radixmill.front.session import Ask, Sampling, Session, TextPrompt, TokenPrompt, gather
from radixmill.front.session.echo import prompt_text
from radixmill.front.text import Tokenizer
from radixmill.front.text.gguf import gguf_vocabulary
from tests.fakes import BOS, EOS, USER, ByteText, EchoClient, EchoStream
from tests.front.kit import TEXT, answer, chunks, error, install, make_app, make_front, post, says
from tests.front.text_kit import byte_level, sentencepiece


def test_the_prompt_in_front_with_its_log_probabilities() -> None:
    client = EchoClient(says("yo"))
    (choice,) = answer(make_app(client), TEXT, {"prompt": "abc", "echo": True, "logprobs": 1})["choices"]
    assert choice["text"] == "abcyo"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["a", "b", "c", "y", "o", "<|eos|>"]
    assert logprobs["text_offset"] == [0, 1, 2, 3, 4, 5]
    assert logprobs["token_logprobs"] == [None, *(-0.5 - t / 512 for t in [*b"bcyo", EOS])]
    assert logprobs["top_logprobs"][:2] == [None, {"b": -0.25}]
    assert client.requests[0].sampling.prompt_logprobs == 1


def test_an_echo_without_log_probabilities_asks_for_none() -> None:
    client = EchoClient(says("yo"))
    (choice,) = answer(make_app(client), TEXT, {"prompt": "abc", "echo": True})["choices"]
    assert choice["text"] == "abcyo" and choice["logprobs"] is None
    assert client.requests[0].sampling.prompt_logprobs is None


@pytest.mark.parametrize("logprobs", [None, 0])
def test_only_the_prompt(logprobs: int | None) -> None:
    body = {"prompt": ["ab", "c"], "n": 2, "echo": True, "max_tokens": 0, "logprobs": logprobs}
    app = make_app(client := EchoClient())
    response = answer(app, TEXT, body)
    assert [(c["index"], c["text"], c["finish_reason"]) for c in response["choices"]] == [
        (i, text, "length") for i, text in enumerate(["ab", "ab", "c", "c"])
    ]
    assert response["usage"]["completion_tokens"] == 0 and response["usage"]["prompt_tokens"] == 3
    if logprobs is None:
        assert not client.requests, "there is nothing to compute"
    else:
        assert [c["logprobs"]["token_logprobs"][0] for c in response["choices"]] == [None] * 4
        assert response["choices"][1]["logprobs"]["token_logprobs"][1] == -0.5 - ord("b") / 512
    parts = chunks(app, TEXT, body)
    said = [(p["choices"][0]["index"], p["choices"][0]["text"]) for p in parts]
    assert sorted(said, key=lambda one: one[0]) == [
        (i, t) for i, text in enumerate(["ab", "ab", "c", "c"]) for t in (text, "")
    ]


def test_a_stream_begins_with_the_prompt_of_each_choice() -> None:
    parts = chunks(make_app(EchoClient(says("x"))), TEXT, {"prompt": ["ab", "c"], "n": 2, "echo": True, "logprobs": 0})
    first: dict[int, Any] = {}
    for part in parts:
        (choice,) = part["choices"]
        first.setdefault(choice["index"], choice)
    assert [first[i]["text"] for i in range(4)] == ["ab", "ab", "c", "c"]
    assert [first[i]["logprobs"]["tokens"] for i in range(4)] == [["a", "b"], ["a", "b"], ["c"], ["c"]]
    assert all(first[i]["finish_reason"] is None for i in range(4))


def test_best_of_echoes_its_winners() -> None:
    client = EchoClient(lambda request, choice: [b"zebra", b"a", b"mm"][choice])
    body = {"prompt": "x", "n": 2, "best_of": 3, "echo": True, "logprobs": 0}
    assert [c["text"] for c in answer(make_app(client), TEXT, body)["choices"]] == ["xa", "xzebra"]


def test_token_ids_are_echoed_as_their_text() -> None:
    app = make_app(EchoClient(says("!")))
    for skip, shown in ((True, "hé"), (False, "<|bos|>hé")):
        body = {"prompt": [BOS, *"hé".encode()], "echo": True, "logprobs": 0, "skip_special_tokens": skip}
        (choice,) = answer(app, TEXT, {**body, "return_token_ids": True})["choices"]
        assert choice["text"] == shown + "!"
        base = len(shown) - 2
        assert choice["logprobs"]["text_offset"][:5] == [0, base, base + 1, base + 1, base + 2]
        assert choice["prompt_token_ids"] == body["prompt"] and choice["token_ids"] == [ord("!"), EOS]


def test_what_a_tokenizer_puts_in_front_is_not_shown() -> None:
    tokenizer = Tokenizer(gguf_vocabulary(sentencepiece(bos_token_id=263, add_bos_token=True)))
    text: Any = tokenizer
    ids = tokenizer.encode("he h")
    assert ids[0] == 263 or tokenizer.before
    shown = prompt_text(text, TextPrompt("he h"), ids, skip_special=True)
    assert shown.text == "he h" and shown.offsets[-1] < 4 and list(shown.offsets) == sorted(shown.offsets)
    assert shown.offsets[:2] == (0, 0)
    assert prompt_text(text, TokenPrompt(tuple(ids)), ids, skip_special=True) == shown


class Backwards(EchoClient):
    """Its streams let the last choice speak first."""

    def submit(self, request: GenerateRequest, seeds: Sequence[int]) -> EchoStream:
        stream = super().submit(request, seeds)
        stream._turns.reverse()
        return stream


@pytest.mark.parametrize("prompts", [1, 2])
def test_no_choice_speaks_before_its_prompts_scores_are_there(prompts: int) -> None:
    async def go() -> None:
        client = Backwards(lambda request, choice: [65 + choice] * 5)
        session = Session(ByteText(), client, ("echo",))
        asked = tuple(TextPrompt("abc"[: 2 + p]) for p in range(prompts))
        ask = Ask(id="x", model="echo", prompts=asked, n=3, width=3, max_tokens=4, sampling=Sampling(prompt_logprobs=0))
        generation = await session.start(ask)
        said = ["" for _ in range(3 * prompts)]
        async for events in generation:
            for event in events:
                scores = generation.scores[event.choice // 3]
                assert scores is not None and len(scores) == 1 + event.choice // 3
                said[event.choice] += getattr(event, "text", "")
        assert said == ["AAAA", "BBBB", "CCCC"] * prompts
        generation.close()

    asyncio.run(go())


def test_stopped_before_the_scores_are_there() -> None:
    """An abort ends every choice; the echo shows what is known."""

    async def go() -> None:
        client = EchoClient()
        session = Session(ByteText(), client, ("echo",))
        ask = Ask(
            id="x", model="echo", prompts=(TextPrompt("abc"),), n=2, width=2, sampling=Sampling(prompt_logprobs=0)
        )
        generation = await session.start(ask)
        generation.abort()
        assert [whole.end.reason for whole in await gather(generation)] == ["abort", "abort"]
        assert generation.scores == {0: None}
        generation.close()

    asyncio.run(go())


# --- gaps


def test_a_suffix_needs_a_model_that_fills_gaps() -> None:
    app = make_app()
    assert error(post(app, TEXT, {"prompt": "a", "suffix": "b"}), 400)["param"] == "suffix"
    assert answer(app, TEXT, {"prompt": "a", "suffix": ""})["choices"][0]["text"] == "Hello"


def test_a_gap_is_filled() -> None:
    class Filling(ByteText):
        fill_ends = (BOS,)

    app, front = make_front()
    client = EchoClient(lambda request, choice: [*b"gap", BOS])
    install(front, client)
    front.session = Session(Filling(), client, ("echo",))
    response = answer(app, TEXT, {"prompt": ["a", "b"], "suffix": "z"})
    assert [(c["text"], c["finish_reason"]) for c in response["choices"]] == [("gap", "stop")] * 2
    assert [r.prompt for r in client.requests] == [(USER, ord(c), 259, ord("z"), BOS) for c in "ab"]
    assert BOS in client.requests[0].sampling.stop_token_ids
    answer(app, TEXT, {"prompt": "a", "suffix": "z", "ignore_eos": True})
    assert not client.requests[-1].sampling.stop_token_ids
    for body in ({"prompt": [1, 2]}, {"prompt": "a", "echo": True}):
        assert error(post(app, TEXT, {**body, "suffix": "z"}), 400)["param"] == "suffix"


def vocabulary(marks: Sequence[str], kind: Any = byte_level, **more: Any) -> Tokenizer:
    """A small one with these tokens besides."""
    metadata = kind(**more)
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    metadata |= {"tokenizer.ggml.tokens": [*tokens, *marks], "tokenizer.ggml.token_type": [*types, *[3] * len(marks)]}
    if "tokenizer.ggml.scores" in metadata:
        metadata["tokenizer.ggml.scores"] += [0.0] * len(marks)
    return Tokenizer(gguf_vocabulary(metadata))


@pytest.mark.parametrize(
    "marks",
    [
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>"),
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"),
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜end▁of▁sentence｜>"),
    ],
)
def test_marks_are_known_by_their_names(marks: Sequence[str]) -> None:
    tokenizer = vocabulary(marks)
    assert tokenizer.fill
    first = tokenizer.vocab_size - 4
    assert (tokenizer.fill.before, tokenizer.fill.after, tokenizer.fill.middle) == (first, first + 1, first + 2)
    assert tokenizer.fill.ends == (first + 3,)
    shown = tokenizer.decode(tokenizer.encode_fill("hello ", " he"), skip_special=False)
    assert shown == f"{marks[0]}hello {marks[1]} he{marks[2]}"


def test_marks_are_known_by_a_files_own_word() -> None:
    tokenizer = vocabulary(("<A>", "<B>", "<C>"), fim_pre_token_id=264, fim_suf_token_id=265, fim_mid_token_id=266)
    assert tokenizer.fill and tokenizer.fill.ends == ()
    assert tokenizer.encode_fill("he", "ll")[0] == 264
    assert vocabulary(("<A>", "<B>")).fill is None


def test_text_behind_a_gap_gets_no_space() -> None:
    tokenizer = vocabulary(("▁<PRE>", "▁<SUF>", "▁<MID>"), sentencepiece)
    assert tokenizer.fill
    pieces = [tokenizer.token_bytes(i).decode() for i in tokenizer.encode_fill("he", "he")]
    assert "".join(pieces[1:-1]).count(" he") == 1 and pieces[-2:-1] == ["he"]


def test_both_at_once_are_refused_before_the_engine_is_asked() -> None:
    with pytest.raises(BadRequest):
        asyncio.run(Session(ByteText(), EchoClient(), ("echo",)).start(
            Ask(id="x", model="echo", prompts=(TextPrompt("a", suffix="b"),))
        ))  # fmt: skip
