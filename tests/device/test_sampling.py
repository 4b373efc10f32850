"""What a sampler promises: the right distribution, and a token that depends on its own row and record alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from radixmill.core.plan import Admit, Masks
from radixmill.core.request import SamplingParams, choice_seed
from radixmill.device.sampling import Sampler
from tests.device.sampling_oracle import distribution, shape

VOCAB = 60
ROW = (np.random.default_rng(1).standard_normal(VOCAB) * 2).astype(np.float32)
PROMPT, OUTPUT = (3, 4, 4, 5), (7, 7, 8, 3)


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(max_tokens=1000, **fields)


def admit(
    slot: int = 0,
    seed: int = 1,
    prompt: tuple[int, ...] = (1,),
    output: tuple[int, ...] = (),
    stop: frozenset[int] = frozenset(),
    **fields: Any,
) -> Admit:
    return Admit(slot, params(**fields), seed, prompt, output, stop)


def ready(*admits: Admit, vocab: int = VOCAB) -> Sampler:
    sampler = Sampler(vocab, 1 + max(a.slot for a in admits))
    for a in admits:
        sampler.admit(a)
    return sampler


def one(a: Admit, row: NDArray[np.float32], position: int | None = None, bits: NDArray[np.uint32] | None = None) -> int:
    """The token a fresh sampler draws for this record."""
    at = len(a.prompt) + len(a.output) if position is None else position
    masks = None if bits is None else Masks({0: bits})
    tokens, _ = ready(a, vocab=len(row)).sample(row[None], np.array([a.slot], np.int32), np.array([at]), masks)
    return int(tokens[0])


def bits_of(allowed: set[int], size: int = VOCAB) -> NDArray[np.uint32]:
    flat = np.zeros(-(-size // 32) * 32, np.uint8)
    flat[list(allowed)] = 1
    return np.packbits(flat, bitorder="little").view("<u4").astype(np.uint32)


# --- the distribution


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 7},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"logit_bias": ((2, 3.0), (9, -100.0))},
        {"repetition_penalty": 0.8, "frequency_penalty": -0.3, "logit_bias": ((0, 2.0),), "top_p": 0.95},
    ],
    ids=lambda fields: "+".join(fields) or "plain",
)
def test_frequencies_match_exact_probabilities(fields: dict[str, Any]) -> None:
    draws = 2500
    a = admit(prompt=PROMPT, output=OUTPUT, **fields)
    expected = distribution(shape(ROW.tolist(), a), a.sampling).probabilities
    sampler = ready(*(admit(slot=i, seed=i, prompt=PROMPT, output=OUTPUT, **fields) for i in range(draws)))
    rows = np.broadcast_to(ROW, (draws, VOCAB))
    tokens = sampler.sample(rows, np.arange(draws, dtype=np.int32), np.full(draws, 8), None)[0].tolist()
    assert set(tokens) <= set(expected)
    assert chi_square(tokens, expected) > 1e-4


def chi_square(tokens: list[int], expected: dict[int, float]) -> float:
    """The p-value; tokens expected fewer than five times are counted together."""
    n = len(tokens)
    common = [id for id, p in expected.items() if p * n >= 5]
    seen = [tokens.count(id) for id in common]
    wanted = [expected[id] * n for id in common]
    if (rest := n - sum(wanted)) > 1e-6 * n:
        seen.append(n - sum(seen))
        wanted.append(rest)
    return float(stats.chisquare(seen, wanted).pvalue) if len(seen) > 1 else 1.0


def test_the_whole_vocabulary_of_a_flat_row_is_reached() -> None:
    row = np.zeros(8, np.float32)
    assert {one(admit(seed=s), row) for s in range(200)} == set(range(8))


# --- independence


def test_positions_and_seeds_are_uncorrelated() -> None:
    size = 1000
    row = np.zeros(size, np.float32)
    sampler = ready(admit(seed=11), admit(slot=1, seed=choice_seed(11, 1)), vocab=size)
    pair = np.stack((row, row))
    series = np.array([sampler.sample(pair, np.array([0, 1], np.int32), np.array([t, t]))[0] for t in range(2000)])
    for x, y in ((series[:-1, 0], series[1:, 0]), (series[:, 0], series[:, 1]), (series[:-1, 0], series[1:, 1])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.09  # four standard errors


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 8))
def test_a_token_does_not_depend_on_its_batch(random: Any, rows: int) -> None:
    rng = np.random.default_rng(random.randrange(2**32))
    logits = rng.standard_normal((rows, VOCAB)).astype(np.float32) * 3
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {},
        {"top_p": 0.9, "logprobs": 3},
        {"top_k": 5, "frequency_penalty": 1.0},
    ]
    alone, together = [], Sampler(VOCAB, rows)
    positions = rng.integers(1, 2**40, rows)
    for slot in range(rows):
        a = admit(slot=slot, seed=slot * 77, prompt=(1, 2, 3), output=(4,), **random.choice(kinds))
        together.admit(a)
        tokens, logprobs = ready(a).sample(
            logits[slot : slot + 1], np.array([slot], np.int32), positions[slot : slot + 1]
        )
        alone.append((tokens[0], logprobs[0] if logprobs else None))
    order = rng.permutation(rows)
    tokens, logprobs = together.sample(logits[order], order.astype(np.int32), positions[order])
    assert [(t, (logprobs or (None,) * rows)[i]) for i, t in enumerate(tokens)] == [alone[slot] for slot in order]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 12),
    st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.0, 0.9]),
            "frequency_penalty": st.sampled_from([0.0, 1.0]),
            "presence_penalty": st.sampled_from([0.0, 0.7]),
            "repetition_penalty": st.sampled_from([1.0, 1.3]),
            "min_tokens": st.sampled_from([0, 6]),
        }
    ),
)
def test_resuming_from_the_record_continues_the_same(seed: int, cut: int, fields: dict[str, Any]) -> None:
    length = 12
    rows = np.random.default_rng(seed % 1000).standard_normal((length, 1, VOCAB)).astype(np.float32)
    slots, prompt, stop = np.array([0], np.int32), (1, 2, 2), frozenset({5, 6})

    def run(sampler: Sampler, start: int) -> list[int]:
        return [int(sampler.sample(rows[i], slots, np.array([len(prompt) + i]))[0][0]) for i in range(start, length)]

    whole = run(ready(admit(seed=seed, prompt=prompt, stop=stop, **fields)), 0)
    resumed = ready(admit(seed=seed, prompt=prompt, output=tuple(whole[:cut]), stop=stop, **fields))
    assert run(resumed, cut) == whole[cut:]


def test_prompt_plus_partial_output_as_a_new_prompt_continues_the_same() -> None:
    """Without penalties over the output alone, the split between prompt and output does not matter."""
    a, b = (
        admit(seed=9, prompt=(1, 2), output=(3, 4), repetition_penalty=1.2),
        admit(seed=9, prompt=(1, 2, 3, 4), repetition_penalty=1.2),
    )
    assert one(a, ROW) == one(b, ROW)


def test_a_slot_forgets_its_former_sequence() -> None:
    sampler = ready(admit(frequency_penalty=2.0, output=(1,) * 50, temperature=0.0))
    sampler.admit(admit(temperature=0.0))
    best = int(ROW.argmax())
    assert sampler.sample(ROW[None], np.array([0], np.int32), np.array([1]))[0][0] == best
    assert sampler.last[0] == best


def test_last_is_known_from_admission_on() -> None:
    sampler = ready(admit(prompt=(4, 5)), admit(slot=1, prompt=(4, 5), output=(6,)))
    assert sampler.last.tolist() == [5, 6]


def test_logits_are_left_as_they_are() -> None:
    rows = ROW[None].copy()
    rows.flags.writeable = False
    sampler = ready(admit(frequency_penalty=1.0, output=(3,), logit_bias=((1, 5.0),), top_k=3, top_p=0.5, min_p=0.1))
    sampler.sample(rows, np.array([0], np.int32), np.array([2]), Masks({0: bits_of({1, 2, 3})}))
    assert np.array_equal(rows[0], ROW)


# --- edges


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0.0}, {"top_p": 0.0}, {"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}, {"min_p": 1.0}],
)
def test_greedy_and_nearly_greedy_take_the_most_likely(fields: dict[str, Any]) -> None:
    assert {one(admit(seed=s, **fields), ROW) for s in range(20)} == {int(ROW.argmax())}


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_k": 1}, {"top_p": 1e-9}])
def test_of_equals_the_lower_id_wins(fields: dict[str, Any]) -> None:
    row = np.zeros(VOCAB, np.float32)
    row[[17, 23, 40]] = 4.0
    assert {one(admit(seed=s, **fields), row) for s in range(20)} == {17}


def test_ties_at_the_edge_of_top_k_go_to_lower_ids() -> None:
    row = np.zeros(VOCAB, np.float32)
    row[50] = 1.0
    assert {one(admit(seed=s, top_k=3), row) for s in range(200)} == {0, 1, 50}


def test_min_p_is_relative_to_the_most_likely_of_the_rest() -> None:
    row = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    assert {one(admit(seed=s, min_p=0.4), row) for s in range(200)} == {0, 1}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_of_one_token_leaves_that_token(temperature: float) -> None:
    assert {one(admit(seed=s, temperature=temperature, top_k=5), ROW, bits=bits_of({37})) for s in range(5)} == {37}


def test_bits_beyond_the_vocabulary_are_ignored() -> None:
    row = np.zeros(33, np.float32)
    assert one(admit(temperature=0.0), row, bits=np.array([0, 0xFFFFFFFF], np.uint32)) == 32


def test_min_tokens_masks_the_end_tokens_until_enough_are_out() -> None:
    row = np.zeros(VOCAB, np.float32)
    row[5] = 50.0
    fields = {"stop": frozenset({5, VOCAB + 7}), "min_tokens": 2, "temperature": 0.0}
    assert [one(admit(output=(9,) * n, **fields), row) for n in range(4)] == [0, 0, 5, 5]


def test_when_grammar_and_min_tokens_leave_nothing_the_grammar_wins() -> None:
    a = admit(stop=frozenset({5}), min_tokens=2, temperature=1.0)
    assert one(a, ROW, bits=bits_of({5})) == 5
    assert one(a, ROW, bits=bits_of(set())) == 0


def test_a_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    row = np.array([4.0, 3.0, -1.0, -1.5], np.float32)
    assert one(admit(prompt=(0,), repetition_penalty=2.0, temperature=0.0), row) == 1
    masked = bits_of({2, 3}, 4)
    assert one(admit(prompt=(2,), repetition_penalty=2.0, temperature=0.0), row, bits=masked) == 3


def test_presence_and_frequency_count_output_alone() -> None:
    row = np.array([3.0, 2.5, 2.0], np.float32)
    fields = {"presence_penalty": 2.0, "temperature": 0.0}
    assert one(admit(prompt=(0, 0), **fields), row) == 0
    assert one(admit(prompt=(2,), output=(0,), **fields), row) == 1
    assert one(admit(prompt=(2,), output=(0, 1, 1), frequency_penalty=0.4, temperature=0.0), row) == 0


def test_ids_outside_the_vocabulary_do_no_harm() -> None:
    a = admit(prompt=(2**62, 1), output=(2**62,), frequency_penalty=1.0, logit_bias=((10**6, 5.0),), temperature=0.0)
    assert one(a, ROW) == int(ROW.argmax())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_damaged_row_harms_no_other(temperature: float) -> None:
    bad = np.full(VOCAB, np.nan, np.float32)
    partly = ROW.copy()
    partly[[0, 9]] = np.nan, -np.inf
    rows = np.stack((bad, ROW, partly))
    sampler = ready(*(admit(slot=i, seed=3, temperature=temperature, logprobs=2) for i in range(3)))
    tokens, logprobs = sampler.sample(rows, np.arange(3, dtype=np.int32), np.full(3, 5))
    assert tokens[0] == 0
    assert tokens[1] == one(admit(seed=3, temperature=temperature), ROW, 5)
    assert tokens[2] not in (0, 9)
    assert logprobs[0] is not None and logprobs[0].logprob == -math.inf
    assert logprobs[2] is not None and math.isfinite(logprobs[2].logprob)


def test_infinite_logits_share_evenly() -> None:
    row = ROW.copy()
    row[[8, 30]] = np.inf
    assert {
        one(admit(seed=s, frequency_penalty=-2.0, output=(8,), repetition_penalty=0.5), row) for s in range(40)
    } == {8, 30}


def test_no_rows_no_tokens() -> None:
    tokens, logprobs = Sampler(VOCAB, 2).sample(
        np.empty((0, VOCAB), np.float32), np.empty(0, np.int32), np.empty(0, np.int64), None
    )
    assert tokens.shape == (0,) and logprobs == ()


# --- logprobs


def test_logprobs_are_of_the_unmodified_logits() -> None:
    exact = ROW.astype(np.float64) - np.logaddexp.reduce(ROW.astype(np.float64))
    a = admit(logprobs=5, temperature=0.3, top_k=2, logit_bias=((40, 100.0),), frequency_penalty=1.0, output=(3,))
    tokens, logprobs = ready(a).sample(ROW[None], np.array([0], np.int32), np.array([2]), None)
    assert tokens[0] == 40 and logprobs[0] is not None
    assert logprobs[0].logprob == pytest.approx(exact[40], rel=1e-6)
    best = np.argsort(-exact)[:5]
    assert [id for id, _ in logprobs[0].top] == best.tolist()
    assert [lp for _, lp in logprobs[0].top] == pytest.approx(exact[best], rel=1e-6)


@pytest.mark.parametrize("k", [0, 1, 3, 4, 20])
def test_top_logprobs_are_sorted_and_ties_go_by_id(k: int) -> None:
    row = np.array([1.0, 2.0, 2.0, 0.0], np.float32)
    _, logprobs = ready(admit(logprobs=k), vocab=4).sample(row[None], np.array([0], np.int32), np.array([1]), None)
    assert logprobs[0] is not None
    assert [id for id, _ in logprobs[0].top] == [1, 2, 0, 3][:k]


def test_only_rows_that_want_logprobs_get_them() -> None:
    sampler = ready(admit(), admit(slot=1, logprobs=0))
    _, logprobs = sampler.sample(np.stack((ROW, ROW)), np.array([0, 1], np.int32), np.array([1, 1]), None)
    assert logprobs[0] is None and logprobs[1] is not None and logprobs[1].top == ()
    _, none = sampler.sample(ROW[None], np.array([0], np.int32), np.array([2]), None)
    assert none == ()


# --- tokens that nobody drew


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.7},
        {"presence_penalty": 1.5, "frequency_penalty": 1.0},
        {"min_tokens": 4},
        {"temperature": 0.0, "repetition_penalty": 2.0},
    ],
    ids=str,
)
@given(forced=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_noted_token_counts_like_a_drawn_one(fields: dict[str, Any], forced: list[int], seed: int) -> None:
    """After them the slot samples as one that was admitted with them in its output."""
    record = {"seed": seed, "prompt": PROMPT, "stop": frozenset({int(ROW.argmax())}), **fields}
    sampler = ready(admit(output=OUTPUT[:1], **record))
    sampler.note(0, forced)
    assert sampler.last[0] == forced[-1]
    position = len(PROMPT) + 1 + len(forced)
    tokens, _ = sampler.sample(ROW[None], np.array([0], np.int32), np.array([position]))
    assert tokens[0] == one(admit(output=(*OUTPUT[:1], *forced), **record), ROW)


# --- log-probabilities


@given(
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.8]),
    repetition=st.sampled_from([1.0, 1.6]),
    allowed=st.sets(st.integers(0, VOCAB - 1), min_size=1) | st.none(),
)
@settings(max_examples=60, deadline=None)
def test_processed_log_probabilities(temperature: float, repetition: float, allowed: set[int] | None) -> None:
    """Those of the distribution after penalties, bias, mask and temperature, before top-k and the like."""
    bias = ((2, 3.0), (9, -5.0))
    sampler = Sampler(VOCAB, 1, processed=True)
    sampler.admit(
        admit(
            prompt=PROMPT,
            output=OUTPUT,
            temperature=temperature,
            top_k=3,
            repetition_penalty=repetition,
            logit_bias=bias,
            logprobs=VOCAB,
        )
    )
    bits = None if allowed is None else Masks({0: bits_of(allowed)})
    position = np.array([len(PROMPT) + len(OUTPUT)])
    tokens, (told,) = sampler.sample(ROW[None], np.array([0], np.int32), position, bits)
    row = ROW.astype(np.float64)
    for token in {*PROMPT, *OUTPUT}:
        row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
    for token, by in bias:
        row[token] += by
    if allowed is not None:
        row[list(set(range(VOCAB)) - allowed)] = -np.inf
    row /= temperature or 1.0
    expected = row - row.max() - math.log(np.exp(row - row.max()).sum())
    assert told is not None and told.logprob == pytest.approx(expected[tokens[0]], abs=1e-4)
    for token, value in told.top:
        assert value == pytest.approx(expected[token], abs=1e-4)
