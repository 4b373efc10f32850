"""Random loads of several accounts, priorities and patience: each sequence ends once, says what it says alone or expires
before it has said anything, and the books balance.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.engine.drive import Drive
from tests.engine.fakes import alone, spec, submit


@pytest.mark.parametrize("seed", range(25))
def test_random_accounts(seed: int) -> None:
    dice = Random(seed)
    size = dice.choice([1, 4])
    pages = dice.choice([12, 30, 200])
    drive = Drive(
        spec(pages, size, slots=dice.choice([1, 3, 8]), context=min((pages - 2) * size, 90)),
        overlap=dice.random() < 0.5,
        schedule_policy=dice.choice(["fcfs", "lpm"]),
        step_tokens=dice.choice([16, 64]),
    )
    now = [0.0]
    drive.scheduler.patience.clock = lambda: now[0]
    context, expected = drive.scheduler.spec.context, {}
    for number in range(0, 240, 3):
        ids = range(number, number + dice.choice([1, 1, 3]))
        prompt = [dice.randrange(5) for _ in range(dice.randint(1, context // 2))]
        most, wait = dice.randint(1, context - len(prompt)), dice.choice([None, 5.0, 60.0])
        expected |= {id: alone(prompt, 7 + n, most) for n, id in enumerate(ids)}
        wish = {"account": dice.choice("abc"), "priority": dice.choice([0, 0, 1]), "wait": wait}
        drive.submit(submit(prompt, *ids, max_tokens=most, **wish))  # type: ignore[arg-type]
        if dice.random() < 0.1:
            drive.scheduler.cancel("front", dice.choice(list(expected)))
        for _ in range(dice.randint(0, 6)):
            now[0] += dice.random()
            drive.step()
            _check_books(drive)
    while not drive.scheduler.idle:
        now[0] += 0.1
        drive.step()
        _check_books(drive)
    drive.check_idle()
    for id, said in expected.items():
        end, mine = drive.ends["front", id], drive.tokens["front", id]
        assert end.reason in ("length", "cancelled", "expired")
        assert mine == (said if end.reason == "length" else said[: len(mine)] if end.reason == "cancelled" else [])
    assert drive.scheduler.patience.left() is None
    assert all(account.idle and not account.promised for account in drive.scheduler.accounts._accounts.values())


def _check_books(drive: Drive) -> None:
    """Counts and promises are those of the sequences that there are."""
    scheduler = drive.scheduler
    rows, waiting = scheduler.running.rows, list(scheduler.queue.order())
    if scheduler.queue.__class__.__name__ == "Queue":
        assert len(waiting) == len(scheduler.queue)
    assert scheduler.queue.tokens == sum(seq.prompt_len for items in scheduler.queue._items.values() for seq in items)
    for name, account in scheduler.accounts._accounts.items():
        mine = [seq for seq in rows if seq.request.account == name]
        assert account.running == len(mine) and account.waiting == len(scheduler.queue._items.get(name, ()))
        assert account.promised == sum(seq.prompt_len - seq.billed for seq in mine)
