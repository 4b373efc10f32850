"""How much memory a gpt-oss of random weights takes, from MXFP4 safetensors in several files, in the `fast` mode:

    python -m tests.device.resident [--layers 2] [--hidden 2880] [--experts 32] [--vocab 201088] [--shard 1000]

Writes the files, opens them in a process of its own, runs a prompt and some steps, and prints what /proc says of it.
`anon` is what the process holds itself, `file` what it has mapped and touched, `peak` the most of both together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

MB = 1_000_000
HEADS, KV_HEADS, DIM = 64, 8, 64


class Memory(NamedTuple):
    """Bytes of one process."""

    anon: int
    file: int
    peak: int


@dataclass(frozen=True)
class Sizes:
    """Of the model; the rest is gpt-oss-20b's. `shard`: MB of one file at most, if its tensors allow it."""

    layers: int = 2
    hidden: int = 2880
    experts: int = 32
    vocab: int = 201_088
    shard: int = 1000

    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["GptOssForCausalLM"], "vocab_size": self.vocab, "hidden_size": self.hidden,
            "intermediate_size": self.hidden, "num_hidden_layers": self.layers, "num_local_experts": self.experts,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM, "torch_dtype": "bfloat16",
            "max_position_embeddings": 131_072, "quantization_config": {"quant_method": "mxfp4"},
        }  # fmt: skip

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """All of them, one after another: bf16 (as float16 of the same size: nobody looks at its values) and MXFP4."""
        rng, hidden = np.random.default_rng(0), self.hidden

        def floats(*shape: int) -> np.ndarray:
            return (rng.random(shape, np.float32) * np.float32(0.1) - np.float32(0.05)).astype(np.float16)

        yield "model.embed_tokens.weight", floats(self.vocab, hidden)
        for i in range(self.layers):
            layer = f"model.layers.{i}."
            for name, rows, columns in (
                ("self_attn.q_proj", HEADS * DIM, hidden), ("self_attn.k_proj", KV_HEADS * DIM, hidden),
                ("self_attn.v_proj", KV_HEADS * DIM, hidden), ("self_attn.o_proj", hidden, HEADS * DIM),
                ("mlp.router", self.experts, hidden),
            ):  # fmt: skip
                yield f"{layer}{name}.weight", floats(rows, columns)
                yield f"{layer}{name}.bias", floats(rows)
            yield f"{layer}self_attn.sinks", floats(HEADS)
            for name, rows in (("gate_up_proj", 2 * hidden), ("down_proj", hidden)):
                shape = (self.experts, rows, hidden // 32)
                yield f"{layer}mlp.experts.{name}_blocks", rng.integers(0, 256, (*shape, 16), np.uint8)
                yield f"{layer}mlp.experts.{name}_scales", rng.integers(118, 122, shape, np.uint8)
                yield f"{layer}mlp.experts.{name}_bias", floats(self.experts, rows)
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"{layer}{name}.weight", np.float16(1) + floats(hidden)
        yield "model.norm.weight", np.float16(1) + floats(hidden)
        yield "lm_head.weight", floats(self.vocab, hidden)


@dataclass
class Shards:
    """Files that are written as soon as they are full."""

    folder: Path
    most: int  # bytes of tensors in one
    waiting: dict[str, np.ndarray] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def add(self, name: str, values: np.ndarray) -> None:
        if self.waiting and sum(a.nbytes for a in self.waiting.values()) + values.nbytes > self.most:
            self.flush()
        self.waiting[name] = values

    def flush(self) -> None:
        self.count += 1
        file = f"model-{self.count:05d}.safetensors"
        save_file(self.waiting, self.folder / file)
        self.where |= dict.fromkeys(self.waiting, file)
        self.waiting = {}


def write(folder: Path, sizes: Sizes) -> int:
    """Bytes of all weights' files."""
    shards = Shards(folder, sizes.shard * MB)
    for name, values in sizes.tensors():
        shards.add(name, values)
    shards.flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards.where}))
    (folder / "config.json").write_text(json.dumps(sizes.config()))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def memory() -> Memory:
    """Of this process, as /proc has it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    anon, file, peak = (int(lines[key].split()[0]) << 10 for key in ("RssAnon", "RssFile", "VmHWM"))
    return Memory(anon, file, peak)


def serve(folder: Path, prompt: int = 200, tokens: int = 8) -> dict[str, Memory]:
    """What this process takes before, with the model loaded, and after it has run."""
    from radixmill.core.config import CacheOptions, ComputeOptions, Config, ScheduleOptions
    from radixmill.core.request import SamplingParams
    from radixmill.device.executor import open_executor
    from radixmill.store import ModelFiles
    from tests.device.model_kit import generate

    before = memory()
    config = Config(
        compute=ComputeOptions(compute="fast", backend="cpu"),
        cache=CacheOptions(max_total_tokens=1024),
        schedule=ScheduleOptions(max_running_requests=2),
    )
    executor = open_executor(config, ModelFiles("m", folder))
    loaded = memory()
    prompts = [[(7 * i + r) % 1000 for i in range(prompt)] for r in range(2)]
    outputs = generate(executor, prompts, SamplingParams(max_tokens=tokens, temperature=0.0))
    assert [len(output) for output in outputs] == [tokens] * 2
    return {"before": before, "loaded": loaded, "ran": memory()}


def measure(sizes: Sizes) -> tuple[int, dict[str, Memory]]:
    """Bytes of the files, and serve() of a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        nbytes = write(Path(folder), sizes)
        command = [sys.executable, "-m", "tests.device.resident", "--serve", folder]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout)
    return nbytes, {when: Memory(*values) for when, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a gpt-oss of random weights")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    for name, default in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = vars(parser.parse_args())
    if folder := asked.pop("serve"):
        print(json.dumps(serve(folder)))
        return
    nbytes, found = measure(Sizes(**asked))
    print(f"files {nbytes / MB:8.0f} MB")
    for when, (anon, file, peak) in found.items():
        print(
            f"{when:6} anon {anon / MB:6.0f} MB, file {file / MB:6.0f}, peak {peak / MB:6.0f}; "
            f"of the files' bytes {(anon + file) / nbytes:.3f}, peak {peak / nbytes:.3f}"
        )
    sys.exit((found["ran"].anon + found["ran"].file) > 1.1 * nbytes)


if __name__ == "__main__":
    main()
