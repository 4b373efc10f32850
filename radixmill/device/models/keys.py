"""Reading config.json so that no key goes unnoticed: each is read, expected to have one value, known to be inert, or refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Activation
from radixmill.device.layers.rope import Divided, Linear, Llama3, LongRope, RopeSpec, Scaling, Yarn, yarn_magnitude

# Keys that change nothing in a forward pass: training, bookkeeping, defaults of generation, hints for other programs.
INERT = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _name_or_path _commit_hash architectures attention_dropout
    auto_map bad_words_ids begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label initializer_range is_llama_config label2id length_penalty max_length max_new_tokens
    min_length model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix pretraining_tp problem_type pruned_heads remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
    """.split()  # noqa: SIM905
)

# Keys that may be there as long as they say this.
EXPECTED: Mapping[str, Any] = {
    "add_cross_attention": False,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "partial_rotary_factor": 1.0,
    "per_layer_config": None,
    "quantization_config": None,
    "rope_interleaved": False,
}

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


class Keys:
    """One configuration dictionary, and which of its keys were asked for. `done` refuses the rest."""

    def __init__(self, values: Mapping[str, Any], where: str = "config.json", *, allow_unknown: bool = False) -> None:
        self.values, self.where, self.allow_unknown = values, where, allow_unknown
        self.known = set(INERT)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where the key is absent or null."""
        self.known.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self.get(key, default)
        if value is None:
            raise BadModel(f"{self.where} has no {key}")
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise BadModel(f"{self.where}: {key} is {value!r}, not a positive integer")
        return value

    def natural(self, key: str, default: int) -> int:
        """An integer, zero or above."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadModel(f"{self.where}: {key} is {value!r}, not an integer from 0 on")
        return value

    def number(self, key: str, default: float) -> float:
        """A number above zero."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise BadModel(f"{self.where}: {key} is {value!r}, not a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise BadModel(f"{self.where}: {key} is {value!r}, not true or false")
        return value

    def nullable_number(self, key: str, default: float | None) -> float | None:
        """A number above zero, or None where the file says null; `default` only where the key is absent."""
        value = self.nullable(key, default)
        return None if value is None else self.number(key, value)

    def nullable_count(self, key: str, default: int | None) -> int | None:
        value = self.nullable(key, default)
        return None if value is None else self.count(key, value)

    def nullable(self, key: str, default: Any) -> Any:
        """The value, null included; `default` only where the key is absent."""
        self.known.add(key)
        return self.values.get(key, default)

    def activation(self, key: str, default: str) -> Activation:
        name = self.get(key, default)
        if name not in ACTIVATIONS:
            raise BadModel(f"{self.where}: {key} {name!r} is not one of {', '.join(sorted(ACTIVATIONS))}")
        return ACTIVATIONS[name]

    def expect(self, key: str, *values: Any) -> None:
        """The key may be absent or null; if it says anything else than one of `values`, refuse it."""
        value = self.get(key)
        if value is not None and value not in values:
            allowed = " or ".join(repr(v) for v in values if v is not None) or "null"
            raise BadModel(f"{self.where}: {key} = {value!r} is not supported; only {allowed} is")

    def inert(self, *keys: str) -> None:
        """This family's keys that change nothing in a forward pass."""
        self.known.update(keys)

    def done(self) -> None:
        """Raises BadModel that names every key nobody asked for, unless such are allowed."""
        for key, value in EXPECTED.items():
            if key not in self.known:
                self.expect(key, value)
        unknown = sorted(set(self.values) - self.known)
        if unknown and not self.allow_unknown:
            raise BadModel(
                f"{self.where} has keys that we do not know: {', '.join(unknown)}",
                "They may change the results; --allow-unknown-config loads it anyway",
            )


def text_keys(hf: Mapping[str, Any], allow_unknown: bool, *vision: str) -> Keys:
    """The text model's keys; a vision model has them under text_config. `vision`: the outer keys that are about images."""
    outer = Keys(hf, allow_unknown=allow_unknown)
    text = outer.get("text_config")
    if text is None:
        return outer
    if not isinstance(text, Mapping):
        raise BadModel(f"config.json: text_config is {text!r}, not a dictionary")
    outer.inert("vision_config", *vision)
    tied = {key: hf[key] for key in ("tie_word_embeddings",) if outer.get(key) is not None}
    outer.done()
    return Keys({**text, **tied}, "config.json, text_config", allow_unknown=allow_unknown)


def rope(keys: Keys, positions: int, default_theta: float = 10_000.0, *inert: str) -> RopeSpec:
    """The one rope of all layers: `rope_theta` and `rope_scaling`, or both in `rope_parameters`."""
    theta = keys.number("rope_theta", default_theta)
    return rope_spec(keys, rope_parameters(keys), theta, positions, *inert)


def rope_parameters(keys: Keys) -> Mapping[str, Any]:
    """The one rope's dictionary: `rope_scaling`, which older files have, before `rope_parameters`, as transformers reads
    them."""
    new, old = keys.get("rope_parameters", {}), keys.get("rope_scaling", {})
    found = old or new
    if not isinstance(found, Mapping):
        raise BadModel(f"{keys.where}: rope parameters are {found!r}, not a dictionary")
    return found


def partial_rope(
    keys: Keys, positions: int, head_dim: int, factor: float = 1.0, default_theta: float = 10_000.0
) -> tuple[RopeSpec, int | None]:
    """The one rope of all layers, and how many of a head's numbers turn: None: all. `factor`: the family's share of them,
    where the file gives none."""
    inside = rope_parameters(keys).get("partial_rotary_factor")
    turned = int(head_dim * keys.number("partial_rotary_factor", factor if inside is None else inside))
    if turned % 2 or not 0 < turned <= head_dim:
        raise BadModel(f"{keys.where}: partial_rotary_factor turns {turned} of a head's {head_dim} numbers")
    spec = rope(keys, positions, default_theta, "partial_rotary_factor")
    return spec, None if turned == head_dim else turned


def two_ropes(keys: Keys, positions: int, theta: float, local_theta: float) -> tuple[RopeSpec, RopeSpec]:
    """(full layers', windowed layers'): one dictionary each in rope_parameters, or the older flat keys, where a scaling is
    for full layers alone."""
    both, old = keys.get("rope_parameters", {}), keys.get("rope_scaling", {})
    if unknown := sorted(set(both) - {"full_attention", "sliding_attention"}):
        raise BadModel(f"{keys.where}: rope_parameters has {', '.join(unknown)} where it should name kinds of layers")
    full = {**(both.get("full_attention") or {}), **old}
    local = both.get("sliding_attention") or {}
    return rope_spec(keys, full, theta, positions), rope_spec(keys, local, local_theta, positions)


def rope_spec(outer: Keys, parameters: Mapping[str, Any], theta: float, positions: int, *inert: str) -> RopeSpec:
    """One rope dictionary of those in `outer`, old or new style. `positions`: what the config calls
    max_position_embeddings; `inert`: keys that somebody else has read."""
    if not isinstance(parameters, Mapping):
        raise BadModel(f"{outer.where}: rope parameters are {parameters!r}, not a dictionary")
    keys = Keys(parameters, f"{outer.where}, rope parameters", allow_unknown=outer.allow_unknown)
    keys.inert(*inert)
    theta = keys.number("rope_theta", theta)
    old_name = keys.get("type", "default")
    kind = keys.get("rope_type", old_name)
    if kind not in _SCALINGS:
        raise BadModel(f"rope type {kind!r} is not one of {', '.join(sorted(_SCALINGS))}")
    scaling = _SCALINGS[kind](keys, positions)
    keys.done()
    return RopeSpec(theta, scaling)


def stretched(rope: RopeSpec, positions: int) -> int:
    """The model's context: YaRN configurations keep the pretrained length and imply factor times that."""
    if isinstance(rope.scaling, Yarn):
        return max(positions, round(rope.scaling.original * rope.scaling.factor))
    return positions


def _default(keys: Keys, positions: int) -> None:
    keys.inert("factor", "original_max_position_embeddings")


def _dynamic(keys: Keys, positions: int) -> None:
    """Turns grow slower in sequences longer than `positions` alone, and none is opened with more."""
    keys.expect("original_max_position_embeddings", positions)
    _factor(keys)


def _linear(keys: Keys, positions: int) -> Scaling:
    keys.inert("original_max_position_embeddings")
    return Linear(_factor(keys))


def _llama3(keys: Keys, positions: int) -> Scaling:
    low, high = keys.number("low_freq_factor", 1.0), keys.number("high_freq_factor", 4.0)
    if high <= low:
        raise BadModel(f"rope parameters: high_freq_factor {high} is not above low_freq_factor {low}")
    return Llama3(_factor(keys), low, high, keys.count("original_max_position_embeddings", positions))


def _yarn(keys: Keys, positions: int) -> Scaling:
    original = keys.count("original_max_position_embeddings", positions)
    factor = keys.number("factor", positions / original)
    magnitude = keys.get("attention_factor")
    mscale, all_dim = keys.get("mscale"), keys.get("mscale_all_dim")
    if magnitude is None and mscale and all_dim:
        magnitude = yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all_dim)
    return Yarn(
        factor,
        original,
        beta_fast=keys.number("beta_fast", 32.0),
        beta_slow=keys.number("beta_slow", 1.0),
        attention_factor=None if magnitude is None else float(magnitude),
        truncate=keys.flag("truncate", True),
    )


def _longrope(keys: Keys, positions: int) -> LongRope:
    original = keys.count("original_max_position_embeddings", positions)
    factor = keys.number("factor", positions / original)
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    usual = keys.number("attention_factor", usual)
    short, long = (
        Divided(_factors(keys, f"{which}_factor"), keys.number(f"{which}_mscale", usual)) for which in ("short", "long")
    )
    return LongRope(short, long, original)


def _factors(keys: Keys, key: str) -> tuple[float, ...]:
    values = keys.get(key)
    if not isinstance(values, list) or not all(isinstance(v, int | float) and v > 0 for v in values):
        raise BadModel(f"{keys.where}: {key} is {values!r}, not a list of positive numbers")
    return tuple(float(value) for value in values)


def _factor(keys: Keys) -> float:
    if keys.get("factor") is None:
        raise BadModel("rope parameters have no factor")
    return keys.number("factor", 1.0)


_SCALINGS = {
    "default": _default, "dynamic": _dynamic, "linear": _linear, "llama3": _llama3, "longrope": _longrope, "su": _longrope, "yarn": _yarn,
}  # fmt: skip


def dimensions(keys: Keys, **default: Any) -> dict[str, Any]:
    """The fields of DecoderConfig that every family spells alike. `default`: by config.json's names, where they may lack."""
    sizes = {
        field: keys.count(key, default.get(key))
        for field, key in (
            ("vocab", "vocab_size"),
            ("hidden", "hidden_size"),
            ("inner", "intermediate_size"),
            ("layers", "num_hidden_layers"),
            ("heads", "num_attention_heads"),
        )
    }
    heads, hidden = sizes["heads"], sizes["hidden"]
    kv_heads = keys.count("num_key_value_heads", default.get("num_key_value_heads", heads))
    if heads % kv_heads:
        raise BadModel(f"{keys.where}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    head_dim = keys.count("head_dim", default.get("head_dim", hidden // heads))
    if head_dim % 2:
        raise BadModel(f"{keys.where}: head_dim is {head_dim}; rotary embedding needs an even one")
    eps = keys.number("rms_norm_eps", default.get("rms_norm_eps", 1e-6))
    tied = keys.flag("tie_word_embeddings", default.get("tie_word_embeddings", False))
    return {**sizes, "kv_heads": kv_heads, "head_dim": head_dim, "eps": eps, "tied": tied}


def layer_windows(keys: Keys, layers: int, window: int | None, default: Iterable[str]) -> tuple[int | None, ...]:
    """`layer_types`, or the family's default pattern → the window of each layer, None for full attention."""
    names = {"full_attention": None, "sliding_attention": window}
    kinds = tuple(keys.get("layer_types", default))
    if unknown := sorted({str(kind) for kind in kinds} - set(names)):
        raise BadModel(f"{keys.where}: layer_types {', '.join(unknown)} not supported; only {' and '.join(names)} are")
    if len(kinds) != layers:
        raise BadModel(f"{keys.where}: layer_types has {len(kinds)} entries for {layers} layers")
    return tuple(names[kind] for kind in kinds)


def attention_biases(
    keys: Keys, default: bool = False, roles: Iterable[str] = ("q", "k", "v", "out")
) -> frozenset[str]:
    """Those of `roles`, if `attention_bias` says so; `default`: the family's, where the file leaves it out."""
    return frozenset(roles if keys.flag("attention_bias", default) else ())


def llama_biases(keys: Keys) -> frozenset[str]:
    """Roles with a bias, as the Llama family and those near to it say it."""
    return attention_biases(keys) | ({"gate_up", "down"} if keys.flag("mlp_bias", False) else set())


def upper_windows(keys: Keys, layers: int) -> tuple[int | None, ...]:
    """The Qwen families' windows: of the layers from max_window_layers on, if use_sliding_window says so."""
    window, first = keys.nullable_count("sliding_window", 4096), keys.get("max_window_layers", 28)
    if not keys.flag("use_sliding_window", False):
        window = None
    default = ("sliding_attention" if i >= first else "full_attention" for i in range(layers))
    return layer_windows(keys, layers, window, default)
