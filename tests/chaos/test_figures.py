"""The arithmetic behind the figures, and that a broken answer is seen to be broken."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.figures import Area, Figures, Gap, auc, percentile, slope
from tests.chaos.fold import Fold
from tests.chaos.footprint import Footprint, Process, leaks
from tests.chaos.fronts import judge
from tests.chaos.kit import Death, House, Live, pauses
from tests.chaos.mix import TEXT, Wish
from tests.chaos.soak import FLAGS, QUEUED, Soak, growth, windows


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert percentile([3, 1, 2], 0.5) == 2 and percentile([5], 0.99) == 5
    assert percentile(range(1, 101), 0.99) == 99 and math.isnan(percentile([], 0.5))


def test_only_a_front_that_has_just_started_may_say_that_it_loads(tmp_path: Path) -> None:
    """One that has held the connection since before the other's death may not."""
    old, dead = 11, 12
    owners = {1000: old, 1001: dead}
    for port, wrong in ((1000, 1), (1001, 1), (1002, 0)):
        house = House("tiny", tmp_path, Figures(), random.Random(0))
        live = Live(Wish("greedy", TEXT, {}), twin=Fold(), port=port)
        live.fold.status, live.fold.error = 503, '{"error": {"code": "not_ready"}}'
        judge(house, [live], [live], owners, dead)
        assert len(house.figures.wrong) == wrong and len(house.figures.notes) == 1 - wrong


def test_a_slope_is_of_the_least_squares_line() -> None:
    assert slope([0, 1, 2], [5, 7, 9]) == pytest.approx(2) and slope([0, 1, 2, 3], [1, 2, 1, 2]) == pytest.approx(0.2)
    assert slope([1, 1], [1, 9]) == 0


def test_growth_leaves_out_the_first_third() -> None:
    calm = [(float(at), 1000 if at >= 20 else at) for at in range(60)]
    assert growth(calm) == pytest.approx(0)
    rising = [(float(at), 1_000_000 + 100 * at) for at in range(600)]  # 6,000 a minute
    assert growth(rising) == pytest.approx(0.58, abs=0.01)
    assert growth([(0.0, 1)]) == 0
    rng = random.Random(3)
    noisy = [(float(at), int(10**9 * (1 + 0.001 * rng.gauss(0, 1) + 0.002 * at / 60))) for at in range(1800)]
    assert growth(noisy) == pytest.approx(0.2, abs=0.02)  # 0.2 % per minute under noise of 0.1 %
    step = [(float(at), 10**9 + (10**8 if at > 1200 else 0)) for at in range(1800)]
    assert growth(step) > 0.1
    assert soaked().good and not soaked(memory=rising).good and not Soak(1.0).good


CALM = [(float(at), 10**9) for at in range(60)]


def soaked(latencies: Sequence[tuple[float, float]] = ((1.0, 5.0), (30.0, 6.0), (59.0, 5.0)), **more: Any) -> Soak:
    statuses = more.pop("statuses", Counter({200: 5, 429: 3}))
    return Soak(10.0, **{"memory": CALM, "latencies": list(latencies), "statuses": statuses, **more})


def test_a_soak_is_good_only_where_latency_is_bounded_and_something_was_measured() -> None:
    assert not soaked(statuses=Counter({200: 5, 500: 1})).good and not soaked(broken=["x"]).good
    assert "429" in soaked(statuses=Counter({200: 500})).complaints()[0]
    assert not soaked(filled=False).good and not soaked(latencies=()).good and not soaked(memory=[]).good
    assert soaked(((1.0, 5.0), (30.0, 5.0), (59.0, 9.0))).good
    assert "longer and longer" in soaked(((1.0, 5.0), (30.0, 5.0), (59.0, 9.6))).complaints()[0]
    assert soaked().bound == pytest.approx(27.6)  # 128 requests at 10 a second, twice, and 2 s
    assert "full queue" in soaked(((1.0, 28.0), (30.0, 5.0), (59.0, 5.0))).complaints()[0]


def test_a_soak_in_which_a_process_was_replaced_is_no_good() -> None:
    found, server = soaked(), {1: "supervisor", 2: "front", 3: "engine"}
    found.saw(server)
    found.saw({**server, 4: "grammar"})  # started when it was first needed
    assert found.good
    found.saw({1: "supervisor", 2: "front", 5: "engine", 4: "grammar"})
    found.saw({1: "supervisor", 2: "front", 5: "engine", 4: "grammar"})
    assert [each.split(" did")[0] for each in found.complaints()] == ["engine 3"]


def test_a_soak_has_a_queue_beside_what_runs() -> None:
    flags = dict(zip(FLAGS[::2], FLAGS[1::2], strict=True))
    assert int(flags["--max-queued-requests"]) - int(flags["--max-running-requests"]) == QUEUED > 0


def test_windows_of_a_plot_have_no_holes() -> None:
    assert windows([(1.0, 5.0), (29.0, 6.0), (65.0, 7.0)]) == [(0.25, [5.0, 6.0]), (0.75, []), (1.25, [7.0])]


def test_the_area_under_the_curve() -> None:
    assert auc([3, 4], [1, 2]) == 1 and auc([1, 2], [3, 4]) == 0 and auc([1, 1], [1, 1]) == 0.5
    rng = random.Random(1)
    ones, others = ([rng.random() for _ in range(200)] for _ in range(2))
    assert 0.4 < auc(ones, others) < 0.6


def test_an_area_has_no_direction_and_few_samples_stray() -> None:
    rng = random.Random(2)

    def strays(count: int) -> float:
        areas = [auc([rng.random() for _ in range(count)], [rng.random() for _ in range(count)]) for _ in range(300)]
        return math.sqrt(sum((area - 0.5) ** 2 for area in areas) / len(areas))

    assert strays(200) == pytest.approx(0.029, abs=0.005) and strays(15) == pytest.approx(0.107, abs=0.02)
    one, two = [rng.gauss(0, 1) for _ in range(200)], [rng.gauss(1, 1) for _ in range(200)]
    area, other = Area.between(one, two), Area.between(two, one)
    assert area.value == pytest.approx(other.value) and area.value == pytest.approx(0.76, abs=0.06)
    assert 0.5 < area.low < area.value < area.high < 1 and area.high - area.low < 0.12


def test_a_gap_is_held_against_what_has_to_be_computed_again() -> None:
    assert Gap(4.0, 1.0).ratio < 1 < Gap(4.5, 1.0).ratio and Gap(6.0, 0.0, deaths=2).ratio == 1
    assert Gap(6.0, 1.0, stood=2.0).ratio < 1
    figures = tried(gaps=[Gap(9.0, 1.0)])
    assert not figures.good and "9.00 s" in figures.complaints()[0] and tried().good


def tried(**more: Any) -> Figures:
    return Figures(faults=Counter({"kill -9": 3}), accepted=5, **more)


def test_zeros_are_not_good_where_nothing_was_tried() -> None:
    assert Figures().missing == ["no fault", "no request accepted"] and not Figures().good
    assert not Figures(accepted=5).good and not Figures(faults=Counter({"kill -9": 3})).good
    assert Figures(skipped=["no root"]).good  # which the whole run then is not
    assert "nothing shown: no fault" in Figures(accepted=5).complaints()
    assert "no root" in Figures(skipped=["no root"]).table()


def test_engines_that_come_back_too_late_are_no_good() -> None:
    assert tried(respawns=[1.0, 1.9, 9.0], respawn=2.0).good and tried(respawns=[9.0]).good
    late = tried(respawns=[1.0, 2.1, 2.2], respawn=2.0)
    assert not late.good and "2.10" in late.complaints()[0] and "BROKEN" in late.line()
    assert not tried(respawn=2.0).good  # nobody came back


def streamed(*times: float, asked: float = 0.0, prompt: int = 100) -> Live:
    live = Live(Wish("text", TEXT, {"stream": True}), asked=asked)
    live.fold.times, live.fold.prompt = list(times), prompt
    return live


def death(at: float, ready: float | None, recompute: int = 1000, stood: float = 0.0) -> Death:
    return Death(1, at, recompute, 0, stood=stood, ready=ready)


def test_a_pause_is_the_longest_one_while_an_engine_was_missed() -> None:
    stream = streamed(1.0, 2.0, 2.1, 5.0, 5.3, 6.0)  # what came at 2.1 had been said before
    (gap,) = pauses(stream, [death(2.05, 5.2)], rate=1000.0)
    assert gap.seconds == pytest.approx(2.9) and gap.recompute == pytest.approx(1.0) and gap.deaths == 1
    (gap,) = pauses(stream, [death(2.05, 4.0)], rate=1000.0)  # another served before the stream went on
    assert gap.seconds == pytest.approx(2.9)
    (gap,) = pauses(stream, [death(2.2, None), death(3.0, 4.9, stood=2.0)], rate=1000.0)
    assert gap.deaths == 2 and gap.recompute == pytest.approx(2.0) and gap.stood == 2.0
    assert not pauses(stream, [death(7.0, 9.0)], rate=1000.0)  # it was over


def test_a_request_that_had_no_token_yet_pauses_from_the_death_or_from_when_it_was_sent() -> None:
    (gap,) = pauses(streamed(6.0, 6.1, asked=1.0), [death(4.0, 5.0)], rate=1000.0)
    assert gap.seconds == pytest.approx(2.0) and gap.recompute == pytest.approx(1.0)
    (gap,) = pauses(streamed(6.0, 6.1, asked=4.5), [death(4.0, 5.0)], rate=1000.0)
    assert gap.seconds == pytest.approx(1.5) and gap.recompute == pytest.approx(1.1)  # its own prompt too


def test_a_page_of_a_window_that_nobody_holds_is_a_leak() -> None:
    before, after = held(of("engine", 1)), held(of("engine", 1))
    pages = {"pages_total": 9, "pages_free": 5, "pages_evictable": 3}
    after.state["kv_windows"] = [{**pages, "pages_free": 6}, pages]
    assert leaks(before, after) == ["1 pages are held by nobody"]


def held(*processes: Process, files: int = 3) -> Footprint:
    state = {"pages_total": 9, "pages_free": 5, "pages_evictable": 4, "running": 0, "waiting": 0}
    return Footprint(processes, 0, 0, state, files)


def of(role: str, pid: int, resident: int = 100 << 20, files: int = 20, sockets: int = 5, threads: int = 4) -> Process:
    return Process(pid, role, resident, files, sockets, threads)


def test_an_engine_is_held_against_the_one_before_it() -> None:
    before = held(of("supervisor", 1), of("front", 2), of("engine", 3))
    assert not leaks(before, held(of("supervisor", 1), of("front", 2), of("engine", 9)))
    for worse in ({"resident": 200 << 20}, {"files": 21}, {"sockets": 6}, {"threads": 6}):
        assert leaks(before, held(of("supervisor", 1), of("front", 2), of("engine", 9, **worse)))
    assert leaks(before, held(of("supervisor", 1), of("front", 2)))
    assert leaks(before, held(of("supervisor", 1), of("front", 2), of("engine", 9), files=4)) == [
        "1 files in the private folder"
    ]


def test_a_builder_of_grammars_is_one_socket_of_its_engine_and_excuses_no_second() -> None:
    before = held(of("engine", 3))
    assert not leaks(before, held(of("engine", 3, files=21, sockets=6), of("grammar", 4)))
    assert leaks(before, held(of("engine", 3, files=22, sockets=7), of("grammar", 4)))
    assert leaks(before, held(of("engine", 3, files=22, sockets=7), of("grammar", 4), of("grammar", 5)))
    assert leaks(held(of("engine", 3), of("grammar", 4)), held(of("engine", 3, sockets=6), of("grammar", 4)))


def chunk(ids: list[int], text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "token_ids": ids, "finish_reason": finish}]}


def folded(*events: dict[str, Any] | None) -> Fold:
    fold = Fold(status=200)
    for event in events:
        fold.add(event)
    return fold


USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}}


def test_a_doubled_token_is_counted_and_a_changed_one_is_not() -> None:
    twin = folded(chunk([1, 2], "ab"), chunk([3], "c", "length"), USAGE, None)
    assert twin.done and twin.differs(folded(chunk([1], "a"), chunk([2, 3], "bc", "length"), USAGE, None)) == ""
    twice = folded(chunk([1, 2], "ab"), chunk([2, 3], "bc", "length"), USAGE, None)
    assert twice.doubled(twin) == 1 and "said" in twice.differs(twin)
    other = folded(chunk([1, 9], "ax"), chunk([3], "c", "length"), USAGE, None)
    assert other.doubled(twin) == 0 and other.differs(twin)
    cut = folded(chunk([1, 2], "ab"))
    assert not cut.done and cut.doubled(twin) == 0


def test_an_error_in_a_stream_and_a_second_end_are_no_proper_end() -> None:
    assert folded(chunk([1], "a"), {"error": {"message": "x"}}, None).error
    assert "twice" in folded(chunk([1], "a", "stop"), chunk([], "", "stop")).error


def test_texts_of_apis_that_tell_no_tokens_are_looked_at_too() -> None:
    def said(*parts: str) -> Fold:
        deltas = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}} for p in parts
        ]
        return folded(*deltas, {"type": "message_stop"})

    assert said("ab", "c").differs(said("a", "bc")) == "" and said("ab", "bc").doubled(said("abc")) == 1
