"""Who has had how much: a virtual token counter per account (Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024).

served      tokens that were computed or said for an account, by their weights, and what it was raised by
promised    prompt tokens of its running sequences that are still to be computed
bill        the two together: the account with the lowest is the first to be asked who of it wants a slot

An engine that takes over from one that died has no counters, but the records of what was live: each account begins with what
they show that it has had, and nobody is raised for them.

Who waits for nothing gathers no credit: when an account waits again, it counts as served like the one that was served
least among those that wait. So of two accounts that wait, for however long, none gets further ahead of the other than by twice the weight of the
longest prompt, or of all that running sequences hold, whichever is more.
"""

from __future__ import annotations

from collections.abc import Iterable

from radixmill.engine.schedule.sequence import Sequence

COMPUTED, SAID = 1, 2  # weights of a token of a prompt and of one of an output
LEAD = 1024  # weighted tokens, and one for each that must be computed again: so far ahead, a sequence gives way
MEMORY = 1024  # accounts that are remembered although nothing of them is live


class Account:
    """One account's counter."""

    __slots__ = ("promised", "running", "served", "waiting")

    def __init__(self, served: int) -> None:
        self.served = served
        self.promised = self.waiting = self.running = 0

    @property
    def bill(self) -> int:
        return self.served + COMPUTED * self.promised

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running)


class Accounts:
    """The counters of all accounts that matter now."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._accounts: dict[str, Account] = {}
        self._memory = memory
        self._floor = 0  # no account that begins to wait has been served less

    def __len__(self) -> int:
        return len(self._accounts)

    def of(self, seq: Sequence) -> Account:
        return self._accounts[seq.request.account]

    # --- the queue

    def joined(self, seq: Sequence) -> None:
        """It has come into the queue."""
        account = self._accounts.get(seq.request.account)
        if seq.owed is not None:
            account = self._resumed(seq, seq.owed)
        elif account is None or not account.waiting:
            waiting = [other.served for other in self._accounts.values() if other.waiting]
            self._floor = max(self._floor, min(waiting, default=0))
        if account is None:
            account = self._accounts[seq.request.account] = Account(self._floor)
        if not account.waiting and seq.owed is None:
            account.served = max(account.served, self._floor)
        account.waiting += 1
        seq.owed = None

    def _resumed(self, seq: Sequence, owed: int) -> Account:
        """The account of one that an earlier engine has served: it takes over that bill."""
        account = self._accounts.setdefault(seq.request.account, Account(self._floor))
        account.served += COMPUTED * owed + SAID * seq.output_len
        if seq.output_len:  # to compute its prompt again is not its fault
            seq.billed = seq.prompt_len
        return account

    def left(self, seq: Sequence) -> None:
        """It is no longer in the queue."""
        account = self.of(seq)
        account.waiting -= 1
        if not any(other.waiting for other in self._accounts.values()):
            self._floor = max(self._floor, account.served)
        self._forget(seq, account)

    # --- running

    def admitted(self, seq: Sequence, shared: int) -> None:
        """It begins to run, or again, with so many of its tokens cached."""
        account = self.of(seq)
        account.running += 1
        seq.billed = max(seq.billed, min(shared, seq.prompt_len))
        account.promised += seq.prompt_len - seq.billed

    def stopped(self, seq: Sequence) -> None:
        """It runs no longer, and takes back what it was promised."""
        account = self.of(seq)
        account.running -= 1
        account.promised -= seq.prompt_len - seq.billed
        self._forget(seq, account)

    def computed(self, seq: Sequence) -> None:
        """A plan computes it up to `seq.computed`. No token is paid for twice, whatever befalls its sequence."""
        upto = min(seq.computed, seq.prompt_len)
        if (more := upto - seq.billed) > 0:
            account = self.of(seq)
            account.promised -= more
            account.served += COMPUTED * more
            seq.billed = upto

    def said(self, seq: Sequence, tokens: int) -> None:
        self.of(seq).served += SAID * tokens

    def by_service(self, seqs: Iterable[Sequence]) -> list[Sequence]:
        """By what counts over accounts, then by who has had least; of one account by priority, equals as they come."""
        return sorted(seqs, key=lambda seq: (seq.rank[0], self.of(seq).served, seq.own[0]))

    def goes_before(self, waiting: Sequence, prompt: Sequence) -> bool:
        """Whether one that waits need not wait for another account's prompt, which is being computed."""
        mine, theirs = self.of(waiting), self.of(prompt)
        return mine is not theirs and waiting.rank[0] <= prompt.rank[0] and mine.bill <= theirs.served

    def gives_way(self, waiting: Sequence, rows: list[Sequence]) -> Sequence | None:
        """Of the rows that run the last of the account that has had most, if that is so far ahead of another's that
        waits that its place is due to that one. Not the first row, and none whose priority outranks it."""
        mine, others = self.of(waiting), rows[1:]
        able = [seq for seq in others if seq.rank[0] >= waiting.rank[0] and self.of(seq) is not mine]
        last = max(able, key=lambda seq: (self.of(seq).served, seq.own), default=None)
        return last if last and self.of(last).served - mine.bill >= LEAD + last.computed else None

    def _forget(self, seq: Sequence, account: Account) -> None:
        """An account of which nothing is live, if it would be raised to the floor anyhow; the least of too many."""
        if account.idle and account.served <= self._floor:
            del self._accounts[seq.request.account]
        elif len(self._accounts) > 2 * self._memory:
            idle = sorted((a.served, name) for name, a in self._accounts.items() if a.idle)
            for _, name in idle[: len(self._accounts) - self._memory]:
                del self._accounts[name]
