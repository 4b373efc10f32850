"""What the architectures share: sizes, ropes, windows, experts → the words of config.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from radixmill.core.errors import BadModel
from radixmill.device.loader.gguf_families.keys import Metadata
from radixmill.device.loader.llama3 import llama3_scaling

Words = dict[str, Any]


def sizes(keys: Metadata) -> Words:
    """What every architecture has."""
    file, hidden, heads = keys.file, keys.whole("embedding_length"), keys.whole("attention.head_count")
    embedding = file.tensors.get("token_embd.weight")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers(keys),
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", heads),
        "max_position_embeddings": keys.whole("context_length"),
        "vocab_size": embedding.shape[0] if embedding else keys.whole("vocab_size"),
        "tie_word_embeddings": not keys.has("output.weight"),
    }


def layers(keys: Metadata) -> int:
    """Of the model itself: those that predict more than one token ahead are counted too in the file, and come last."""
    count, ahead = keys.whole("block_count"), keys.whole("nextn_predict_layers", 0, least=0)
    if ahead >= count:
        raise BadModel(f"{keys.file.path}: {ahead} of {count} layers are for predicting ahead, none is left")
    return count - ahead


def rms_norms(keys: Metadata) -> Words:
    return {"rms_norm_eps": keys.real("attention.layer_norm_rms_epsilon")}


def layer_norms(keys: Metadata) -> Words:
    keys.inert("attention.layer_norm_rms_epsilon")
    return {"layer_norm_eps": keys.real("attention.layer_norm_epsilon")}


def head_dim(keys: Metadata) -> int:
    """One size for keys and values, of all layers."""
    hidden, heads = keys.whole("embedding_length"), keys.whole("attention.head_count")
    dim = keys.whole("attention.key_length", max(hidden // heads, 1))
    for key in ("attention.value_length", "attention.key_length_swa", "attention.value_length_swa"):
        if (other := keys.whole(key, dim)) != dim:
            raise BadModel(f"{keys.file.path}: {keys.prefix}{key} is {other}, keys have {dim}; both must be the same")
    return dim


def whole_heads(keys: Metadata) -> Words:
    """Heads that turn with all their numbers."""
    dim = head_dim(keys)
    if (turned := _turned(keys, dim)) != dim:
        raise BadModel(
            f"{keys.file.path}: only {turned} of a head's {dim} dimensions are rotated, which is not supported"
        )
    return {"head_dim": dim}


def part_heads(keys: Metadata) -> tuple[Words, float]:
    """Heads of which the first numbers turn, and their share."""
    dim = head_dim(keys)
    turned = _turned(keys, dim)
    if turned > dim:
        raise BadModel(f"{keys.file.path}: {turned} of a head's {dim} dimensions are to be rotated")
    return {"head_dim": dim}, turned / dim


def _turned(keys: Metadata, dim: int) -> int:
    turned = keys.whole("rope.dimension_count", dim)
    if (other := keys.whole("rope.dimension_count_swa", turned)) != turned:
        raise BadModel(f"{keys.file.path}: layers with a window rotate {other} dimensions of a head, others {turned}")
    return turned


def rope(keys: Metadata, theta: float = 10_000.0) -> Words:
    """The one rope of all layers. `theta`: where the file doesn't say."""
    scaling = rope_scaling(keys)
    return {"rope_theta": keys.real("rope.freq_base", theta), **({"rope_scaling": scaling} if scaling else {})}


def rope_scaling(keys: Metadata) -> Words | None:
    if keys.has("rope_freqs.weight"):
        keys.inert("rope.scaling.type")
        return llama3_scaling(keys.file, keys.real("rope.freq_base", 10_000.0))
    kind = keys.get("rope.scaling.type")
    if kind == "yarn":
        return _yarn(keys)
    if kind not in (None, "none", "linear"):
        raise BadModel(f"{keys.file.path}: rope scaling {kind!r:.40} is not supported")
    keys.inert("rope.scaling.original_context_length")
    factor = keys.real("rope.scaling.factor", keys.real("rope.scale_linear", 1.0))
    return {"rope_type": "linear", "factor": factor} if factor != 1 and kind != "none" else None


def _yarn(keys: Metadata) -> Words:
    original = keys.whole("rope.scaling.original_context_length", keys.whole("context_length"))
    scaling: Words = {
        "rope_type": "yarn",
        "factor": keys.real("rope.scaling.factor"),
        "original_max_position_embeddings": original,
    }
    optional = {"yarn_attn_factor": "attention_factor", "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
    for key, name in {**optional, "attn_factor": "attention_factor"}.items():
        if keys.get(f"rope.scaling.{key}") is not None:
            scaling[name] = keys.real(f"rope.scaling.{key}")
    if keys.get("rope.scaling.yarn_ext_factor") != 1.0:  # 1 is full YaRN
        keys.refuse("rope.scaling.yarn_ext_factor")
    return scaling


def layer_types(keys: Metadata, every: int) -> list[str]:
    """Each `every`th layer looks at all positions, the others at a window; a file may say another period, or list them."""
    count, key = layers(keys), "attention.sliding_window_pattern"
    pattern = keys.raw(key, every)
    if isinstance(pattern, np.ndarray):
        windowed = [bool(flag) for flag in pattern[:count]]
    else:
        period = keys.whole(key, every)
        windowed = [(i + 1) % period != 0 for i in range(count)]
    if len(windowed) != count:
        raise BadModel(f"{keys.file.path}: {keys.prefix}{key} is for {len(windowed)} layers, the model has {count}")
    return ["sliding_attention" if flag else "full_attention" for flag in windowed]


def query_scalar(keys: Metadata, large: int) -> int:
    """The head size; but hidden size over heads in the 27B models, which the file's makers tell by their layers alone."""
    hidden, heads = keys.whole("embedding_length"), keys.whole("attention.head_count")
    return hidden // heads if layers(keys) == large else head_dim(keys)


def experts(keys: Metadata, count: str) -> Words:
    """`count`: what the family calls the number of experts."""
    number, used = keys.whole("expert_count"), keys.whole("expert_used_count")
    if used > number:
        raise BadModel(f"{keys.file.path}: {used} of {number} experts are to be used for a token")
    return {count: number, "num_experts_per_tok": used}


def expert_inner(keys: Metadata, of: str = "ffn_down_exps") -> int:
    """The width of an expert, or of what `of` names: its key, else what the first such tensor has."""
    key = "expert_feed_forward_length" if of == "ffn_down_exps" else "expert_shared_feed_forward_length"
    shapes = (info.shape for name, info in keys.file.tensors.items() if name.endswith(f".{of}.weight"))
    return keys.whole(key, next(shapes, (None,))[-1])


def dense_layers(keys: Metadata) -> list[int]:
    """Layers without a router, in a mixture of experts."""
    return [i for i in range(layers(keys)) if not keys.has(f"blk.{i}.ffn_gate_inp.weight")] if _tensors(keys) else []


def leading_dense(keys: Metadata) -> int:
    """How many layers come before the first with a router; some files' keys don't say."""
    count, dense = keys.whole("leading_dense_block_count", 0, least=0), dense_layers(keys)
    return len(dense) if dense == list(range(len(dense))) and _tensors(keys) else count


def fixed(keys: Metadata, key: str, *values: Any) -> None:
    """A key that may be there as long as it says one of `values`; another is left to be refused by name."""
    if keys.get(key) not in (None, *values):
        keys.refuse(key)


def _tensors(keys: Metadata) -> bool:
    """Whether the file has any; headers alone are enough for a model of random weights."""
    return keys.has("token_embd.weight")
