"""One sequence's tokens → text: every cut of the deltas gives the same text, tokens, offsets, usage and end."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from radixmill.core.messages import End as EngineEnd
from radixmill.core.messages import TokenDelta, TokenLogprob, Usage
from radixmill.front.session import Content, End, Token
from radixmill.front.session.choice import Choice, Shown
from radixmill.front.text import StopScanner, TextDecoder
from tests.fakes import EOS, ByteText

PIECES = st.lists(st.sampled_from(["a", "b", "ab", "é", "😀", "\n", "aab"]), max_size=12).map("".join)
STOPS = st.lists(st.sampled_from(["ab", "b\n", "aab", "😀a", "é"]), max_size=3, unique=True)


def run(
    tokens: list[int], cuts: list[int], stops: list[str], *, eos: bool = True, keep_stop: bool = False, **rules
) -> tuple[str, list[Token], End, Choice]:
    """Feed a sequence in deltas cut at `cuts`; the text, tokens and end of all events, and the choice."""
    text = ByteText()
    choice = Choice(
        0,
        TextDecoder(text),
        StopScanner(tuple(stops), keep=keep_stop) if stops else None,
        shown=Shown(keep_tokens=True, keep_stop=keep_stop, **rules),
    )
    whole = [*tokens, EOS] if eos else tokens
    end = EngineEnd("stop" if eos else "length", Usage(3, len(whole), 1), EOS if eos else None)
    marks = sorted({0, *(cut % (len(whole) + 1) for cut in cuts), len(whole)})
    said, kept, last = "", [], None
    for start, stop in pairwise(marks) if len(marks) > 1 else [(0, 0)]:
        part = tuple(whole[start:stop])
        delta = TokenDelta(
            0, start, part, tuple(TokenLogprob(-t / 512.0) for t in part), end if stop == len(whole) else None
        )
        for event in choice.push(delta):
            assert last is None, "nothing comes after the end"
            match event:
                case Content(0, new, tokens_of):
                    assert new or tokens_of
                    said, kept = said + new, kept + list(tokens_of)
                case End():
                    last = event
        if choice.ended:
            break
    assert last is not None and choice.ended
    return said, kept, last, choice


@given(PIECES, st.lists(st.integers(0, 40)), STOPS, st.booleans(), st.booleans(), st.integers(0, 6))
def test_any_cut_is_the_same_fold(text, cuts, stops, eos, keep_stop, scan_after):
    rules = {"keep_stop": keep_stop, "scan_after": scan_after}
    tokens = list(text.encode())
    said, kept, end, choice = run(tokens, cuts, stops, eos=eos, **rules)
    said1, kept1, end1, choice1 = run(tokens, list(range(60)), stops, eos=eos, **rules)
    assert (said, kept, end, choice.counted, choice.logprob_sum) == (
        said1,
        kept1,
        end1,
        choice1.counted,
        choice1.logprob_sum,
    )


@given(PIECES, STOPS, st.booleans())
def test_the_text_ends_at_the_first_completed_stop_string(text, stops, keep_stop):
    said, kept, end, choice = run(list(text.encode()), [], stops, keep_stop=keep_stop)
    hits = [(text.index(s) + len(s), text.index(s), s) for s in stops if s in text]
    if not hits:
        assert (said, end) == (text, End(0, "stop", EOS))
        assert choice.counted == len(text.encode()) + 1
        return
    stop_at, start_at, stop = min(hits)
    assert (said, end) == (text[: stop_at if keep_stop else start_at], End(0, "stop", stop))
    assert choice.counted == len(text[:stop_at].encode()), "usage counts up to the token that completed the match"
    assert len(kept) == choice.counted, "one entry per counted token"


@given(PIECES, STOPS)
def test_offsets_are_true(text, stops):
    said, kept, _, _ = run(list(text.encode()), [], stops)
    offsets = [token.offset for token in kept]
    assert offsets == sorted(offsets) and all(0 <= offset <= len(said) for offset in offsets)
    for token in kept:
        if token.id < 0x80 and token.offset < len(said):
            assert said[token.offset] == chr(token.id)
    begun = {offset for offset in offsets if offset < len(said)}
    assert begun == set(range(len(said))), "every character was begun by some token"


def test_stop_strings_wait_for_min_tokens():
    said, _, end, choice = run(list(b"stop stop go"), [], ["stop"], scan_after=5)
    assert (said, end.matched, choice.counted) == ("stop ", "stop", 9)


def test_bytes_that_never_become_a_character():
    said, kept, _, _ = run([0xF0, 0x9F, *b"x", 0xF0, 0x9F], [], [], eos=False)
    assert said.startswith("\ufffd") and said.endswith("\ufffd") and "x" in said
    assert len(kept) == 5


def test_a_stop_string_completed_by_the_last_flush():
    said, _, end, _ = run([*b"ok", 0xC3], [], ["\ufffd"], eos=False)
    assert (said, end.reason, end.matched) == ("ok", "stop", "\ufffd")


def test_the_engine_may_keep_the_end_token_to_itself():
    text = ByteText()
    choice = Choice(0, TextDecoder(text), None)
    choice.push(TokenDelta(0, 0, (65,), cached=2))
    events = choice.push(TokenDelta(0, 1, (), None, EngineEnd("stop", Usage(3, 2, 2), EOS)))
    assert events == (End(0, "stop", EOS),) and (choice.counted, choice.cached) == (2, 2)


def test_keep_stop_shows_an_ordinary_stop_token():
    text = ByteText()
    for keep, shown in ((False, "a"), (True, "a.")):
        choice = Choice(0, TextDecoder(text), None, shown=Shown(keep_stop=keep))
        events = choice.push(TokenDelta(0, 0, tuple(b"a."), None, EngineEnd("stop", Usage(1, 2, 0), ord("."))))
        assert events == (Content(0, shown), End(0, "stop", ord(".")))
