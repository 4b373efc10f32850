"""docs/models.md, from the registry of model families: python -m radixmill.families > docs/models.md

A row's name and paper are those with which the family's file begins.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType

from radixmill.device.kernels.reference.weights import FORMATS
from radixmill.device.loader.gguf_families import FAMILIES as GGUF
from radixmill.device.loader.grouped import BITS
from radixmill.device.models import MODULES
from radixmill.front.dialects import families as speak
from radixmill.front.dialects.dialect import Dialect

# What the best known checkpoints of an architecture speak. The server finds out for itself; this is for the table alone.
SPOKEN: Mapping[str, tuple[type[Dialect], ...]] = {
    "LlamaForCausalLM": (speak.Llama3, speak.Llama4, speak.Hermes, speak.DeepSeekR1),
    "MistralForCausalLM": (speak.Mistral, speak.MistralCompact),
    "Qwen2ForCausalLM": (speak.Hermes, speak.Qwen3, speak.DeepSeekR1),
    "Qwen3ForCausalLM": (speak.Qwen3, speak.Qwen3Thinking, speak.DeepSeekR1),
    "GraniteForCausalLM": (speak.Granite,),
    "SmolLM3ForCausalLM": (speak.Qwen3,),
    "Exaone4ForCausalLM": (speak.Qwen3,),
    "MixtralForCausalLM": (speak.Mistral,),
    "Qwen2MoeForCausalLM": (speak.Hermes,),
    "Qwen3MoeForCausalLM": (speak.Qwen3, speak.Qwen3Thinking, speak.Qwen3Coder),
    "Glm4MoeForCausalLM": (speak.Glm45, speak.Glm47),
    "GptOssForCausalLM": (speak.GptOss,),
    "GraniteMoeForCausalLM": (speak.Granite,),
    "GraniteMoeSharedForCausalLM": (speak.Granite,),
    "MiniMaxM2ForCausalLM": (speak.MiniMaxM2,),
    "DeepseekV3ForCausalLM": (speak.DeepSeekR1, speak.DeepSeekV31, speak.KimiK2),
    "Glm4MoeLiteForCausalLM": (speak.Glm47,),
}

HEAD = """# Models

Generated from `radixmill/device/models/` by `python -m radixmill.families > docs/models.md`. {count} architectures; each is
proved against `transformers` in float32 on tiny models whose numbers exercise every branch, and to give the same bits however
a prompt is cut and whoever shares the batch ([how](add-a-model.md)). A key of config.json that we do not know is refused by
name; `--allow-unknown-config` loads the model anyway.

## Formats

Every family is read from

- safetensors of F32, F16 or BF16, one file or many, by index;
- AWQ (4 bits, `gemm`) and GPTQ ({bits} bits, `gptq` and `gptq_v2`);
- packed integers of compressed-tensors (`pack-quantized`, {bits} bits);
- FP8 (E4M3) with scales of blocks, of rows, or of a whole matrix;
- MXFP4, experts as gpt-oss has them;

and, where the table names a GGUF architecture, from a GGUF file. Matrices of these kinds are computed as the file has them:
{kinds}; others are widened to F32. `--quantization w8` and `w4` quantise matrices of floats at load.

## Thoughts and calls

The last column names parsers that the best known checkpoints want. None need be set: the server finds out at start-up and
proves it on the model's own chat template ([parsers](parsers.md)). A dash: the template has calls of no family known to us, or
none; then thoughts in `<think>` are read, and calls in JSON as the system message asks for them.
"""

NOTES = """## Notes

**Long ropes.** Phi's LongRoPE has two sets of factors, for sequences within the pretrained length and beyond. `transformers`
changes over when a sequence grows beyond it, and computes its cache anew. Here the set is chosen once, by the context that the
server is opened with (`--context-length`): beyond the pretrained length the long one, else the short one, for short prompts
too. The choice is part of the numerics id. YaRN, and linear and Llama 3 scaling, turn alike at every length anyway. A dynamic
rope changes sequences longer than the model was made for alone, and none here is.

**Windows.** A window that no sequence fills, because the context is no longer, is none: its layers keep all, as the others do.

**Vision models** are served as their text half; towers and projectors are left in the file.
"""


def models_page() -> str:
    """docs/models.md."""
    count = sum(len(module.ARCHITECTURES) for module in MODULES)
    kinds, bits = ", ".join(FORMATS), _or(str(bits) for bits in BITS)
    lines = [HEAD.format(count=count, kinds=kinds, bits=bits)]
    for title, modules in _sections().items():
        lines += [f"## {title}", "", "| family | architectures | GGUF | thoughts; calls |", "|---|---|---|---|"]
        lines += [_row(module) for module in modules] + [""]
    return "\n".join([*lines, NOTES])


def title(module: ModuleType) -> str:
    """What a family is called: its file's first words, without who wrote of it."""
    words, _, _ = (module.__doc__ or "").partition(": ")
    return re.sub(r"\s+", " ", re.sub(r"\s*\([^)]*\)", "", words))


def _sections() -> dict[str, list[ModuleType]]:
    found: dict[str, list[ModuleType]] = {"Dense": [], "Mixtures of experts": [], "Latent attention": []}
    for module in MODULES:
        roles = module.FAMILY.weights.block
        kind = "Latent attention" if "kv_down" in roles else "Mixtures of experts" if "router" in roles else "Dense"
        found[kind].append(module)
    return found


def _row(module: ModuleType) -> str:
    paper = re.search(r"arXiv:[0-9.]+[0-9]", (module.__doc__ or "").partition(": ")[0])
    link = f" ([paper](https://arxiv.org/abs/{paper[0].removeprefix('arXiv:')}))" if paper else ""
    names = [name.removesuffix("ForCausalLM") for name in module.ARCHITECTURES]
    files = [name for name, gguf in GGUF.items() if set(gguf.models) & set(names)]
    cells = (title(module) + link, _code(module.ARCHITECTURES), _code(files), _spoken(module.ARCHITECTURES))
    return f"| {' | '.join(cells)} |"


def _spoken(architectures: Iterable[str]) -> str:
    dialects = [dialect for name in architectures for dialect in SPOKEN.get(name, ())]
    thoughts = dict.fromkeys(name for dialect in dialects for name in dialect.reasoning_parsers)
    calls = dict.fromkeys(name for dialect in dialects for name in dialect.tool_call_parsers[:1])
    return f"{_code(thoughts)}; {_code(calls)}" if dialects else _code(())


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "—"


def _or(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


if __name__ == "__main__":
    sys.stdout.write(models_page())
