"""Frames survive any chunking; torn ones never come out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixmill.core.messages import Cancel, Control, Deltas, End, SeqStart, Submit, TokenDelta, TokenLogprob, Usage
from radixmill.core.request import GenerateRequest, SamplingParams
from radixmill.link.codec import MAX_FRAME, Frames, Garbage, decode_from_engine, decode_to_engine, frame


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(
    st.lists(st.integers(0, 1 << 62), max_size=20), st.lists(st.integers(0, 10_000), max_size=12), st.integers(0, 30)
)
def test_any_chunking_gives_the_same_messages(seqs: list[int], cuts: list[int], lost: int) -> None:
    data = b"".join(frame(Cancel(seq)) for seq in seqs)
    frames = Frames()
    got = [decode_to_engine(body) for part in chunks(data, cuts) for body in frames.push(part)]
    assert got == [Cancel(seq) for seq in seqs]
    torn = Frames()
    whole = [decode_to_engine(body) for body in torn.push(data[: max(len(data) - lost, 0)])]
    assert whole == got[: len(whole)]


def test_messages_round_trip() -> None:
    request = GenerateRequest(
        id="r", prompt=(1, 2, 3), sampling=SamplingParams(max_tokens=4, logit_bias=((7, -1.5),), logprobs=2), tenant="a"
    )
    submit = Submit(request, (SeqStart(1, (1 << 64) - 1, (5, 6)), SeqStart(2, 0)))
    assert decode_to_engine(frame(submit)[4:]) == submit
    control = Control(3, "stats", {"deep": [1, {"x": None}]})
    assert decode_to_engine(frame(control)[4:]) == control
    delta = TokenDelta(
        1, 2, (9,), (TokenLogprob(-0.5, ((9, -0.5), (3, -1.0))),), End("stop", Usage(3, 3, 2), token=9), cached=2
    )
    assert decode_from_engine(frame(Deltas((delta,)))[4:]) == Deltas((delta,))


def test_an_absurd_length_is_refused() -> None:
    with pytest.raises(Garbage, match="frame of"):
        list(Frames().push((MAX_FRAME + 1).to_bytes(4, "little")))
