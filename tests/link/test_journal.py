"""The journal: whatever a chain of engines repeats, each token comes out once, in order; a gap is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixmill.core.messages import End, SeqStart, TokenDelta, TokenLogprob, Usage
from radixmill.core.request import GenerateRequest, SamplingParams
from radixmill.link.journal import Gap, Journal

REQUEST = GenerateRequest(id="r", prompt=(1, 2, 3), sampling=SamplingParams(max_tokens=99))


def opened(*seqs: int) -> Journal:
    journal = Journal()
    journal.open(REQUEST, [SeqStart(seq, seq * 7) for seq in seqs])
    return journal


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=40))
def test_overlapping_deltas_give_each_token_once(total: int, moves: list[tuple[int, int]]) -> None:
    """Engines may repeat from any point that they were told of; the fold is the sequence itself."""
    journal, got, lps = opened(1), [], []
    for back, count in [*moves, (0, total)]:
        held = len(got)
        at = max(held - back, 0)
        tokens = tuple(range(at, min(at + count, total)))
        news = journal.apply(TokenDelta(1, at, tokens, tuple(TokenLogprob(-t) for t in tokens)))
        if news:
            assert news.at == held
            got += news.tokens
            lps += [lp.logprob for lp in news.logprobs or ()]
    assert got == list(range(len(got))) and lps == [-t for t in got]
    (again,) = journal.resubmissions()
    assert again.seqs == (SeqStart(1, 7, tuple(got), paid=3 if got else 0),)


def test_a_gap_is_an_error_and_changes_nothing() -> None:
    journal = opened(1)
    journal.apply(TokenDelta(1, 0, (5,)))
    with pytest.raises(Gap):
        journal.apply(TokenDelta(1, 2, (7,)))
    assert next(journal.resubmissions()).seqs[0].output == (5,)


def test_an_end_comes_once_and_keeps_what_the_first_admission_found() -> None:
    journal = opened(1, 2)
    journal.apply(TokenDelta(1, 0, (5,), cached=2))
    again = journal.apply(TokenDelta(1, 1, (6,), cached=0))  # readmitted by a fresh engine
    assert again and again.cached is None
    end = journal.apply(TokenDelta(1, 2, (), end=End("stop", Usage(3, 2, 0))))
    assert end and end.end and end.end.usage.cached == 2
    assert journal.apply(TokenDelta(1, 2, (), end=End("stop", Usage(3, 2, 0)))) is None
    assert 1 not in journal and len(journal) == 1


def test_what_has_begun_never_expires_though_all_that_had_begun_has_ended() -> None:
    journal = Journal()
    request = GenerateRequest(id="s", prompt=(9,), sampling=SamplingParams(max_tokens=1), wait=5.0)
    journal.open(request, [SeqStart(1, 0), SeqStart(2, 0)])
    (again,) = journal.resubmissions()
    assert again.request.wait == 5.0
    journal.apply(TokenDelta(1, 0, (4,), end=End("length", Usage(1, 1, 0))))
    (again,) = journal.resubmissions()
    assert again.request.wait is None and [start.seq for start in again.seqs] == [2]


def test_resubmission_groups_by_request() -> None:
    journal = opened(1, 2)
    other = GenerateRequest(id="s", prompt=(9,), sampling=SamplingParams(max_tokens=1))
    journal.open(other, [SeqStart(3, 0)])
    journal.apply(TokenDelta(2, 0, (4, 4)))
    first, second = journal.resubmissions()
    assert first.request is REQUEST and [s.output for s in first.seqs] == [(), (4, 4)]
    assert second.request is other


def test_the_prompts_log_probabilities_come_once_whatever_dies() -> None:
    scores = (TokenLogprob(-1.0), TokenLogprob(-2.0))
    journal = Journal()
    journal.open(REQUEST, [SeqStart(1, 7, score=True), SeqStart(2, 8)])
    assert [s.score for s in next(journal.resubmissions()).seqs] == [True, False]  # not told: scored anew
    first = journal.apply(TokenDelta(1, 0, (5,), prompt_logprobs=scores))
    assert first and first.prompt_logprobs == scores
    assert [s.score for s in next(journal.resubmissions()).seqs] == [False, False]
    again = journal.apply(TokenDelta(1, 0, (5, 6), prompt_logprobs=scores))
    assert again == TokenDelta(1, 1, (6,))
