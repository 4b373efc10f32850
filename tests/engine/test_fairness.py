"""Accounts share the engine fairly, by tokens: whatever one asks for, another gets its part."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from msgspec.structs import replace

from radixmill.core.messages import Submit, TokenDelta
from radixmill.engine.schedule.accounts import COMPUTED, SAID, Accounts
from radixmill.engine.schedule.sequence import Sequence
from radixmill.link.journal import Journal
from tests.engine.drive import Drive
from tests.engine.fakes import alone, spec, submit

POLICIES = pytest.mark.parametrize("policy", ["fcfs", "lpm"])


# --- counters


class Ledger:
    """Sequences of accounts, without a scheduler around them."""

    def __init__(self, memory: int = 1024) -> None:
        self.accounts = Accounts(memory)
        self.made = 0

    def join(self, account: str, prompt: int = 10) -> Sequence:
        self.made += 1
        message = submit([1] * prompt, self.made, account=account)
        seq = Sequence("front", message.request, message.seqs[0], spec(), self.made)
        self.accounts.joined(seq)
        return seq

    def run(self, seq: Sequence, shared: int = 0) -> Sequence:
        self.accounts.admitted(seq, shared)
        self.accounts.left(seq)
        return seq

    def compute(self, seq: Sequence, upto: int) -> None:
        seq.computed = upto
        self.accounts.computed(seq)

    def bill(self, seq: Sequence) -> int:
        return self.accounts.of(seq).bill


def test_a_prompt_is_billed_when_it_is_admitted_and_an_output_when_it_is_said() -> None:
    ledger = Ledger()
    seq = ledger.run(ledger.join("a"), shared=4)
    account = ledger.accounts.of(seq)
    assert (account.served, account.promised) == (0, 6)
    ledger.compute(seq, 7)
    assert (account.served, account.promised) == (3 * COMPUTED, 3)
    ledger.compute(seq, 12)  # behind the prompt
    ledger.accounts.said(seq, 5)
    assert (account.served, account.promised) == (6 * COMPUTED + 5 * SAID, 0)


def test_what_was_promised_and_not_computed_is_taken_back_and_nothing_is_paid_twice() -> None:
    ledger = Ledger()
    seq = ledger.run(ledger.join("a"))
    ledger.compute(seq, 4)
    ledger.accounts.joined(seq)  # preempted: it waits again
    ledger.accounts.stopped(seq)
    assert ledger.bill(seq) == 4
    ledger.run(seq)
    ledger.compute(seq, 3)
    assert ledger.bill(seq) == 10 and ledger.accounts.of(seq).promised == 6
    ledger.compute(seq, 10)
    assert ledger.bill(seq) == 10 and not ledger.accounts.of(seq).promised


def test_who_comes_late_has_no_credit() -> None:
    ledger = Ledger()
    one, two = ledger.join("a", 100), ledger.join("a", 100)
    ledger.compute(ledger.run(one), 100)
    assert ledger.bill(ledger.join("b")) == 100
    ledger.compute(ledger.run(two), 100)
    assert ledger.bill(ledger.join("c")) == 100, "the lowest of those that wait"
    ledger.accounts.said(two, 50)
    assert ledger.bill(ledger.join("a")) == 300, "one's own, if it is more"


def test_who_leaves_and_comes_back_still_owes_what_it_had() -> None:
    ledger = Ledger()
    waits = ledger.join("b")
    greedy = ledger.run(ledger.join("a", 500))
    ledger.compute(greedy, 500)
    ledger.accounts.stopped(greedy)
    assert ledger.bill(ledger.join("a")) == 500 > ledger.bill(waits)


def test_after_a_quiet_time_all_begin_alike() -> None:
    ledger = Ledger()
    ledger.compute(ledger.run(ledger.join("a", 500)), 500)
    ledger.run(ledger.join("a"))
    assert ledger.bill(ledger.join("b")) == 500, "nobody waited: what the last to wait had had then"


def test_idle_accounts_are_forgotten() -> None:
    ledger = Ledger(memory=50)
    waits = ledger.join("steady", 7)
    for number in range(400):
        seq = ledger.run(ledger.join(f"{number}", 100))
        ledger.compute(seq, 100)
        ledger.accounts.stopped(seq)
        assert len(ledger.accounts) <= 101
    ledger.compute(ledger.run(waits), 7)
    ledger.run(ledger.join("steady"))
    seq = ledger.run(ledger.join("new", 1), shared=1)
    before = len(ledger.accounts)
    ledger.accounts.stopped(seq)
    assert len(ledger.accounts) == before - 1, "it would begin again with what it has"


# --- service


class Crowd:
    """Accounts that always have something waiting; how much each has had, counted from outside."""

    def __init__(self, drive: Drive, demands: dict[str, Callable[[], Submit]]) -> None:
        self.drive, self.demands = drive, demands
        self.owner: dict[int, str] = {}
        self.computed: dict[int, int] = {}

    def fill(self) -> None:
        waiting = [seq.request.account for seq in self.drive.scheduler.queue.order()]
        for account, demand in self.demands.items():
            for _ in range(3 - waiting.count(account)):
                message = demand()
                self.drive.submit(message)
                self.owner |= {start.seq: account for start in message.seqs}

    def step(self) -> None:
        self.fill()
        self.drive.step()
        for seq in self.drive.scheduler.running.rows:
            had = self.computed.get(seq.id, 0)
            self.computed[seq.id] = max(had, min(seq.computed, seq.prompt_len) - (seq.cached or 0))
        for (_, id), end in self.drive.ends.items():
            self.computed[id] = end.usage.prompt - end.usage.cached

    def service(self, account: str) -> int:
        mine = [id for id, owner in self.owner.items() if owner == account]
        said = sum(len(self.drive.tokens["front", id]) for id in mine)
        return COMPUTED * sum(self.computed.get(id, 0) for id in mine) + SAID * said


class Demand:
    """Requests of one account, as long as its dice say, of prompts of its own."""

    numbers = 0

    def __init__(self, account: str, dice: Random, prompts: tuple[int, int], outputs: tuple[int, int]) -> None:
        self.account, self.dice, self.prompts, self.outputs = account, dice, prompts, outputs

    def __call__(self) -> Submit:
        Demand.numbers += 1
        prompt = [self.dice.randrange(40) for _ in range(self.dice.randint(*self.prompts))]
        ids = [Demand.numbers * 4 + i for i in range(self.dice.choice([1, 1, 1, 3]))]
        most = self.dice.randint(*self.outputs)
        return submit(prompt, *ids, account=self.account, max_tokens=most, ignore_eos=True)


@POLICIES
@pytest.mark.parametrize("seed", range(8))
def test_two_that_always_wait_get_equal_service(seed: int, policy: str) -> None:
    """Whatever they ask for, over every interval: the paper's bound, 2·max(w_in·L_in, w_out·M), M all that the pool holds."""
    dice, pages, size = Random(seed), 40, 4
    model = spec(pages, size, slots=dice.choice([2, 5, 8]), context=130)
    drive = Drive(model, check=False, schedule_policy=policy, step_tokens=dice.choice([16, 40, 512]))
    demands = {}
    for account in "ab":
        shortest, longest = (sorted(dice.sample(range(1, 61), 2)) for _ in range(2))
        demands[account] = Demand(account, dice, tuple(shortest), tuple(longest))
    crowd = Crowd(drive, demands)  # type: ignore[arg-type]
    bound = 2 * max(COMPUTED * 60, SAID * pages * size)
    ahead = [0]
    while sum(map(crowd.service, "ab")) < 10 * bound:
        crowd.step()
        ahead.append(crowd.service("a") - crowd.service("b"))
    assert max(ahead) - min(ahead) <= bound


@POLICIES
def test_who_asks_for_a_hundred_times_as_much_gets_no_more(policy: str) -> None:
    """One asks for much, and first, one for little: both have had the same; of one account, the first would have all."""
    shares = {}
    for accounts in ("ab", "aa"):
        dice = Random(3)
        drive = Drive(spec(80, 4, slots=4, context=200), check=False, schedule_policy=policy)
        great = Demand(accounts[0], dice, (50, 60), (50, 60))
        small = Demand(accounts[1], dice, (2, 4), (1, 2))
        first = [great() for _ in range(60)]
        for message in first:
            drive.submit(message)
        crowd = Crowd(drive, {"great": great, "small": small})
        crowd.owner = {start.seq: "great" for message in first for start in message.seqs}
        crowd.fill = lambda: None  # type: ignore[method-assign]
        for _ in range(150):
            while sum(seq.prompt_len < 10 for seq in drive.scheduler.queue.order()) < 8:
                message = small()
                drive.submit(message)
                crowd.owner |= {start.seq: "small" for start in message.seqs}
            crowd.step()
        shares[accounts] = crowd.service("small") / (crowd.service("small") + crowd.service("great"))
    # It can't take more than a slot or two at a time for so little each: then it is behind, and nobody waits for it.
    assert shares["ab"] > 0.25 and shares["aa"] < 0.05, shares


@POLICIES
def test_a_flood_does_not_drown_another(policy: str) -> None:
    """500 requests of one account are there when another's come: each of those takes little longer than alone."""

    def steps(account: str, flood: int) -> int:
        drive = Drive(spec(300, 4, slots=8, context=200), check=False, schedule_policy=policy, step_tokens=64)
        for number in range(flood):
            drive.submit(submit([number % 40, *range(number % 30)], number, account="flood", max_tokens=16))
        for _ in range(10):
            drive.step()
        drive.submit(submit([41] * 40, 10_000, account=account, max_tokens=16))
        before = drive.scheduler.counters.steps
        while ("front", 10_000) not in drive.ends:
            drive.step()
        assert drive.tokens["front", 10_000] == alone([41] * 40, 7, 16)
        return drive.scheduler.counters.steps - before

    alone_steps = steps("other", 0)
    assert steps("other", 500) <= 3 * alone_steps
    assert steps("flood", 500) >= 20 * alone_steps


@POLICIES
def test_one_accounts_prompts_do_not_hold_up_anothers(policy: str) -> None:
    """A short prompt waits neither until a long one is computed, nor behind it in every step."""
    drive = Drive(spec(1000, 4, slots=8, context=600), check=False, schedule_policy=policy, step_tokens=20)
    for number in range(6):
        drive.submit(submit([number] * 500, number, account="a", max_tokens=1))
    drive.step()
    drive.submit(submit([9] * 100, 9, account="b", max_tokens=1))
    for _ in range(14):
        drive.step()
    assert ("front", 9) in drive.ends and not any(("front", number) in drive.ends for number in range(6))
    drive.run()
    assert drive.tokens["front", 9] == alone([9] * 100, 7, 1)


@POLICIES
@pytest.mark.parametrize("pages", [2000, 130])
@pytest.mark.parametrize("overlap", [False, True])
def test_whoever_runs_for_long_gives_way(policy: str, pages: int, overlap: bool) -> None:
    """All slots, or all pages, are one account's, for a thousand steps to come: another's request is answered long before."""
    drive = Drive(spec(pages, 16, slots=4, context=1100), check=False, schedule_policy=policy, overlap=overlap)
    for number in range(6):
        drive.submit(submit([number] * 30, number, account="a", max_tokens=500, ignore_eos=True))
    for _ in range(60):
        drive.step()
    prompt = [9] * (40 if pages > 1000 else 950)  # the latter has no room beside them
    drive.submit(submit(prompt, 9, account="b", max_tokens=8))
    before = drive.scheduler.counters.steps
    while ("front", 9) not in drive.ends:
        drive.step()
    assert drive.scheduler.counters.steps - before < 350 and len(drive.ends) == 1
    assert 1 <= drive.scheduler.counters.preemptions <= 4
    drive.run(most=20_000)
    assert all(drive.tokens["front", number] == alone([number] * 30, 7, 500) for number in (0, 3, 5))


@POLICIES
@pytest.mark.parametrize("said", [0, 5])
def test_a_flood_does_not_drown_others_after_the_engine_died_either(policy: str, said: int) -> None:
    """The next engine is told all that was live, the flood first. What that has had is not forgotten: others that have had
    less, or nothing yet, have all the slots they want before it has a second one."""
    journal, others = Journal(), range(10_000, 10_007)
    live = [(n, [n, *range(30)], 60, 40 if n < 8 else 0, "flood") for n in range(40)]
    live += [(n, [n - 9_900] * 40, 20, said, "other") for n in others]
    for seq, prompt, most, output, account in live:
        message = submit(prompt, seq, account=account, max_tokens=most, ignore_eos=True)
        journal.open(message.request, message.seqs)
        journal.apply(TokenDelta(seq, 0, tuple(alone(prompt, 7, most)[:output]), cached=0))
    drive = Drive(spec(600, 4, slots=8, context=200), check=False, schedule_policy=policy, step_tokens=64)
    for message in journal.resubmissions():
        drive.submit(message)
    while len(drive.scheduler.running.rows) < 8:
        drive.step()
    assert {seq.id for seq in drive.scheduler.running.rows} > set(others)
    drive.run()
    assert all(drive.tokens["front", seq] == alone(prompt, 7, most) for seq, prompt, most, _, _ in live)


def test_a_bill_outlives_the_engine() -> None:
    ledger = Ledger()
    message = submit([1] * 10, 1, account="a", output=(5, 6, 7))
    again = replace(message.seqs[0], paid=6)  # four were cached
    seq = Sequence("front", message.request, again, spec(), 1)
    ledger.accounts.joined(seq)
    assert ledger.bill(seq) == 6 * COMPUTED + 3 * SAID
    ledger.compute(ledger.run(seq), 10)
    assert ledger.bill(seq) == 6 * COMPUTED + 3 * SAID, "its prompt is not paid for twice"
    ledger.accounts.joined(seq)
    ledger.accounts.stopped(seq)
    assert ledger.bill(seq) == 6 * COMPUTED + 3 * SAID, "nor is that it was preempted"


def test_accounts_take_turns_at_slots_and_priorities_come_first() -> None:
    drive = Drive(spec(slots=1))
    for number in range(4):
        drive.submit(submit([number], number, account="a", max_tokens=1))
    drive.submit(submit([5], 10, account="b", max_tokens=1))
    drive.submit(submit([6], 11, account="b", max_tokens=1))
    drive.submit(submit([7], 20, account="c", max_tokens=1, priority=-1))
    drive.submit(submit([8], 21, account="a", max_tokens=1, priority=1))
    drive.run()
    assert [seq for _, seq in drive.ends] == [21, 10, 0, 11, 1, 2, 3, 20]


@POLICIES
@pytest.mark.parametrize("pages", [40, 400])
def test_no_priority_of_ones_own_takes_from_another(policy: str, pages: int) -> None:
    """An account that says of all it asks that it comes first is served like the other, within the same bound."""
    dice, size = Random(5), 4
    drive = Drive(spec(pages, size, slots=4, context=130), check=False, schedule_policy=policy, step_tokens=40)

    def demand(account: str, priority: int) -> Callable[[], Submit]:
        ask = Demand(account, dice, (5, 50), (5, 50))

        def urgent() -> Submit:
            message = ask()
            return replace(message, request=replace(message.request, priority=priority, trusted=False))

        return urgent

    crowd = Crowd(drive, {"a": demand("a", 2**31 - 1), "b": demand("b", 0)})
    bound = 2 * max(COMPUTED * 60, SAID * pages * size)
    for _ in range(1500):
        crowd.step()
        assert abs(crowd.service("a") - crowd.service("b")) <= bound
    assert crowd.service("b") > bound / 4


@POLICIES
def test_ones_own_priority_counts_among_ones_own(policy: str) -> None:
    drive = Drive(spec(slots=1), schedule_policy=policy)
    for number, priority in enumerate([0, 2, 1, 2]):
        drive.submit(submit([number], number, account="a", max_tokens=1, priority=priority, trusted=False))
    drive.submit(submit([5], 10, account="b", max_tokens=1, trusted=False))
    drive.run()
    assert [seq for _, seq in drive.ends] == [1, 10, 3, 2, 0]


def test_where_memory_is_short_the_lowest_of_ones_own_gives_way() -> None:
    """Not the youngest, which its account holds dearer; and the oldest of all is never asked."""
    drive = Drive(spec(12, 4, slots=3, context=40), prefix_cache=False)
    for number, priority in enumerate([0, 0, 5]):
        drive.submit(submit([number], number, account="a", max_tokens=18, priority=priority, trusted=False))
    drive.step()
    assert len(drive.scheduler.running.rows) == 3
    while not drive.scheduler.counters.preemptions:
        drive.step()
    assert [seq.id for seq in drive.scheduler.queue.order()] == [1]
    drive.run()
    assert [drive.tokens["front", number] for number in range(3)] == [alone([number], 7, 18) for number in range(3)]


def test_within_an_account_the_order_is_that_of_the_policy() -> None:
    """lpm: of each account the longest cached prefix first, also where another's requests fill the queue before it."""
    drive = Drive(spec(200, slots=1, page_size=4, context=64), schedule_policy="lpm")
    drive.submit(submit(range(12), 0, max_tokens=1))
    drive.run()
    for number in range(300):
        drive.submit(submit([40, number % 40, number // 40], 1000 + number, account="a", max_tokens=1))
    drive.submit(submit([9] * 12, 1, account="b", max_tokens=1))
    drive.submit(submit([*range(6), 9], 2, account="b", max_tokens=1))
    drive.submit(submit([*range(9), 9], 3, account="b", max_tokens=1))
    drive.run()
    order = [seq for _, seq in drive.ends]
    assert [seq for seq in order if seq < 1000] == [0, 3, 2, 1] and order.index(1) < 30


def test_one_account_in_the_order_of_arrival_is_as_good_as_none() -> None:
    """The order of every admission is the same, with an account's name and without."""
    orders = []
    for account in ("", "a"):
        dice = Random(5)
        drive = Drive(spec(40, 4, slots=3, context=100), step_tokens=16, schedule_policy="lpm")
        admitted: list[int] = []
        for number in range(120):
            prompt = [dice.randrange(3) for _ in range(dice.randint(1, 40))]
            priority, most = dice.choice([0, 0, 1]), dice.randint(1, 9)
            drive.submit(submit(prompt, number, account=account, priority=priority, max_tokens=most))
            before = set(drive.scheduler.running.rows)
            drive.step()
            admitted += [seq.id for seq in drive.scheduler.running.rows if seq not in before]
        drive.run()
        orders.append((admitted, list(drive.ends), drive.scheduler.counters.preemptions))
    assert orders[0] == orders[1]
