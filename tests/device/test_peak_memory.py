"""Loading takes the memory of the packed model and of what is being read, not of the files that were read already."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from radixmill.device.kernels import native_isa
from tests.device.model_kit import shapes
from tests.device.test_loader_fp8 import save

pytestmark = [
    pytest.mark.skipif(not native_isa(), reason="the compiled kernels are not installed"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux"),
]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 64,
}  # fmt: skip
SHARD = 2  # layers
SLACK = 24 << 20  # of the interpreter's own

LOAD = """
import sys
from pathlib import Path
from radixmill.device.kernels import native_isa, open_backend
from radixmill.device.layers import Build
from radixmill.device.loader import open_checkpoint
from radixmill.device.models import Decoder, family
from radixmill.store import ModelFiles

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))

checkpoint, ops = open_checkpoint(ModelFiles("m", Path(sys.argv[1]))), open_backend("cpu", "fast", 1, native_isa())
kind = family(checkpoint.config)
build = Build(ops, checkpoint, 64)
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
model = Decoder(build, kind, kind.config.from_hf(checkpoint.config), checkpoint.names)
print(build.nbytes, memory("VmHWM") - before)
"""


def loaded(path: Path) -> tuple[int, int]:
    """Bytes of the packed model, and how far memory rose meanwhile."""
    run = subprocess.run([sys.executable, "-c", LOAD, str(path)], check=True, capture_output=True, text=True)
    packed, rose = map(int, run.stdout.split())
    return packed, rose


def test_a_folder_in_shards(tmp_path: Path) -> None:
    values = np.full(4 << 20, 0x3C00, np.uint16)  # of bfloat16; what they are does not matter
    shards: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    for name, shape in shapes(CONFIG).items():
        layer = int(name.split(".")[2]) // SHARD if ".layers." in name else 99
        count = int(np.prod(shape))
        shards.setdefault(f"model-{layer:02}.safetensors", {})[name] = "BF16", values[:count].reshape(shape)
    for file, tensors in shards.items():
        save(tmp_path / file, tensors)
    index = {name: file for file, tensors in shards.items() for name in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    largest = max((tmp_path / file).stat().st_size for file in shards)
    packed, rose = loaded(tmp_path)
    assert len(shards) == 7 and packed > 4 * (largest + SLACK)
    assert rose <= packed + largest + SLACK


def test_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    _write(path)
    read = 3 * 2 * 4096 * 1024 * 34 // 32  # gates and ups, the most that is read at once: in the file, stacked, packed
    packed, rose = loaded(path)
    assert packed > 4 * (read + SLACK)
    assert rose <= packed + read + SLACK


def _write(path: Path) -> None:
    """Q8_0, all alike."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, CONFIG["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(128)
    writer.add_vocab_size(CONFIG["vocab_size"])
    block = np.zeros(34, np.uint8)
    block[1] = 0x3C
    rows = np.tile(block, (4096, 4096 // 32))
    for name, shape in shapes(CONFIG).items():
        ours = names.get_name(name, (".weight",))
        if len(shape) == 1:
            writer.add_tensor(ours, np.ones(shape, np.float32))
        else:
            data = np.ascontiguousarray(rows[: shape[0], : shape[1] // 32 * 34])
            writer.add_tensor(ours, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
