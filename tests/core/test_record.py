"""Records as files: the canonical form, the hashes, and what becomes of files that are not what they should be."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core import record as records
from radixmill.core.messages import TokenLogprob
from radixmill.core.record import (
    BadRecord,
    Record,
    RequestRecord,
    SequenceRecord,
    Settings,
    canonical,
    finite,
    ids_hash,
    load_json,
    to_record,
)
from radixmill.core.request import Constraint, GenerateRequest, SamplingParams, ThinkingBudget

# Appendix B of RFC 8785: the bits of a double, and how it is written.
NUMBERS = """
0000000000000000 0
8000000000000000 0
0000000000000001 5e-324
8000000000000001 -5e-324
7fefffffffffffff 1.7976931348623157e+308
ffefffffffffffff -1.7976931348623157e+308
4340000000000000 9007199254740992
c340000000000000 -9007199254740992
4430000000000000 295147905179352830000
44b52d02c7e14af5 9.999999999999997e+22
44b52d02c7e14af6 1e+23
44b52d02c7e14af7 1.0000000000000001e+23
444b1ae4d6e2ef4e 999999999999999700000
444b1ae4d6e2ef4f 999999999999999900000
444b1ae4d6e2ef50 1e+21
3eb0c6f7a0b5ed8c 9.999999999999997e-7
3eb0c6f7a0b5ed8d 0.000001
41b3de4355555553 333333333.3333332
41b3de4355555554 333333333.33333325
41b3de4355555555 333333333.3333333
41b3de4355555556 333333333.3333334
41b3de4355555557 333333333.33333343
becbf647612f3696 -0.0000033333333333333333
43143ff3c1cb0959 1424953923781206.2
"""


@pytest.mark.parametrize("line", NUMBERS.split("\n")[1:-1])
def test_numbers_are_written_as_the_standard_has_them(line: str) -> None:
    bits, written = line.split()
    value = memoryview(bytes.fromhex(bits)[::-1]).cast("d")[0]
    assert canonical([value]) == f"[{written}]".encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_read_back_is_the_same(value: float) -> None:
    written = canonical(value)
    assert float(written) == value and canonical(json.loads(written)) == written


def test_the_standards_own_example() -> None:
    """Section 3.2.2 to 3.2.4 of RFC 8785."""
    value = json.loads(
        r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
             "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    )
    wanted = (
        r'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r'"string":"€$\u000f\nA' + r"'B\"\\\\\"/" + '"}'
    )
    assert canonical(value) == wanted.encode()
    names = {"€": 0, "\r": 1, "\ufb33": 2, "1": 3, "😀": 4, "\x80": 5, "ö": 6}
    assert list(json.loads(canonical(names)).values()) == [1, 3, 5, 6, 0, 4, 2]


def test_ids_are_hashed_as_little_endian_words() -> None:
    assert ids_hash(()) == hashlib.sha256(b"").hexdigest()
    assert ids_hash((1, 258)) == hashlib.sha256(bytes([1, *[0] * 7, 2, 1, *[0] * 6])).hexdigest()


def test_logprobs_that_json_has_no_number_for() -> None:
    odd = finite(TokenLogprob(-math.inf, ((1, -0.0), (2, -math.inf)), ((3, -math.inf),)))
    assert odd == TokenLogprob(-9999.0, ((1, 0.0), (2, -9999.0)), ((3, -9999.0),))
    assert math.copysign(1, odd.top[0][1]) == 1


SETTINGS = Settings(
    model="m", context_length=64, compute="fast", backend="cpu", isa="avx2", page_size=64, kv_cache_dtype="f16"
)
RECORD = Record(
    format="radixmill.record.1",
    version="1",
    created=7,
    numerics="n",
    settings=SETTINGS,
    tokenizer="t",
    template="u",
    requests=(
        RequestRecord(
            request=GenerateRequest(
                id="r",
                prompt=(1, 2, 3),
                sampling=SamplingParams(max_tokens=5, temperature=0.7, logprobs=1, logit_bias=((4, 1.0),)),
                constraint=Constraint(kind="regex", text="é+"),
                thinking=ThinkingBudget(tokens=3, close=(9,)),
            ),
            sequences=(
                SequenceRecord(
                    seed="18446744073709551615",
                    output=(4, 5),
                    reason="stop",
                    token=5,
                    logprobs=(TokenLogprob(-0.5, ((4, -0.5),)), TokenLogprob(-1.0, ((6, -1e-7),))),
                ),
            ),
        ),
    ),
)
VALUE: dict[str, Any] = json.loads(msgspec.json.encode(RECORD))


def test_a_record_comes_back() -> None:
    assert to_record(load_json(msgspec.json.encode(RECORD), "it")) == RECORD
    assert to_record(json.loads(canonical(RECORD))) == RECORD, "whole numbers without a point are the same"
    assert canonical(VALUE) == canonical(RECORD)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all that stands in a value of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with something else at a place; `...`: nothing."""
    if not path:
        return new
    whole = copy.deepcopy(value)
    place = whole
    for key in path[:-1]:
        place = place[key]
    if new is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return whole


ODD = [
    ...,
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**64,
    0.5,
    1e300,
    "",
    "x",
    "1" * 30,
    [],
    {},
    [[]],
    [None],
    {"x": 1},
    "é",
]


@settings(max_examples=1000)
@given(st.sampled_from(places(VALUE)[1:]), st.sampled_from(ODD))
def test_whatever_stands_in_a_file_it_is_a_record_or_refused(path: tuple[Any, ...], new: Any) -> None:
    try:
        found = to_record(changed(VALUE, path, new))
    except BadRecord as error:
        assert len(str(error)) < 400 and "\n" not in str(error)
    else:
        assert isinstance(found, Record)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "not JSON"),
        (b'{"a": NaN}', "no number"),
        (b'{"a": 1, "a": 2}', "name twice"),
        (b"9" * 10_000, "not JSON"),
        (b"[]", "cannot be read"),
        (b"{}", "not of the format"),
        (b'{"format": "radixmill.record.2"}', "not of the format"),
    ],
)
def test_files_that_are_no_records(raw: bytes, says: str) -> None:
    with pytest.raises(BadRecord, match=says):
        to_record(load_json(raw, "the file"))


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_BYTES", 10)
    with pytest.raises(BadRecord, match="larger"):
        load_json(b" " * 11, "it")


@pytest.mark.parametrize(
    ("path", "new", "says"),
    [
        (("requests",), [], "1 to 2048 sequences"),
        (("requests", 0, "sequences"), VALUE["requests"][0]["sequences"] * 2049, "1 to 2048 sequences"),
        (("requests", 0, "request", "prompt"), [], "prompt is empty"),
        (("requests", 0, "sequences", 0, "seed"), str(2**64), "64 bits"),
        (("requests", 0, "sequences", 0, "output"), [1] * 6, "max_tokens"),
        (("requests", 0, "sequences", 0, "output"), [1], "as many"),
        (("requests", 0, "request", "surprise"), 1, "surprise"),
        (("requests", 0, "request", "sampling", "surprise"), 1, "surprise"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[Any, ...], new: Any, says: str) -> None:
    with pytest.raises(BadRecord, match=says):
        to_record(changed(VALUE, path, new))
