"""GGUF metadata → the words of Hugging Face's config.json.

Keys as llama.cpp's converters write them (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A key of the
architecture that means nothing to us is passed on under its own name, so that who reads the configuration refuses it by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from radixmill.core.errors import BadModel
from radixmill.device.loader.llama3 import llama3_scaling
from radixmill.store import GGUFFile

# Keys that say nothing about the forward pass, or only what the tensors' own shapes say.
_INERT = frozenset({"vocab_size", "tensor_data_layout", "rope.scaling.finetuned"})


def gguf_config(file: GGUFFile) -> dict[str, Any]:
    """The configuration of a model that Hugging Face calls LlamaForCausalLM, Qwen2…, Qwen3…, Gemma2… or Gemma3ForCausalLM.

    Raises BadModel for another architecture, and where a needed key is missing or is not what it should be.
    """
    if file.architecture not in _FAMILIES:
        name = file.architecture or "(none)"
        raise BadModel(
            f"{file.path}: GGUF architecture {name!r} is not supported", f"These are: {', '.join(sorted(_FAMILIES))}"
        )
    keys = _Keys(file)
    config = {**_common(keys), **_FAMILIES[file.architecture](keys)}
    scaling = _rope_scaling(keys)
    if scaling:
        config["rope_scaling"] = scaling
    return {**config, **keys.rest()}


class _Keys:
    """The metadata of one architecture, and which of its keys were read."""

    def __init__(self, file: GGUFFile) -> None:
        self.file, self.prefix, self.read = file, file.architecture + ".", set(_INERT)

    def get(self, key: str) -> Any:
        self.read.add(key)
        value = self.file.metadata.get(self.prefix + key)
        if isinstance(value, np.ndarray):  # one value per layer
            if len(set(value.tolist())) != 1:
                raise BadModel(f"{self.file.path}: {self.prefix}{key} differs between layers, which is not supported")
            return value.tolist()[0]
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self._wrong(key, value, "a positive whole number")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        value = default if value is None else value
        if (
            not isinstance(value, int | float) or isinstance(value, bool) or not 1e-37 < value < 1e38
        ):  # what float32 holds
            raise self._wrong(key, value, "a positive number")
        return shortest(value)

    def rest(self) -> dict[str, Any]:
        """Keys of the architecture that nobody read."""
        names = (name for name in self.file.metadata if name.startswith(self.prefix))
        return {name: self.file.metadata[name] for name in names if name.removeprefix(self.prefix) not in self.read}

    def _wrong(self, key: str, value: Any, wanted: str) -> BadModel:
        found = "is missing" if value is None else f"is {value!r:.60}, not {wanted}"
        return BadModel(f"{self.file.path}: metadata {self.prefix}{key} {found}")


def shortest(value: float) -> float:
    """The shortest decimal that is this value in float32: metadata are float32, config.json has decimals."""
    return float(str(np.float32(value)))


def _common(keys: _Keys) -> dict[str, Any]:
    file, hidden, heads = keys.file, keys.whole("embedding_length"), keys.whole("attention.head_count")
    if (experts := keys.get("expert_count")) not in (None, 0):
        raise BadModel(f"{file.path} is a mixture of {experts} experts, which is not supported")
    keys.get("expert_used_count")
    embedding = file.tensors.get("token_embd.weight")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": keys.whole("block_count"),
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", heads),
        "head_dim": _head_dim(keys, hidden, heads),
        "rms_norm_eps": keys.real("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": keys.whole("context_length"),
        "vocab_size": embedding.shape[0] if embedding else keys.whole("vocab_size"),
        "rope_theta": keys.real("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _head_dim(keys: _Keys, hidden: int, heads: int) -> int:
    dim = keys.whole("attention.key_length", max(hidden // heads, 1))
    for key in ("attention.value_length", "attention.key_length_swa", "attention.value_length_swa"):
        if (other := keys.whole(key, dim)) != dim:
            raise BadModel(f"{keys.file.path}: {keys.prefix}{key} is {other}, keys have {dim}; both must be the same")
    for key in ("rope.dimension_count", "rope.dimension_count_swa"):
        if (turned := keys.whole(key, dim)) != dim:
            raise BadModel(
                f"{keys.file.path}: only {turned} of a head's {dim} dimensions are rotated, which is not supported"
            )
    return dim


def _llama(keys: _Keys) -> dict[str, Any]:
    tensors = keys.file.tensors
    biases = {"attention_bias": "blk.0.attn_q.bias" in tensors, "mlp_bias": "blk.0.ffn_gate.bias" in tensors}
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **biases}


def _qwen2(keys: _Keys) -> dict[str, Any]:
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu"}


def _qwen3(keys: _Keys) -> dict[str, Any]:
    bias = "blk.0.attn_q.bias" in keys.file.tensors
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "attention_bias": bias}


def _gemma2(keys: _Keys) -> dict[str, Any]:
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": keys.real("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": keys.real("final_logit_softcapping", 30.0),
        "sliding_window": keys.whole("attention.sliding_window", 4096),
        "layer_types": _layer_types(keys, every=2),
        "query_pre_attn_scalar": _query_scalar(keys, large=46),
    }


def _gemma3(keys: _Keys) -> dict[str, Any]:
    windowed = keys.get("attention.sliding_window") is not None
    softcap = keys.get("final_logit_softcapping")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None if softcap is None else keys.real("final_logit_softcapping"),
        "sliding_window": keys.whole("attention.sliding_window", 4096),
        "layer_types": _layer_types(keys, every=6 if windowed else 1),
        "query_pre_attn_scalar": _query_scalar(keys, large=62),
        "rope_theta": keys.real("rope.freq_base", 1_000_000.0),
        "rope_local_base_freq": keys.real("rope.freq_base_swa", 10_000.0),
    }


def _query_scalar(keys: _Keys, large: int) -> int:
    """The head size; but hidden size over heads in the 27B models, which the file's makers tell by their layers alone."""
    hidden, heads = keys.whole("embedding_length"), keys.whole("attention.head_count")
    return hidden // heads if keys.whole("block_count") == large else _head_dim(keys, hidden, heads)


def _layer_types(keys: _Keys, every: int) -> list[str]:
    """Each `every`th layer looks at all positions, the others at a window; a file may say another period, or list them."""
    layers, key = keys.whole("block_count"), "attention.sliding_window_pattern"
    keys.read.add(key)
    pattern = keys.file.metadata.get(keys.prefix + key, every)
    if isinstance(pattern, np.ndarray):
        windowed = [bool(flag) for flag in pattern[:layers]]
    else:
        period = keys.whole(key, every)
        windowed = [(i + 1) % period != 0 for i in range(layers)]
    if len(windowed) != layers:
        raise BadModel(f"{keys.file.path}: {keys.prefix}{key} is for {len(windowed)} layers, the model has {layers}")
    return ["sliding_attention" if flag else "full_attention" for flag in windowed]


def _rope_scaling(keys: _Keys) -> dict[str, Any] | None:
    if "rope_freqs.weight" in keys.file.tensors:
        keys.get("rope.scaling.type")
        return llama3_scaling(keys.file, keys.real("rope.freq_base", 10_000.0))
    kind = keys.get("rope.scaling.type")
    if kind == "yarn":
        return _yarn(keys)
    if kind not in (None, "none", "linear"):
        raise BadModel(f"{keys.file.path}: rope scaling {kind!r:.40} is not supported")
    keys.get("rope.scaling.original_context_length")
    factor = keys.real("rope.scaling.factor", keys.real("rope.scale_linear", 1.0))
    return {"rope_type": "linear", "factor": factor} if factor != 1 and kind != "none" else None


def _yarn(keys: _Keys) -> dict[str, Any]:
    original = keys.whole("rope.scaling.original_context_length", keys.whole("context_length"))
    scaling = {
        "rope_type": "yarn",
        "factor": keys.real("rope.scaling.factor"),
        "original_max_position_embeddings": original,
    }
    optional = {"yarn_attn_factor": "attention_factor", "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
    for key, name in {**optional, "attn_factor": "attention_factor"}.items():
        if keys.get(f"rope.scaling.{key}") is not None:
            scaling[name] = keys.real(f"rope.scaling.{key}")
    if keys.get("rope.scaling.yarn_ext_factor") == 1.0:  # 1 is full YaRN; any other value stays for refusal by name
        return scaling
    keys.read.discard("rope.scaling.yarn_ext_factor")
    return scaling


_FAMILIES: dict[str, Callable[[_Keys], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
}
