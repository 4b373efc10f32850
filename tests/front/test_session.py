"""A session: what reaches the engine, what is refused before it, and that nothing is left running."""

from __future__ import annotations

import asyncio
import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.core.errors import BadRequest, ContextTooLong, EngineFailed, NotReady, Overloaded, UnknownModel
from radixmill.core.request import choice_seed
from radixmill.front.session import Ask, Content, End, Sampling, Session, TextPrompt, TokenPrompt, gather, winners
from radixmill.front.session.caller import namespace
from radixmill.front.session.door import Bounds
from radixmill.front.session.limits import THREAD_CHARS
from tests.fakes import EOS, SPEC, ByteText, EchoClient
from tests.front.kit import says


def ask(**fields) -> Ask:
    return Ask(**{"id": "r", "model": "echo", "prompts": (TextPrompt("abc"),), "max_tokens": 16, **fields})


def session(client: EchoClient | None = None, **more) -> Session:
    return Session(ByteText(), client or EchoClient(), ("echo",), **more)


def with_spec(**changes):
    return msgspec.structs.replace(SPEC, **changes)


async def _run(s: Session, a: Ask):
    generation = await s.start(a)
    try:
        return await gather(generation), generation
    finally:
        generation.close()


def run(s: Session, a: Ask):
    return asyncio.run(_run(s, a))


def test_seeds_are_prompt_major_over_all_choices():
    client = EchoClient()
    run(session(client), ask(prompts=(TextPrompt("a"), TextPrompt("b")), n=3, width=3, seed=7))
    assert client.seeds == [tuple(choice_seed(7, j) for j in range(3)), tuple(choice_seed(7, j) for j in range(3, 6))]


def test_a_token_that_only_the_tokenizer_knows_is_refused_before_the_engine_sees_it():
    client = EchoClient(spec=with_spec(vocab_size=ord("c")))
    with pytest.raises(BadRequest) as refused:
        run(session(client), ask(prompts=(TextPrompt("ab"), TextPrompt("abc"))))
    assert refused.value.param == "prompt[1]" and str(ord("c")) in refused.value.message
    assert not client.requests and run(session(client), ask(id="s", prompts=(TextPrompt("ab"),)))


def test_a_request_without_a_seed_gets_one_and_says_which():
    client = EchoClient()
    _, generation = run(session(client), ask())
    assert client.seeds == [(generation.facts.seed,)] and 0 <= generation.facts.seed < 2**53
    _, other = run(session(client), ask())
    assert other.facts.seed != generation.facts.seed


def test_what_reaches_the_engine():
    client = EchoClient()
    sampling = Sampling(
        temperature=0.5,
        top_p=0.25,
        top_k=-1,
        logit_bias={"65": -3, "2": 1},
        stop_token_ids=(9, 9, 3),
        logprobs=2,
        min_tokens=1,
    )
    run(session(client), ask(sampling=sampling, salts=("salt",), priority=4))
    request = client.requests[0]
    assert (request.id, request.prompt, request.tenant, request.priority) == (
        "r",
        tuple(b"abc"),
        namespace("", ["salt"]),
        4,
    )
    drawn = request.sampling
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.min_tokens, drawn.logprobs) == (0.5, 0.25, 0, 1, 2)
    assert (drawn.logit_bias, drawn.stop_token_ids) == (((2, 1.0), (65, -3.0)), (9, 3))


def test_defaults_fill_what_the_client_left_open():
    client = EchoClient()
    s = session(client, defaults={"temperature": 0.6, "top_k": 20, "top_p": 7.0, "nonsense": 1})
    run(s, ask(sampling=Sampling(top_k=3)))
    drawn = client.requests[0].sampling
    assert (drawn.temperature, drawn.top_k, drawn.top_p) == (0.6, 3, 1.0), "a default out of range is dropped"


@pytest.mark.parametrize(
    "prompt, wanted, fits",
    [(10, 502, True), (10, 503, False), (511, None, True), (512, None, False), (600, None, False)],
)
def test_prompt_and_output_share_the_context(prompt, wanted, fits):
    client = EchoClient()
    a = ask(prompts=(TokenPrompt((1,) * prompt),), max_tokens=wanted, max_tokens_field="most")
    if fits:
        run(session(client), a)
        assert client.requests[0].sampling.max_tokens == (512 - prompt if wanted is None else wanted)
        return
    with pytest.raises(ContextTooLong) as caught:
        run(session(client), a)
    assert str(prompt) in caught.value.message and "512" in caught.value.message
    assert "lower most." in caught.value.message
    assert not client.requests


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"sampling": Sampling(logit_bias={"260": 1})}, "logit_bias.260"),
        ({"sampling": Sampling(logit_bias={"-1": 1})}, "logit_bias.-1"),
        ({"sampling": Sampling(logit_bias={"x": 1})}, "logit_bias.x"),
        ({"sampling": Sampling(logit_bias={"²": 1})}, "logit_bias.²"),
        ({"sampling": Sampling(stop_token_ids=(1, 999))}, "stop_token_ids[1]"),
        ({"sampling": Sampling(min_tokens=17)}, "min_tokens"),
        ({"prompts": (TokenPrompt((1, 260)),)}, "prompt[1]"),
        ({"prompts": (TextPrompt("a"), TokenPrompt((-1,)))}, "prompt[1][0]"),
        ({"prompts": (TextPrompt(""),)}, "prompt"),
        ({"prompts": (TextPrompt("a"), TextPrompt(""))}, "prompt[1]"),
        ({"prompts": (TextPrompt("a\ud800"),)}, "prompt"),
        ({"prompts": (TextPrompt("a"),) * 100, "width": 100, "n": 100}, "n"),
    ],
)
def test_bad_input_never_reaches_the_engine(fields, param):
    client = EchoClient()
    s = session(client)
    with pytest.raises(BadRequest) as caught:
        run(s, ask(**fields))
    assert caught.value.param == param
    assert not client.requests and s.live == 0


def test_models_states_and_the_queue():
    client = EchoClient()
    s = session(client, limits=Bounds(requests=1))
    with pytest.raises(UnknownModel):
        run(s, ask(model="gpt-4"))
    assert run(s, ask(model="default"))[1].facts.model == "echo"
    for state in ("loading", "draining", "failed"):
        client.state = state
        with pytest.raises(NotReady):
            run(s, ask())
    client.state = "restarting"
    run(s, ask())
    client.state, client.spec = "ready", None
    with pytest.raises(NotReady):
        run(s, ask())
    client.spec = SPEC

    async def two() -> None:
        first = await s.start(ask(id="1"))
        with pytest.raises(Overloaded) as caught:
            await s.start(ask(id="2"))
        assert caught.value.retry_after
        first.close()
        first.close()
        (await s.start(ask(id="2"))).close()

    asyncio.run(two())
    assert s.live == 0


def test_one_id_is_one_live_request():
    s = session()

    async def twice() -> None:
        first = await s.start(ask())
        with pytest.raises(BadRequest) as caught:
            await s.start(ask())
        assert caught.value.param == "rid"
        first.close()
        assert s.live == 0

    asyncio.run(twice())


def test_a_stop_string_ends_the_sequence_here_and_cancels_it_there():
    client = EchoClient(says("one two three"))
    (whole,), generation = run(session(client), ask(stop=("two",)))
    assert (whole.text, whole.end) == ("one ", End(0, "stop", "two"))
    assert client.cancelled == [0] and not client.live
    assert (generation.usage().prompt, generation.usage().completion) == (3, 7)


@pytest.mark.parametrize("stop_at", range(6))
def test_closing_early_cancels_everything(stop_at):
    client = EchoClient(says("hello"))
    s = session(client)

    async def leave() -> None:
        generation = await s.start(ask(prompts=(TextPrompt("a"), TextPrompt("b")), n=2, width=2))
        seen = 0
        async for _ in generation:
            if seen == stop_at:
                break
            seen += 1
        generation.close()

    asyncio.run(leave())
    assert not client.live and s.live == 0 and sorted(client.cancelled) == [0, 1, 2, 3]


def test_a_failed_sequence_fails_the_request_and_stops_the_others():
    client = EchoClient(lambda request, choice: [65] * (3 + choice), broken="failed")
    with pytest.raises(EngineFailed) as caught:
        run(session(client), ask(n=2, width=2))
    assert "kernel" not in caught.value.message, "no internals"
    assert not client.live


def test_a_stream_that_ends_too_soon_is_an_error_not_a_hang():
    client = EchoClient()
    s = session(client)

    async def cut_off() -> None:
        generation = await s.start(ask())
        client.streams[0]._turns.clear()
        with pytest.raises(EngineFailed):
            await gather(generation)
        generation.close()

    asyncio.run(cut_off())
    assert not client.live and s.live == 0


def test_abort_by_the_head_of_an_id():
    client = EchoClient(says("a long answer"))
    s = session(client)

    async def go() -> list[str]:
        generations = [await s.start(ask(id=id)) for id in ("job-1", "job-2", "other")]
        assert s.abort("job") == 2
        reasons = [(await gather(g))[0].end.reason for g in generations]
        for generation in generations:
            generation.close()
        return reasons

    assert asyncio.run(go()) == ["abort", "abort", "stop"]
    assert s.abort("", everything=True) == 0


def test_an_abort_reaches_a_request_that_is_still_being_tokenised():
    client = EchoClient()
    s = session(client)

    async def go() -> str:
        task = asyncio.create_task(
            s.start(ask(prompts=(TextPrompt("a" * (THREAD_CHARS + 1)), TokenPrompt((1,))), id="slow"))
        )
        await asyncio.sleep(0)
        assert s.live == 1 and not client.requests
        assert s.abort("slow") == 1
        generation = await task
        ends = [whole.end.reason for whole in await gather(generation)]
        generation.close()
        return ends

    client.spec = with_spec(context=100_000)
    assert asyncio.run(go()) == ["abort", "abort"]
    assert not client.live and s.live == 0


def test_no_tokens_wanted_means_no_engine():
    client = EchoClient()
    wholes, generation = run(
        session(client), ask(max_tokens=0, prompts=(TextPrompt("ab"), TextPrompt("c")), n=2, width=2)
    )
    assert [(w.text, w.end.reason) for w in wholes] == [("", "length")] * 4
    assert (generation.usage().prompt, generation.usage().completion) == (3, 0)
    assert not client.requests


def test_cached_tokens_are_what_the_first_admission_found():
    client = EchoClient(cached=2)
    _, generation = run(session(client), ask(prompts=(TextPrompt("abc"), TextPrompt("abd")), n=2, width=2))
    assert generation.usage().cached == 4


@given(st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=4), min_size=6, max_size=6), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_best_of_keeps_the_highest_mean_logprob(said, n):
    client = EchoClient(lambda request, choice: said[request.prompt[0] * 3 + choice])
    wholes, generation = run(
        session(client), ask(prompts=(TokenPrompt((0,)), TokenPrompt((1,))), n=n, width=3, keep_tokens=True)
    )
    kept = winners(generation, n)
    assert len(kept) == 2 * n
    if n == 3:
        assert kept == list(range(6))
        return
    for p in range(2):
        mine, rest = kept[p * n : p * n + n], set(range(p * 3, p * 3 + 3)) - set(kept)
        scores = {i: sum(t.logprob.logprob for t in wholes[i].tokens) / len(wholes[i].tokens) for i in (*mine, *rest)}
        assert all(scores[i] >= scores[j] for i in mine for j in rest)
        assert [scores[i] for i in mine] == sorted((scores[i] for i in mine), reverse=True)


def test_long_texts_are_tokenised_off_the_event_loop():
    seen = []

    class Watching(ByteText):
        def encode(self, text, **kwargs):
            seen.append(threading.current_thread() is threading.main_thread())
            return [1]

    s = Session(Watching(), EchoClient(), ("echo",))
    run(s, ask(prompts=(TextPrompt("a"),)))
    run(s, ask(prompts=(TextPrompt("a" * (THREAD_CHARS + 1)),)))
    assert seen == [True, False]


def test_events_come_in_order_and_end_once():
    client = EchoClient(lambda request, choice: [*(b"xyz"[: choice + 1]), EOS], cuts=(2, 1))

    async def go() -> list:
        generation = await session(client).start(ask(n=3, width=3))
        events = [event async for batch in generation for event in batch]
        generation.close()
        return events

    events = asyncio.run(go())
    for choice in range(3):
        mine = [event for event in events if event.choice == choice]
        assert [type(event) for event in mine] == [Content] * (len(mine) - 1) + [End]
        assert "".join(event.text for event in mine[:-1]) == "xyz"[: choice + 1]
