"""Records and receipts of a real engine: computed again to the same bytes, after kills and on another start; and what differs is shown."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixmill import replay
from radixmill.core.errors import CannotStart
from radixmill.core.record import Record, to_record
from radixmill.front.api.app import create_app
from radixmill.front.dialects import THINKING
from radixmill.front.session.receipt import SigningKey, public_pem
from radixmill.llm import LLM
from tests.e2e.kit import run_cli, serving
from tests.front.kit import CHAT, TEXT, parse_sse

PROOF = {"record": True, "receipt": True}


class Live:
    """An app over a real engine."""

    def __init__(self, llm: LLM) -> None:
        self.llm, self.app = llm, create_app(llm.front)

    def answers(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        """All at once; of a stream the chunk that has the record."""
        return self.llm.call(self._answers(asked))

    async def _answers(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=None) as http:
            return list(await asyncio.gather(*(self._answer(http, *pair) for pair in asked)))

    async def _answer(self, http: httpx.AsyncClient, route: str, body: dict[str, Any]) -> Any:
        answer = await http.post(route, json={**PROOF, **body})
        assert answer.status_code == 200, f"{answer.text}\n{body}"
        if not body.get("stream"):
            return answer.json()
        (bearing,) = (chunk for chunk in parse_sse(answer.text) if "record" in chunk)
        return bearing

    def again(self, record: Record, **how: Any) -> replay.Outcome:
        """Without what the cache has of the first time."""
        self.llm.call(self.llm.session.client.control("flush_cache"))
        return replay.run(self.llm, record, progress=False, **how)


def live(model: str | Path, folder: Path, **settings: Any) -> Iterator[Live]:
    with LLM(str(model), receipt_key=str(folder / "key.pem"), **settings) as llm:
        yield Live(llm)


@pytest.fixture(scope="module")
def small(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    yield from live(tiny, tmp_path_factory.mktemp("key"), load_format="dummy", max_total_tokens=16384)


def mixed(seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Requests of many kinds, whose prompts are text."""
    base = {"prompt": f"Once upon a time, number {seed},", "max_tokens": 24, "seed": seed, "ignore_eos": True}
    return [
        (TEXT, {**base, "temperature": 0}),
        (TEXT, {**base, "n": 3, "temperature": 1.2, "top_k": 40, "min_p": 0.01, "stream": True}),
        (TEXT, {**base, "repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": -0.5}),
        (TEXT, {**base, "logprobs": 3, "echo": True, "logit_bias": {"65": 2.5}}),
        (TEXT, {**base, "prompt": ["a b c", "d e"], "best_of": 3, "n": 1}),
        (TEXT, {**base, "stop": list("etaoinshrdluETAOINSHRDLU01234567"), "logprobs": 1}),
        (TEXT, {**base, "regex": "[a-c]{5,9}", "ignore_eos": False}),
        (TEXT, {**base, "max_tokens": 0}),
        (TEXT, {**base, "max_tokens": 0, "echo": True, "logprobs": 2}),
        ("/generate", {"text": "x", "sampling_params": {"max_new_tokens": 9, "seed": seed}, "return_logprob": True}),
    ]


@pytest.fixture(scope="module")
def told(small: Live) -> list[Record]:
    return [to_record(answer["record"]) for answer in small.answers(mixed(1))]


def tokens(record: Record) -> int:
    return sum(len(sequence.output) for part in record.requests for sequence in part.sequences)


def test_every_kind_is_computed_again_to_the_same_bytes(small: Live, told: list[Record]) -> None:
    for record in told:
        outcome = small.again(record)
        assert not outcome.differences and outcome.tokens == tokens(record) and not outcome.open, record
    assert [bool(small.again(record).cut) for record in told].count(True) == 1, "the one with stop strings"


def test_resuming_behind_any_token_is_the_same(small: Live, told: list[Record]) -> None:
    for record in told:
        longest = max(len(sequence.output) for part in record.requests for sequence in part.sequences)
        for given in {1, 7, longest - 1, longest, longest + 5}:
            outcome = small.again(record, given=given)
            assert not outcome.differences, (given, outcome)
            assert outcome.tokens <= max(tokens(record) - 1, 0)


def edited(record: Record, sequence: int = 0, **changes: Any) -> Record:
    from msgspec.structs import replace

    part = record.requests[0]
    sequences = list(part.sequences)
    sequences[sequence] = replace(sequences[sequence], **changes)
    return replace(record, requests=(replace(part, sequences=tuple(sequences)), *record.requests[1:]))


def test_the_first_place_that_differs_is_found(small: Live, told: list[Record]) -> None:
    record = told[1]
    output = record.requests[0].sequences[2].output
    for at in (0, 11, len(output) - 1):
        other = (output[at] + 1) % 256
        (found,) = small.again(edited(record, 2, output=(*output[:at], other, *output[at + 1 :]))).differences
        assert (found.sequence, found.index, found.what) == (2, at, "token")
        assert (found.recorded, found.computed) == (other, output[at])
    (found,) = small.again(edited(record, 2, output=output[:-1])).differences
    assert (found.index, found.what) == (len(output) - 1, "end")
    (found,) = small.again(edited(record, 2, reason="stop")).differences
    assert found.what == "end" and found.recorded == ["stop", None] and found.computed == ["length", None]
    assert not small.again(edited(record, 2, output=output[:-1], reason="unfinished")).differences
    (found,) = small.again(edited(record, 1, seed="12345")).differences
    assert found.what == "token"


def test_logprobs_are_compared_to_the_last_bit(small: Live, told: list[Record]) -> None:
    from msgspec.structs import replace

    record = told[3]
    (sequence,) = record.requests[0].sequences
    assert sequence.logprobs and record.requests[0].prompt_logprobs
    nudged = list(sequence.logprobs)
    nudged[5] = replace(nudged[5], logprob=nudged[5].logprob * (1 + 2**-24))
    (found,) = small.again(edited(record, logprobs=tuple(nudged))).differences
    assert (found.index, found.what) == (5, "logprob")
    scores = list(record.requests[0].prompt_logprobs)
    scores[2] = replace(scores[2], logprob=scores[2].logprob - 1e-6)
    part = replace(record.requests[0], prompt_logprobs=tuple(scores))
    (found,) = small.again(replace(record, requests=(part,))).differences
    assert (found.index, found.what) == (2, "prompt_logprobs")


def test_another_numerics_id_is_refused_with_both(small: Live, told: list[Record]) -> None:
    from msgspec.structs import replace

    with pytest.raises(CannotStart, match=f"numerics id 0123, this model has {small.llm.spec.numerics}"):
        replay.run(small.llm, replace(told[0], numerics="0123"), progress=False)


@pytest.mark.parametrize(
    ("path", "new", "says"),
    [
        (("request", "prompt"), [300], "prompt has a token that is none"),
        (("request", "sampling", "max_tokens"), 10**6, "the context is"),
        (("request", "sampling", "temperature"), -1, "temperature"),
        (("request", "sampling", "logprobs"), 10**6, "logprobs"),
        (("request", "sampling", "logit_bias"), [[5, 1e9]], "logit_bias"),
        (("request", "sampling", "logit_bias"), [[999, 1]], "logit_bias has a token"),
        (("request", "thinking"), {"tokens": 1, "close": []}, "thinking"),
        (("request", "adapter"), "x", "adapter"),
        (("request", "constraint"), {"kind": "regex", "text": "("}, "constraint is refused"),
    ],
)
def test_a_record_that_no_front_would_have_made_reaches_no_engine(
    small: Live, told: list[Record], path: tuple[str, ...], new: Any, says: str
) -> None:
    import msgspec

    value = json.loads(msgspec.json.encode(told[0]))
    place = value["requests"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    with pytest.raises(CannotStart, match=says):
        replay.run(small.llm, to_record(value), progress=False)
    assert not small.again(told[0]).differences, "the engine lives on"


def said(llm: LLM) -> dict[int, int]:
    """Tokens of each sequence that is not at its end."""
    return {seq: len(record.output) for seq, record in list(llm.session.client._journal._live.items())}


def killing(llm: LLM, over: threading.Event, every: float, live: int = 1, most: int = 30) -> threading.Thread:
    """Kills the engine again and again, whenever there is one; the first time when it has that many sequences. On a busy
    machine `most` of them keep it from being given up."""

    def work() -> None:
        while llm.session.client.health().live < live and not over.is_set():
            time.sleep(0.01)
        killed, before = 0, said(llm)
        while not over.is_set() and killed < most:
            asked = llm.session.client._questions  # one that meets two deaths is refused
            ready = llm.session.client.health().state == "ready"
            # Only once it has said something: five in a row that have not are the last.
            if (pid := llm.engine_pid) is not None and ready and not asked and (not killed or said(llm) != before):
                before = said(llm)
                os.kill(pid, signal.SIGKILL)
                killed += 1
            over.wait(every)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_kills_on_the_way_change_nothing(small: Live) -> None:
    body = {"prompt": "A long one", "max_tokens": 300, "seed": 3, "n": 4, "ignore_eos": True, "logprobs": 1}
    before = small.llm.session.client.health().incarnation
    over = threading.Event()
    killer = killing(small.llm, over, 0.6)
    try:
        (answer,) = small.answers([(TEXT, body)])
        record = to_record(answer["record"])
        outcome = replay.run(small.llm, record, progress=False)
    finally:
        over.set()
        killer.join()
    assert small.llm.session.client.health().incarnation > before, "engines died"
    assert not outcome.differences and outcome.tokens == 1200
    small.llm.call(small.llm.session.client.ready())
    undisturbed = to_record(small.answers([(TEXT, body)])[0]["record"])
    assert undisturbed.requests[0].sequences == record.requests[0].sequences


# By the command line, against a real server.


@pytest.fixture(scope="module")
def served(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with an answer, and the server's key."""
    folder = tmp_path_factory.mktemp("served")
    flags = ("--load-format", "dummy", "--receipt-key", str(folder / "key.pem"), "--max-total-tokens", "8192")
    with serving(tiny, *flags, folder=folder) as server:
        body = {"prompt": "Hello", "max_tokens": 12, "seed": 4, "n": 2, "ignore_eos": True, **PROOF}
        answer = server.post(TEXT, **body).json()
        (folder / "answer.json").write_text(json.dumps(answer))
        done = run_cli("verify", str(folder / "answer.json"), "--url", server.url, "--no-model")
        assert done.returncode == 0, done.stderr
        info = server.get("/server_info").text
        assert (folder / "key.pem").read_text().split("\n")[1] not in info + server.log.read_text()
    (folder / "pub.pem").write_text(public_pem(SigningKey(folder / "key.pem").key().public_key()))
    return folder, answer


def test_replay_by_the_command_line(served: tuple[Path, dict[str, Any]]) -> None:
    folder, answer = served
    done = run_cli("replay", str(folder / "answer.json"))
    assert (done.returncode, done.stdout) == (0, "same bytes: 24 tokens in 2 sequences\n"), done.stderr
    assert "Replaying" in done.stderr
    bad = copy.deepcopy(answer["record"])
    output = bad["requests"][0]["sequences"][1]["output"]
    was, output[3] = output[3], 7
    (folder / "bad.json").write_text(json.dumps(bad))
    done = run_cli("replay", str(folder / "bad.json"))
    assert (
        done.returncode == 1
        and "request 0, sequence 1, token 3: recorded 7 " in done.stdout
        and f"now {was} " in done.stdout
    )
    done = run_cli("replay", str(folder / "bad.json"), "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["same"] is False and told["differences"][0]["index"] == 3
    done = run_cli("replay", str(folder / "answer.json"), "--page-size", "32")
    assert done.returncode == 2 and answer["record"]["numerics"] in done.stderr and "this model has" in done.stderr


def test_verify_by_the_command_line(served: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = served
    done = run_cli("verify", str(folder / "answer.json"), "--key", str(folder / "pub.pem"))
    assert done.returncode == 0 and done.stdout.endswith("same bytes: 24 tokens in 2 sequences\n"), done
    done = run_cli(
        "verify", str(folder / "answer.json"), "--key", str(folder / "pub.pem"), "--load-format", "safetensors"
    )
    assert done.returncode == 2 and "safetensors" in done.stderr


def test_a_server_with_a_key_that_cannot_be_used_does_not_start(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("nothing")
    done = run_cli(
        "serve", str(tiny), "--load-format", "dummy", "--port", "0", "--receipt-key", str(tmp_path / "key.pem")
    )
    assert done.returncode == 2 and "no Ed25519 key" in done.stderr and "Traceback" not in done.stderr


# The embedded model.

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def chats(seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Every feature whose bytes a receipt speaks of."""
    body = {
        "messages": [{"role": "user", "content": f"Tell me of {('Rome', 'bees', 'rain')[seed % 3]}."}],
        "max_tokens": 40,
        "seed": seed,
    }
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    return [
        (CHAT, {**body, "temperature": 0, "stream": True}),
        (CHAT, {**body, "n": 3, "stream": True, "logprobs": True, "top_logprobs": 5}),
        (CHAT, {**body, "frequency_penalty": 1.0, "repetition_penalty": 1.2, "top_p": 0.9}),
        (CHAT, {**body, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
        (CHAT, {**body, "tools": [WEATHER], "tool_choice": "required", "stream": True}),
        (CHAT, {**body, "stop": [".", "the"]}),
        (TEXT, {"prompt": "<think>\nLet me see", "max_tokens": 40, "seed": seed, "echo": True, "logprobs": 2}),
    ]


def thoughts(seed: int) -> tuple[str, dict[str, Any]]:
    """With a budget."""
    return "/generate", {"text": "<think>\nWell", "sampling_params": {"seed": seed}, "max_thinking_tokens": 8}


@pytest.mark.slow
@pytest.mark.weights
def test_streams_of_the_embedded_model_replay_and_verify(smollm2: Path, tmp_path: Path) -> None:
    asked = [pair for seed in range(3) for pair in chats(seed)]
    with LLM("smollm2-135m-instruct", receipt_key=str(tmp_path / "key.pem"), max_total_tokens=32768) as llm:
        first, over = Live(llm), threading.Event()
        killer = killing(llm, over, 1.5, live=2, most=3)
        try:
            answers = first.answers(asked)
        finally:
            over.set()
            killer.join()
        assert llm.session.client.health().incarnation > 1
        llm.session.text.dialect = THINKING
        answers += first.answers([thoughts(seed) for seed in range(3)])
    (tmp_path / "pub.pem").write_text(public_pem(SigningKey(tmp_path / "key.pem").key().public_key()))
    records = [to_record(answer["record"]) for answer in answers]
    assert sum(bool(part.request.thinking) for record in records for part in record.requests) == 3
    assert sum(bool(part.request.constraint) for record in records for part in record.requests) == 6
    with LLM("smollm2-135m-instruct", max_total_tokens=32768) as llm:
        second = Live(llm)
        for record in records:
            outcome = second.again(record)
            assert not outcome.differences, outcome
        assert not any(second.again(record, given=5).differences for record in records[::3])
    (tmp_path / "a.json").write_text(json.dumps(answers[4]))
    done = run_cli("verify", str(tmp_path / "a.json"), "--key", str(tmp_path / "pub.pem"), timeout=300)
    assert done.returncode == 0 and "same bytes" in done.stdout, done


@pytest.mark.weights
def test_another_model_is_named(smollm2: Path, tiny: Path, tmp_path: Path) -> None:
    with LLM("smollm2-135m-instruct", receipt_key=str(tmp_path / "key.pem"), max_total_tokens=16384) as llm:
        (answer,) = Live(llm).answers([(TEXT, {"prompt": "Hi", "max_tokens": 4})])
    (tmp_path / "a.json").write_text(json.dumps(answer))
    done = run_cli("verify", str(tmp_path / "a.json"), "--model", str(tiny), "--load-format", "dummy")
    assert done.returncode == 1
    assert all(f"FAILED {name}" in done.stdout for name in ("weights", "tokenizer", "template")), done
    done = run_cli("replay", str(tmp_path / "a.json"), "--kv-cache-dtype", "f32", timeout=300)
    assert done.returncode == 2 and "this model has" in done.stderr
    began = time.monotonic()
    done = run_cli("replay", str(tmp_path / "a.json"), "--isa", "portable", timeout=300)
    assert done.returncode == 2 and "numerics id" in done.stderr and time.monotonic() - began < 120
