"""Fakes for the engine's tests: a device whose "KV" is a hash of the prefix, so that wrong pages give wrong tokens."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.core.messages import SeqStart, Submit, TokenLogprob
from radixmill.core.plan import Masks, StepPlan, StepResult
from radixmill.core.request import GenerateRequest, SamplingParams
from radixmill.core.spec import KVGroup, ModelSpec
from radixmill.engine.schedule.budget import FLOOR
from radixmill.engine.schedule.guess import Guesser, Memory, Offer

VOCAB = 50
Mask = NDArray[np.uint32]  # [⌈VOCAB/32⌉]
Draw = Callable[[Mask | None], list[int]]  # one row's tokens


def mix(state: int, token: int) -> int:
    """The KV of a token after a prefix whose last KV is `state`."""
    return (state * 6364136223846793005 + (token + 1) * 1442695040888963407) % (1 << 61)


def next_token(kv: Sequence[int], seed: int, mask: Mask | None = None) -> int:
    """What the "model" says after positions with these KVs: with a mask, the first allowed token from there on."""
    token = mix(sum(kv) % (1 << 61), seed) % VOCAB
    while mask is not None and not mask[token // 32] >> np.uint32(token % 32) & np.uint32(1):
        token = (token + 1) % VOCAB
    return token


def spec(
    pages: int = 64,
    page_size: int = 4,
    slots: int = 8,
    context: int | None = None,
    windows: tuple[int, ...] = (),
    window_pages: int | None = None,
    eos: tuple[int, ...] = (),
) -> ModelSpec:
    """A model with as much context as the pool holds for one sequence, and a KV group for each of `windows`, of as many
    pages or of `window_pages`."""
    return ModelSpec(
        name="fake",
        architecture="hash",
        vocab_size=VOCAB,
        context=context or (pages - 2) * page_size,
        eos_ids=eos,
        page_size=page_size,
        slots=slots,
        kv_groups=(
            KVGroup((0,), 1, pages),
            *(KVGroup((1 + g,), 1, window_pages or pages, window) for g, window in enumerate(windows)),
        ),
        numerics="hash-1",
    )


def lone_pages(window: int, size: int, step: int, slots: int) -> int:
    """Pages of a window that a lone sequence may need in steps of so many tokens."""
    return (window - 2 + max(step, FLOOR + slots)) // size + 3


def submit(
    prompt: Sequence[int],
    *ids: int,
    seed: int = 7,
    output: tuple[int, ...] = (),
    alone: bool = False,
    **more: Any,
) -> Submit:
    """Sequences `ids` of one prompt; choice i has seed + i. `more`: fields of the request, or of its sampling."""
    named = {"trusted": True} | {name: more.pop(name) for name in GenerateRequest.__struct_fields__ if name in more}
    sampling = SamplingParams(**({"max_tokens": 4} | more))
    request = GenerateRequest(id="r", prompt=tuple(prompt), sampling=sampling, **named)
    scores = sampling.prompt_logprobs is not None
    return Submit(request, tuple(SeqStart(i, seed + n, output, scores and n == 0, alone) for n, i in enumerate(ids)))


class HashTicket:
    """A step whose forward pass has run; `draws` make each row's tokens of its mask."""

    def __init__(self, step: int, draws: list[Draw], seconds: float, scores: tuple[TokenLogprob, ...]) -> None:
        self._step, self._draws, self._seconds, self._scores = step, draws, seconds, scores
        self._result: StepResult | None = None

    def sample(self, masks: Masks | None) -> None:
        rows = masks.rows if masks else {}
        tokens = [token for row, draw in enumerate(self._draws) for token in draw(rows.get(row))]
        self._result = StepResult(self._step, np.array(tokens), (), self._seconds, self._scores)

    def result(self) -> StepResult:
        assert self._result is not None
        return self._result


class HashExecutor:
    """Reads and writes KV through the page tables, and checks every position against the slot's own tokens."""

    def __init__(self, spec: ModelSpec, seconds: float = 0.0) -> None:
        self.spec, self.seconds = spec, seconds
        self.kv = [np.full((g.pages, spec.page_size), -1, np.int64) for g in spec.kv_groups]
        self.tokens: dict[int, list[int]] = {}  # by slot
        self.seeds: dict[int, int] = {}
        self.plans: list[StepPlan] = []

    def launch(self, plan: StepPlan) -> HashTicket:
        self.plans.append(plan)
        for card in plan.admits:
            self.tokens[card.slot] = [*card.prompt, *card.output]
            self.seeds[card.slot] = card.seed
        for slot, tokens in plan.forced:
            self.tokens[slot] += tokens
        for copy in plan.copies:
            self.kv[copy.group][copy.dst] = -1
            self.kv[copy.group][copy.dst, : copy.tokens] = self.kv[copy.group][copy.src, : copy.tokens]
        bounds = np.concatenate([[0], np.cumsum(plan.counts)])
        draws = [self._row(plan, r, plan.tokens[bounds[r] : bounds[r + 1]].tolist()) for r in range(plan.rows)]
        scores = tuple(entry for r in range(plan.rows) for entry in self._scores(plan, r))
        return HashTicket(plan.step, draws, self.seconds, scores)

    def _scores(self, plan: StepPlan, row: int) -> list[TokenLogprob]:
        """Of the row's last positions before the one that it samples, read through its pages."""
        if plan.scores is None or not plan.scores[row]:
            return []
        assert plan.guesses is None or not plan.guesses[row]
        end = int(plan.starts[row] + plan.counts[row] - plan.samples[row])
        first = end - int(plan.scores[row])
        assert first >= plan.starts[row]
        size, table = self.spec.page_size, plan.pages[0]
        pages = table.ids[table.starts[row] : table.starts[row + 1]]
        history = self.tokens[int(plan.slots[row])]
        return [score(int(self.kv[0][pages[p // size], p % size]), history[p + 1]) for p in range(first, end)]

    def _row(self, plan: StepPlan, row: int, given: list[int]) -> Draw:
        """Computes the row. What it draws: one token, and one for each guess; −1 after the first wrong one. Stale KV
        stays behind it."""
        slot, start = int(plan.slots[row]), int(plan.starts[row])
        guesses = int(plan.guesses[row]) if plan.guesses is not None else 0
        history = self.tokens[slot]
        end = start + len(given)
        certain = end - guesses
        known = given[: certain - start]
        assert [t if t >= 0 else history[start + i] for i, t in enumerate(known)] == history[start:certain]
        assert not guesses or (certain == len(history) and min(given) >= 0 and plan.samples[row])
        tokens = history[:certain] + given[certain - start :]
        for group, table in enumerate(plan.pages):
            pages = table.ids[table.starts[row] : table.starts[row + 1]]
            self._compute(group, pages, start, tokens[:end])
        read = prefix_kv(tokens)

        def draw(mask: Mask | None) -> list[int]:
            if not plan.samples[row]:
                return [-1]
            drawn = [-1] * (guesses + 1)
            for n in range(guesses + 1):
                drawn[n] = next_token(read[: certain + n], self.seeds[slot], mask)
                history.append(drawn[n])
                if n < guesses and tokens[certain + n] != drawn[n]:
                    break
            return drawn

        return draw

    def _compute(self, group: int, pages: NDArray[np.int32], start: int, tokens: list[int]) -> None:
        """Write positions from `start` on, and see that every position they look back at is right; before, in a group
        with a window, there may be anything."""
        size, window, end = self.spec.page_size, self.spec.kv_groups[group].window or len(tokens), len(tokens)
        truth = prefix_kv(tokens)
        assert len(pages) == -(-end // size)
        where = pages.repeat(size)[:end], np.arange(end) % size
        state = int(self.kv[group][where[0][start - 1], where[1][start - 1]]) if start and window > 1 else 0
        for p in range(start, end):
            state = mix(state, tokens[p]) if window > 1 else truth[p]
            self.kv[group][where[0][p], where[1][p]] = state
        back = max(start - window + 1, 0)
        read = self.kv[group][where].tolist()[back:]
        assert read == truth[back:], f"group {group}: wrong KV"

    def poison(self, group: int, pages: list[int]) -> None:
        """These are nobody's: whoever still reads them reads nonsense."""
        self.kv[group][pages] = -1

    def stats(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


def score(kv: int, token: int) -> TokenLogprob:
    """What the "model" thinks of a token after a position with this KV."""
    return TokenLogprob(-float(mix(kv, token) % 9973))


def scores(prompt: Sequence[int], start: int) -> tuple[TokenLogprob, ...]:
    """Of the prompt's tokens from `start` on, without pages."""
    kv = prefix_kv(prompt)
    return tuple(score(kv[p - 1], prompt[p]) for p in range(max(start, 1), len(prompt)))


def prefix_kv(tokens: Sequence[int]) -> list[int]:
    """The KV of each position, from the tokens alone."""
    kv, state = [], 0
    for token in tokens:
        state = mix(state, token)
        kv.append(state)
    return kv


def alone(prompt: Sequence[int], seed: int, most: int, stop: frozenset[int] = frozenset()) -> list[int]:
    """The output of a sequence that runs by itself, without pages."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + most:
        tokens.append(next_token(prefix_kv(tokens), seed))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


class Prophet(Guesser):
    """Guesses from what the sequences will say, each token right with probability `skill`; beyond that, and else, noise."""

    def __init__(self, dice: Random, skill: float, most: int) -> None:
        super().__init__(most, always=True)
        self.dice, self.skill = dice, skill
        self.truths: list[list[int]] = []  # prompt and output

    def offer(self, memory: Memory, tokens: array[int], most: int) -> Offer:
        done, said = len(tokens), tokens.tolist()
        futures = [truth[done:] for truth in self.truths if truth[:done] == said]
        future = self.dice.choice(futures) if futures else []
        count = max(min(most, self.dice.randint(0, self.most)), 0)
        return Offer(array("q", [self._token(future, n) for n in range(count)]), [1.0] * count)

    def _token(self, future: list[int], n: int) -> int:
        right = n < len(future) and self.dice.random() < self.skill
        return future[n] if right else self.dice.randrange(VOCAB)
