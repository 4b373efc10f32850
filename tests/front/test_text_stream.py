"""Decoder and stop scanner: any chunking gives the same answer, and it is the plain one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.front.text import StopScanner, TextDecoder
from tests.fakes_text import ByteTokenizer

BYTES = ByteTokenizer()
# Beginnings and middles of characters, whole ones, bytes that are never UTF-8, special tokens, ids without a token.
IDS = st.lists(
    st.sampled_from(
        [0x41, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xED, 0xA0, 0xFF, 0xC0, 256, 257, 999]
    ),
    max_size=40,
)


def chunks(items: Sequence, cuts: list[int]) -> list:
    ends = sorted({c % (len(items) + 1) for c in cuts} | {len(items)})
    return [items[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@settings(deadline=None)
@given(IDS, st.lists(st.integers(0, 50)), st.booleans())
def test_decoder_total_is_decode_of_the_whole(ids: list[int], cuts: list[int], skip: bool) -> None:
    decoder = TextDecoder(BYTES, skip_special=skip)
    text = "".join(decoder.push(part) for part in chunks(ids, cuts)) + decoder.finish()
    assert text == BYTES.decode(ids, skip_special=skip, continues=True)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_decoder_never_shows_half_a_character(text: str) -> None:
    decoder = TextDecoder(BYTES)
    shown = ""
    for byte in text.encode():
        shown += decoder.push([byte])
        assert text.startswith(shown)
    assert shown == text and decoder.finish() == ""


def test_decoder_finishes_an_unfinished_character() -> None:
    decoder = TextDecoder(BYTES)
    assert decoder.push(b"a\xf0\x9f\x98") == "a"
    assert decoder.finish() == "\ufffd"


def first_stop(text: str, stops: tuple[str, ...], keep: bool) -> tuple[str, str | None]:
    """The definition: complete first, then begun first."""
    found = [(at + len(stop), at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        return text, None
    end, at, stop = min(found)
    return text[: end if keep else at], stop


AB = st.text(alphabet="ab", max_size=40)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), min_size=1, max_size=5).map(tuple)


@settings(deadline=None)
@given(AB, STOPS, st.lists(st.integers(0, 50)), st.booleans())
def test_stops_in_any_chunking(text: str, stops: tuple[str, ...], cuts: list[int], keep: bool) -> None:
    scanner, shown, hit = StopScanner(stops, keep=keep), "", None
    for part in chunks(text, cuts):
        more, hit = scanner.push(part)
        shown += more
    assert (shown + scanner.finish(), hit) == first_stop(text, stops, keep)


@settings(deadline=None)
@given(AB, STOPS)
def test_stops_hold_back_only_what_may_be_one(text: str, stops: tuple[str, ...]) -> None:
    scanner, shown = StopScanner(stops), ""
    for end in range(1, len(text) + 1):
        more, hit = scanner.push(text[end - 1])
        shown += more
        if hit is not None:
            return
        beginnings = [text[i:end] for i in range(end) if any(stop.startswith(text[i:end]) for stop in stops)]
        assert text[len(shown) : end] == max(beginnings, key=len, default="")


def test_text_after_a_stop_is_dropped() -> None:
    scanner = StopScanner(("END",))
    assert scanner.push("one EN") == ("one ", None)
    assert scanner.push("D two END") == ("", "END")
    assert scanner.push("three") == ("", "END")
    assert scanner.finish() == ""


def test_no_stops_hold_nothing_back() -> None:
    scanner = StopScanner(())
    assert scanner.push("text") == ("text", None) and scanner.finish() == ""


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopScanner(("a", ""))


def test_hostile_stops_cost_linear_time() -> None:
    stops = tuple("a" * 2000 + "b" * n for n in range(1, 33))
    scanner = StopScanner(stops)
    begun = time.process_time()
    for _ in range(500):
        scanner.push("a" * 100)
    assert time.process_time() - begun < 2.0  # 50,000 characters; a rescan of the tail would take minutes
    assert scanner.push("b")[1] == stops[0]
