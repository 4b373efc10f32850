"""Real servers for tests: started by the command line, found by their ready line, ended by process id."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.front import openapi

READY = re.compile(r"ready to roll! (http://\S+) serves (\S+) after ([0-9.]+) s")


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""
    model: str = ""
    seconds: float = 0.0
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(timeout=120, trust_env=False)

    def pids(self, role: str) -> list[int]:
        """Process ids of the children that play this role."""
        found = []
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if role.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(int(pid))
        return found

    def kill(self, role: str = "engine") -> bool:
        """SIGKILL to one of our own children; whether there was one."""
        for pid in self.pids(role):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def post(self, route: str, **body: Any) -> httpx.Response:
        return judged(self.client.post(f"{self.url}{route}", json=body))

    def get(self, route: str) -> httpx.Response:
        return judged(self.client.get(f"{self.url}{route}"))

    def stop(self, patience: float = 60.0) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def judged(answer: httpx.Response) -> httpx.Response:
    """An answer that is what the published schema says, where its route is published."""
    faults = openapi.judge(answer.request.method, answer.request.url.path, answer)
    assert not faults, "\n".join(faults)
    return answer


SERVE = (sys.executable, "-m", "radixmill", "serve")


@contextlib.contextmanager
def serving(
    model: str | Path,
    *flags: str,
    folder: Path,
    patience: float = 120.0,
    command: Sequence[str] = SERVE,
    environment: dict[str, str] | None = None,
    log_to: str = "",
    port: int = 0,
) -> Iterator[Server]:
    """A server on a free port; `folder` gets its log. `log_to`: a path that takes it instead, of which nothing is read;
    `port` must then be given."""
    log = folder / "server.log"
    log.touch()
    argv = [*command, *([str(model)] if model else []), "--port", str(port), *flags]
    with (Path(log_to) if log_to else log).open("wb") as sink:
        process = subprocess.Popen(argv, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=environment)
    server = Server(process, log)
    try:
        if log_to:
            server.url = f"http://127.0.0.1:{port}"
            _await_answer(server, patience)
        else:
            _await_ready(server, patience)
        yield server
    finally:
        server.stop()


def folders() -> set[str]:
    """The private folders of all servers on this machine."""
    places = {tempfile.gettempdir(), *(["/dev/shm"] if os.path.isdir("/dev/shm") else [])}
    return {f"{place}/{name}" for place in places for name in os.listdir(place) if name.startswith("radixmill-")}


def folder_of(server: Server) -> Path:
    """The server's private folder: the one that its engine's page lies in."""
    maps = Path(f"/proc/{server.pids('engine')[0]}/maps").read_text()
    return next(path for path in map(Path, folders()) if str(path) in maps)


def _await_ready(server: Server, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        text = server.log.read_text(errors="replace")
        if hit := READY.search(text):
            server.url, server.model, server.seconds = hit[1], hit[2], float(hit[3])
            return
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended with {server.process.returncode}:\n{text}")
        time.sleep(0.02)
    raise AssertionError(f"not ready after {patience} s:\n{server.log.read_text(errors='replace')}")


def _await_answer(server: Server, patience: float) -> None:
    """Ready, by its own word over HTTP."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if server.client.get(f"{server.url}/ready").status_code == 200:
                return
        assert server.process.poll() is None, f"the server ended with {server.process.returncode}"
        time.sleep(0.05)
    raise AssertionError(f"not ready after {patience} s")


def run_cli(*argv: str, timeout: float = 180.0) -> subprocess.CompletedProcess[str]:
    """One command of ours, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "radixmill", *argv],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


async def stream(
    url: str, body: dict[str, Any], *, route: str = "/v1/completions", on_chunk: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """One streaming request, folded: text, ids, finish reasons and usage per choice."""
    folded: dict[str, Any] = {"text": {}, "thoughts": {}, "finish": {}, "usage": None, "tokens": {}, "logprobs": {}}
    request = {
        "model": "default",
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        **body,
    }
    async with (
        httpx.AsyncClient(timeout=300, trust_env=False) as client,
        client.stream("POST", f"{url}{route}", json=request) as answer,
    ):
        if answer.status_code != 200:
            await answer.aread()
            raise AssertionError(f"{answer.status_code}: {answer.text}")
        heard = []
        async for line in answer.aiter_lines():
            heard.append(line)
            if line.startswith("data: {"):
                fold_chunk(folded, json.loads(line[6:]))
                on_chunk()
        judged(httpx.Response(200, headers=answer.headers, text="\n".join(heard), request=answer.request))
    return folded


def fold_chunk(folded: dict[str, Any], chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        raise AssertionError(f"error in the stream: {chunk['error']}")
    folded["usage"] = chunk.get("usage") or folded["usage"]
    for choice in chunk["choices"]:
        index = choice["index"]
        text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        folded["text"][index] = folded["text"].get(index, "") + text
        if thought := (choice.get("delta") or {}).get("reasoning_content"):
            thoughts = folded.setdefault("thoughts", {})
            thoughts[index] = thoughts.get(index, "") + thought
        folded["tokens"].setdefault(index, []).extend(choice.get("token_ids") or [])
        if (lp := choice.get("logprobs")) and "token_logprobs" in lp:
            folded["logprobs"].setdefault(index, []).extend(lp["token_logprobs"])
        if choice.get("finish_reason"):
            assert index not in folded["finish"], "a choice ended twice"
            folded["finish"][index] = choice["finish_reason"]


async def streams(url: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All at once."""
    return list(await asyncio.gather(*(stream(url, body) for body in bodies)))


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Equal folds: all that "byte-identical" means; cache hits may differ."""
    keys = ("text", "finish", "tokens", "logprobs")
    counts = [{k: d["usage"][k] for k in ("prompt_tokens", "completion_tokens")} for d in (one, two)]
    return all(one[key] == two[key] for key in keys) and counts[0] == counts[1]


TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "hidden_act": "silu",
}


def tiny_model(folder: Path, config: Mapping[str, Any] = TINY) -> Path:
    """A folder with a small model's config (a Llama's) and a byte tokenizer; its weights are `--load-format dummy`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<|bos|>", "<|im_end|>", "<|im_start|>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
