"""Records and receipts of scripted answers: what stands in them, when they come, and that no change of them goes unseen."""

from __future__ import annotations

import asyncio
import base64
import json
import multiprocessing
import shutil
import subprocess
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from radixmill import verify
from radixmill.core.errors import CannotStart, NotReady
from radixmill.core.record import BadRecord, canonical, ids_hash, json_hash, load_json, to_record
from radixmill.core.request import choice_seed
from radixmill.front.session import Ask, Session, TextPrompt, gather
from radixmill.front.session import record as session_records
from radixmill.front.session.receipt import SigningKey, embedded_key, is_signed, key_id, public_pem, to_receipt
from radixmill.store.digest import Unhashed, WeightDigest
from tests.core.test_record import ODD, changed, places
from tests.fakes import EOS, SPEC, ByteText, EchoClient
from tests.front.kit import CHAT, HELLO, TEXT, answer, call, chunks, error, make_app, parse_sse, post, says
from tests.front.receipt_kit import HASHES, WEIGHTS, make_notary, parts, proven

CONSTRAINT = {"regex": "Hello"}
FULL = {"n": 2, "logprobs": True, "top_logprobs": 2, "temperature": 0.7, "frequency_penalty": 1, **CONSTRAINT}


# What stands in them.


def test_a_record_is_all_of_the_request_and_nothing_of_who_asked(tmp_path: Path) -> None:
    client = EchoClient()
    secret = {"cache_salt": "secret", "priority": 3, "rid": "me"}
    record, _ = parts(proven(tmp_path, {**FULL, **secret}, client=client))
    asked, (part,) = client.requests[0], record.requests
    assert part.request == replace(asked, tenant="", priority=0, arrived=0.0)
    assert [s.seed for s in part.sequences] == [str(choice_seed(5, 0)), str(choice_seed(5, 1))]
    assert [s.output for s in part.sequences] == [(*b"Hello", EOS)] * 2
    assert all(
        (s.reason, s.by, s.token) == ("stop", "engine", EOS) and len(s.logprobs or ()) == 6 for s in part.sequences
    )
    assert (record.numerics, record.tokenizer, record.template) == (SPEC.numerics, HASHES.tokenizer, HASHES.template)


def test_a_receipt_says_the_same_in_hashes(tmp_path: Path) -> None:
    whole = proven(tmp_path, FULL)
    record, receipt = parts(whole)
    (part,), (prompt,) = record.requests, receipt.prompts
    assert prompt.prompt == ids_hash(part.request.prompt) and prompt.prompt_tokens == len(part.request.prompt)
    assert prompt.sampling == part.request.sampling and prompt.constraint == json_hash(part.request.constraint)
    assert [c.output for c in prompt.choices] == [ids_hash((*b"Hello", EOS))] * 2
    assert receipt.weights == WEIGHTS and receipt.record == json_hash(record) and receipt.id == whole["id"][9:]
    assert receipt.created == whole["created"] and receipt.numerics == whole["system_fingerprint"]
    key = SigningKey(tmp_path / "key.pem").key().public_key()
    assert is_signed(whole["receipt"], key) and receipt.key == key_id(key)
    assert not [*verify.against_key(receipt, key), *verify.against_record(receipt, record, whole["record"])]


def test_a_stop_string_cuts_the_ids_at_the_token_that_completed_it(tmp_path: Path) -> None:
    record, _ = parts(proven(tmp_path, {"stop": ["ll"]}, client=EchoClient(cuts=(4,))))
    (sequence,) = record.requests[0].sequences
    assert (sequence.output, sequence.reason, sequence.by, sequence.token) == (tuple(b"Hell"), "stop", "front", None)


def test_prompts_scores_and_best_ofs_losers(tmp_path: Path) -> None:
    body = {"prompt": ["ab", "c"], "best_of": 2, "echo": True, "logprobs": 1, "record": True, "seed": 1}
    whole = answer(make_app(notary=make_notary(tmp_path)), TEXT, body)
    record = to_record(whole["record"])
    assert [len(part.sequences) for part in record.requests] == [2, 2] and len(whole["choices"]) == 2
    assert [s.seed for part in record.requests for s in part.sequences] == [str(choice_seed(1, i)) for i in range(4)]
    assert [len(part.prompt_logprobs or ()) for part in record.requests] == [1, 0]
    assert [part.request.prompt for part in record.requests] == [tuple(b"ab"), (ord("c"),)]


def test_nothing_generated_is_recorded_too(tmp_path: Path) -> None:
    body = {"prompt": "a", "max_tokens": 0, "record": True, "receipt": True}
    record, receipt = parts(answer(make_app(notary=make_notary(tmp_path)), TEXT, body))
    (sequence,) = record.requests[0].sequences
    assert (sequence.output, sequence.reason, sequence.by) == ((), "length", "engine")
    assert receipt.prompts[0].choices[0].output_tokens == 0


def test_each_answer_of_generate_has_its_own(tmp_path: Path) -> None:
    app = make_app(notary=make_notary(tmp_path))
    body = {"text": ["a", "b"], "sampling_params": {"n": 2, "seed": 1}, "record": True, "receipt": True}
    found = call(app, "POST", "/generate", json=body).json()
    for i, one in enumerate(found):
        record, receipt = parts(one)
        ((sequence,),) = (part.sequences for part in record.requests)
        assert sequence.seed == str(choice_seed(1, i % 2)) and record.requests[0].request.prompt == (97 + i // 2,)
        assert receipt.record == json_hash(record)


def test_off_is_absence(tmp_path: Path) -> None:
    app = make_app(notary=make_notary(tmp_path))
    for body in ({}, {"record": False, "receipt": None}):
        assert not {"record", "receipt"} & answer(app, CHAT, {**HELLO, **body}).keys()
    assert "receipt" not in answer(app, CHAT, {**HELLO, "record": True})
    assert "record" not in answer(app, CHAT, {**HELLO, "receipt": True})


# Fold(stream) == the whole answer.


def timeless(value: dict[str, Any]) -> Any:
    """A record or receipt without what depends on the clock."""
    return {key: part for key, part in value.items() if key not in ("created", "record", "signature", "id")}


@pytest.mark.parametrize("cuts", [(1,), (3, 1), (100,)])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_the_last_finish_chunk_of_a_stream_has_them(tmp_path: Path, path: str, cuts: tuple[int, ...]) -> None:
    body = {**(HELLO if path == CHAT else {"prompt": ["p", "q"]}), "n": 3, "seed": 5, "record": True, "receipt": True}
    script = lambda request, choice: [*b"xyz"[: choice + 1], EOS]  # noqa: E731
    app = make_app(EchoClient(script, cuts=cuts), notary=make_notary(tmp_path))
    said = chunks(app, path, body)
    bearing = [i for i, chunk in enumerate(said) if "record" in chunk or "receipt" in chunk]
    assert bearing == [len(said) - 1] and said[-1]["choices"][0]["finish_reason"]
    whole = answer(app, path, {**body, "rid": "other"})
    assert timeless(said[-1]["receipt"]) == timeless(whole["receipt"])
    ours, theirs = timeless(said[-1]["record"]), timeless(whole["record"])
    for part in (*ours["requests"], *theirs["requests"]):
        del part["request"]["id"]
    assert ours == theirs


def test_streams_of_generate_end_with_them(tmp_path: Path) -> None:
    app = make_app(notary=make_notary(tmp_path))
    body = {"text": "a", "sampling_params": {"n": 2, "seed": 1}, "record": True, "stream": True}
    said = parse_sse(call(app, "POST", "/generate", json=body).text)
    for index in (0, 1):
        own = [chunk for chunk in said if chunk["index"] == index]
        assert ["record" in chunk for chunk in own] == [False] * (len(own) - 1) + [True]
        assert own[-1]["record"]["requests"][0]["sequences"][0]["output"] == [*b"Hello", EOS]


def test_responses_and_messages_end_with_them_too(tmp_path: Path) -> None:
    app = make_app(notary=make_notary(tmp_path))
    asked = {"seed": 1, "record": True, "receipt": True}
    messages = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "model": "echo", **asked}
    for path, body in (("/v1/responses", {"input": "hi", "model": "echo", **asked}), ("/v1/messages", messages)):
        whole = call(app, "POST", path, json=body).json()
        record, receipt = parts(whole)
        assert record.requests[0].sequences[0].output == (*b"Hello", EOS) and receipt.record == json_hash(record)
        said = call(app, "POST", path, json={**body, "stream": True}).text
        data = [json.loads(line[6:]) for line in said.split("\n") if line.startswith("data: {")]
        bearing = [part for event in data for part in (event, event.get("response") or {}) if "receipt" in part]
        assert len(bearing) == 1
        assert to_record(bearing[0]["record"]).requests[0].sequences == record.requests[0].sequences


# Refusals, and waiting.


def test_without_invariance_there_are_no_receipts(tmp_path: Path) -> None:
    app = make_app(notary=make_notary(tmp_path, spec=replace(SPEC, invariant=False)))
    refusal = error(post(app, CHAT, {**HELLO, "receipt": True}), 400)
    assert refusal["param"] == "receipt" and "not available" in refusal["message"]
    assert "record" in answer(app, CHAT, {**HELLO, "record": True})


def test_a_session_without_a_notary_says_so() -> None:
    for name in ("record", "receipt"):
        assert error(post(make_app(), CHAT, {**HELLO, name: True}), 400)["param"] == name
    error(call(make_app(), "GET", "/receipt_key"), 404)


class Waiting(WeightDigest):
    """A hash that comes when the test says so."""

    def __init__(self) -> None:
        self.asked, self.work = threading.Event(), Future[str]()

    def start(self) -> Future[str]:
        self.asked.set()
        return self.work


def test_the_end_waits_for_the_weights_and_what_comes_before_does_not(tmp_path: Path) -> None:
    weights, client = Waiting(), EchoClient()
    app = make_app(client, notary=make_notary(tmp_path, weights=weights))
    done: list[Any] = []
    body = {**HELLO, "receipt": True}
    thread = threading.Thread(target=lambda: done.append(answer(app, CHAT, body)))
    thread.start()
    assert weights.asked.wait(10), "it is begun when the request comes"
    while client.live or not client.streams:  # all is generated
        pass
    assert thread.is_alive() and not done
    weights.work.set_result("cd" * 32)
    thread.join(10)
    assert done[0]["receipt"]["weights"] == "cd" * 32


def test_who_is_told_to_end_waits_no_more(tmp_path: Path) -> None:
    weights = Waiting()

    async def go() -> None:
        session = Session(ByteText(), EchoClient(), ("echo",), notary=make_notary(tmp_path, weights=weights))
        ask = Ask(id="a", model="echo", prompts=(TextPrompt("hi"),), receipt=True)
        generation = await session.start(ask)
        waiting = asyncio.ensure_future(gather(generation))
        while generation._left:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        generation.interrupt(NotReady("The server is shutting down."))
        with pytest.raises(NotReady, match="shutting down"):
            await asyncio.wait_for(waiting, 10)
        generation.close()

    asyncio.run(go())


@pytest.mark.parametrize("texts", [("hi",), ("hi", "ho")])
def test_an_abort_reaches_what_waits_for_the_weights(tmp_path: Path, texts: tuple[str, ...]) -> None:
    weights = Waiting()

    async def go() -> None:
        session = Session(ByteText(), EchoClient(), ("echo",), notary=make_notary(tmp_path, weights=weights))
        prompts = tuple(map(TextPrompt, texts))
        generation = await session.start(Ask(id="a", model="echo", prompts=prompts, receipt=True))
        waiting = asyncio.ensure_future(gather(generation))
        while generation._left:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert session.abort("a") == 1
        choices = await asyncio.wait_for(waiting, 10)
        assert [choice.end.reason for choice in choices].count("abort") == 1 and generation.proof is None
        generation.close()

    asyncio.run(go())


def test_a_request_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    app = make_app(notary=make_notary(tmp_path, weights=Waiting()))
    error(post(app, CHAT, {**HELLO, "receipt": True, "timeout": 0.3}), 408)


@pytest.mark.parametrize("stream", [False, True])
def test_weights_that_cannot_be_hashed_fail_the_request_truthfully(tmp_path: Path, stream: bool) -> None:
    weights = Waiting()
    weights.work.set_exception(Unhashed("m.gguf has changed since the model was loaded"))
    app = make_app(notary=make_notary(tmp_path, weights=weights))
    answered = post(app, CHAT, {**HELLO, "receipt": True, "stream": stream})
    fault = parse_sse(answered.text)[-1]["error"] if stream else error(answered, 500)
    assert "m.gguf has changed since the model was loaded" in fault["message"] and fault["code"] == "no_receipt"
    assert answer(app, CHAT, HELLO)["choices"], "others are served"


def test_a_key_that_cannot_be_used_fails_only_who_wants_a_receipt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "key.pem").write_text("secret words")
    (tmp_path / "key.pem").chmod(0o600)
    app = make_app(notary=make_notary(tmp_path))
    fault = error(post(app, CHAT, {**HELLO, "receipt": True}), 500)
    assert "log says why" in fault["message"] and str(tmp_path) not in fault["message"]
    assert "no Ed25519 key" in caplog.text and "secret words" not in caplog.text
    assert "record" in answer(app, CHAT, {**HELLO, "record": True})


# Keys.


def test_the_key_is_told_by_its_route_and_nowhere_else(tmp_path: Path) -> None:
    app = make_app(notary=make_notary(tmp_path))
    told = call(app, "GET", "/receipt_key").json()
    key = SigningKey(tmp_path / "key.pem").key()
    assert told == {"key": key_id(key.public_key()), "algorithm": "Ed25519", "pem": public_pem(key.public_key())}
    secret = (tmp_path / "key.pem").read_text().split("\n")[1]
    assert secret not in call(app, "GET", "/server_info").text and secret not in json.dumps(told)


def test_a_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key.pem"
    one, two = SigningKey(path).key(), SigningKey(path).key()
    assert one.private_bytes_raw() == two.private_bytes_raw()
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in path.parent.iterdir()] == ["key.pem"]


def _make(path: Path, gate: Any, found: Any) -> None:
    gate.wait()
    found.put(SigningKey(path).key().private_bytes_raw())


def test_servers_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, found = context.Event(), context.Queue()
    racers = [context.Process(target=_make, args=(tmp_path / "key.pem", gate, found)) for _ in range(8)]
    for racer in racers:
        racer.start()
    gate.set()
    assert len({found.get(timeout=60) for _ in racers}) == 1
    for racer in racers:
        racer.join(60)


@pytest.mark.parametrize(
    "mode, verdict", [(0o600, ""), (0o400, ""), (0o644, "warns"), (0o660, "refuses"), (0o602, "refuses")]
)
def test_modes(tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, verdict: str) -> None:
    SigningKey(tmp_path / "key.pem").key()
    (tmp_path / "key.pem").chmod(mode)
    if verdict == "refuses":
        with pytest.raises(CannotStart, match=r"overwritten by others.*chmod 600"):
            SigningKey(tmp_path / "key.pem").key()
    else:
        SigningKey(tmp_path / "key.pem").key()
        assert ("can be read by others" in caplog.text) == (verdict == "warns")


def pem_of(key: Any, encryption: Any = NoEncryption()) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100_000, b"-----BEGIN PRIVATE KEY-----\n", pem_of(x25519.X25519PrivateKey.generate())],
)
def test_files_that_are_no_keys(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(CannotStart, match="no Ed25519 key"):
        SigningKey(path).key()
    assert path.read_bytes() == content, "what is there is left alone"


def test_a_key_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match=r"cannot be used.*--receipt-key"):
        SigningKey(tmp_path / "file" / "key.pem").key()
    with pytest.raises(CannotStart, match="cannot be used"):
        SigningKey(tmp_path).key()


# Tampering.


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return proven(tmp_path_factory.mktemp("key"), FULL)


def verdict(whole: dict[str, Any], record: Any, receipt: Any) -> bool:
    """Whether a pair passes all that needs no model, under the key of the untouched receipt."""
    key = embedded_key(to_receipt(whole["receipt"]))
    try:
        typed_receipt, typed_record = to_receipt(receipt), to_record(record)
    except BadRecord:
        return False
    faults = [*verify.against_key(typed_receipt, key), *verify.against_record(typed_receipt, typed_record, record)]
    return is_signed(receipt, key) and not faults


def equal(one: Any, two: Any) -> bool:
    """The same JSON: as JavaScript has it, 1.0 is 1, but true is not."""
    return canonical(one) == canonical(two)


WHOLE_PLACES = st.sampled_from(["record", "receipt"])


@settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_any_field_goes_unseen(full: dict[str, Any], data: st.DataObject) -> None:
    assert verdict(full, full["record"], full["receipt"])
    name = data.draw(WHOLE_PLACES)
    path = data.draw(st.sampled_from(places(full[name])[1:]))
    new = changed(full[name], path, data.draw(st.sampled_from(ODD)))
    pair = {"record": full["record"], "receipt": full["receipt"], name: new}
    assert verdict(full, **pair) == equal(new, full[name])


@settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_any_byte_goes_unseen(full: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(WHOLE_PLACES)
    raw = bytearray(msgspec.json.encode(full[name]))
    at = data.draw(st.integers(0, len(raw) - 1))
    match data.draw(st.sampled_from(["put", "drop", "flip"])):
        case "put":
            raw.insert(at, data.draw(st.integers(0, 255)))
        case "drop":
            del raw[at]
        case _:
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        new = load_json(bytes(raw), name)
    except BadRecord:
        return
    pair = {"record": full["record"], "receipt": full["receipt"], name: new}
    assert verdict(full, **pair) == equal(new, full[name])


def test_fields_that_are_put_in_are_seen(full: dict[str, Any]) -> None:
    for name in ("record", "receipt"):
        for path in places(full[name]):
            place = full[name]
            for key in path:
                place = place[key]
            if isinstance(place, dict):
                new = changed(full[name], (*path, "priority"), 0) if path else {**full[name], "priority": 0}
                assert not verdict(full, **{"record": full["record"], "receipt": full["receipt"], name: new}), path


def test_bits_of_the_signature_that_say_nothing_are_seen(full: dict[str, Any]) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    signed = full["receipt"]["signature"]
    other = signed[:-3] + letters[letters.index(signed[-3]) + 1] + "=="
    assert base64.b64decode(other) == base64.b64decode(signed)
    assert not verdict(full, full["record"], {**full["receipt"], "signature": other})


def test_the_record_of_another_answer_is_seen(full: dict[str, Any], tmp_path: Path) -> None:
    other = proven(tmp_path, {**FULL, "seed": 6})
    key = embedded_key(to_receipt(full["receipt"]))
    record, receipt = to_record(other["record"]), to_receipt(full["receipt"])
    faults = "\n".join(verify.against_record(receipt, record, other["record"]))
    assert "record: its hash" in faults and "choices[0].seed" in faults
    assert not is_signed(other["receipt"], key), "the other server has another key"


# The command, as far as it needs no model.


def saved(folder: Path, name: str, value: Any) -> str:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    from radixmill.__main__ import main

    code = main(["verify", *argv, "--no-model"])
    out, err = capsys.readouterr()
    return code, out + err


def test_verify_by_key_by_parts_and_by_the_receipts_own_word(
    full: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = embedded_key(to_receipt(full["receipt"]))
    pem = saved(tmp_path, "pub.pem", public_pem(key))
    whole = saved(tmp_path, "answer.json", full)
    receipt, record = saved(tmp_path, "r.json", full["receipt"]), saved(tmp_path, "c.json", full["record"])
    assert run(capsys, whole, "--key", pem)[0] == 0
    code, said = run(capsys, receipt, "--record", record)
    assert code == 0 and "proves nothing of who signed it" in said
    assert "proves nothing" not in run(capsys, receipt, "--record", whole, "--key", pem)[1]
    other = saved(tmp_path, "other.pem", public_pem(Ed25519PrivateKey.generate().public_key()))
    code, said = run(capsys, whole, "--key", other)
    assert code == 1 and "FAILED signature" in said
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in ({"choices": []}, full)) + "data: [DONE]\n\n"
    assert run(capsys, saved(tmp_path, "stream.txt", stream), "--key", pem)[0] == 0


def test_verify_names_what_is_wrong(full: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = changed(full, ("record", "requests", 0, "sequences", 1, "output", 0), 7)
    code, said = run(capsys, saved(tmp_path, "a.json", bad))
    assert code == 1 and "FAILED record: its hash" in said and "FAILED prompts[0].choices[1].output" in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not JSON"),
        ("[]", "no receipt in the file"),
        ("{}", "no receipt in the file"),
        ('[{"receipt": {}}, {"receipt": {}}]', "2 of them"),
        ('{"receipt": 7}', "cannot be read"),
        ('{"receipt": {"format": "x"}}', "not of the format"),
        ("7", "cannot be read"),
        ("data: {", "not JSON"),
    ],
)
def test_verify_of_files_that_are_no_receipts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, says: str
) -> None:
    code, said = run(capsys, saved(tmp_path, "a.json", content))
    assert code == 2 and says in said and "Traceback" not in said


def test_verify_without_what_it_needs(full: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receipt = saved(tmp_path, "r.json", full["receipt"])
    assert run(capsys, receipt)[0] == 2
    assert run(capsys, str(tmp_path / "none.json"))[0] == 2
    code, said = run(capsys, receipt, "--record", receipt)
    assert code == 2 and "not of the format" in said
    whole = saved(tmp_path, "a.json", full)
    assert run(capsys, whole, "--key", str(tmp_path / "none.pem"))[0] == 2
    code, said = run(capsys, whole, "--key", whole)
    assert code == 2 and "no public key" in said
    code, said = run(capsys, whole, "--url", "http://127.0.0.1:9")
    assert code == 2 and "does not tell its key" in said


@pytest.mark.skipif(not shutil.which("openssl") or not shutil.which("jq"), reason="openssl and jq are not here")
def test_by_hand_as_the_docs_say(full: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path, "answer.json", msgspec.json.encode(full).decode())
    key = embedded_key(to_receipt(full["receipt"]))
    saved(tmp_path, "key.pem", public_pem(key))
    page = Path(__file__).parents[2] / "docs" / "receipts.md"
    script = page.read_text().split("```sh\n# by hand\n")[1].split("```")[0]
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True)
    assert "Signature Verified Successfully" in done.stdout, done
    saved(tmp_path, "answer.json", changed(full, ("receipt", "created"), 1))
    assert subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True).returncode


# Records of failures.


def failing(folder: Path, **world: Any) -> tuple[Any, EchoClient]:
    client = EchoClient(says("Hel", end=()), broken="failed", **world)
    return make_app(client, notary=make_notary(folder, records=folder / "records")), client


def until_saved(folder: Path, count: int) -> list[Path]:
    for thread in threading.enumerate():
        if thread.name == "radixmill-record":
            thread.join(10)
    found = sorted((folder / "records").glob("*.json"))
    assert len(found) == count
    return found


def test_what_the_engine_failed_is_saved(tmp_path: Path) -> None:
    app, _ = failing(tmp_path)
    error(post(app, CHAT, {**HELLO, "rid": "../../etc/passwd", "logprobs": True}), 500)
    (path,) = until_saved(tmp_path, 1)
    assert path.stat().st_mode & 0o777 == 0o600 and "etc_passwd" in path.name
    record = to_record(load_json(path.read_bytes(), "it"))
    (sequence,) = record.requests[0].sequences
    assert (sequence.output, sequence.reason, sequence.detail) == (tuple(b"Hel")[:2], "failed", "kernel 7 exploded")


def test_what_goes_well_is_not(tmp_path: Path) -> None:
    app = make_app(notary=make_notary(tmp_path, records=tmp_path / "records"))
    whole = answer(app, CHAT, HELLO)
    assert "record" not in whole and not (tmp_path / "records").exists()


def test_a_disk_that_is_full_disturbs_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app, client = failing(tmp_path)
    (tmp_path / "records").write_text("a file where the folder should be")
    for _ in range(3):
        error(post(app, CHAT, HELLO), 500)
    for thread in [thread for thread in threading.enumerate() if thread.name == "radixmill-record"]:
        thread.join(10)
    assert caplog.text.count("cannot be saved") == 1
    client.broken = ""
    assert answer(app, CHAT, HELLO)["choices"]


def test_a_storm_of_failures_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_records, "MOST_SAVED", 2)
    app, _ = failing(tmp_path)
    for _ in range(4):
        error(post(app, CHAT, HELLO), 500)
    until_saved(tmp_path, 2)
