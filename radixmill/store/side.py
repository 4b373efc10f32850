"""What stands beside the weights and is not theirs alone: end tokens, and the maker's advice on sampling."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

from radixmill.core.errors import BadModel
from radixmill.store.files import ModelFiles
from radixmill.store.gguf import GGUFFile

# Tokens that end a turn or a text whatever the metadata says, if the vocabulary has them as control tokens: many GGUF
# files name one end token where the model's makers have several.
ENDS = frozenset(
    {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|end|>",  # Phi
        "<|return|>",  # gpt-oss
        "<|call|>",
        "[EOS]",  # Kimi K2
        "[EOT]",
        "[e~[",  # MiniMax
        "[|endofturn|]",  # EXAONE
        "<｜end▁of▁sentence｜>",  # DeepSeek
    }
)
# In gpt-oss's vocabulary this ends a message, and more of the same turn may follow.
_WITHIN, _HARMONY = "<|end|>", "<|return|>"
_CONTROL = 3  # tokenizer.ggml.token_type
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_GGUF_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


def generation_defaults(files: ModelFiles, gguf: GGUFFile | None = None) -> dict[str, Any]:
    """Sampling values the makers advise, under Hugging Face's names: temperature, top_p, top_k, min_p,
    repetition_penalty. Only those that are given. `gguf`: the model's file, if it is open already.
    """
    stated = read_json(files.folder / "generation_config.json")
    if stated.get("do_sample") is False:  # then transformers ignores the others too
        stated = {"temperature": 0.0, "repetition_penalty": stated.get("repetition_penalty")}
    found = {key: stated[key] for key in _SAMPLING if _is_number(stated.get(key))}
    if files.is_gguf:
        metadata = (gguf or GGUFFile(files.root)).metadata
        own = {ours: metadata[key] for key, ours in _GGUF_SAMPLING.items() if _is_number(metadata.get(key))}
        found = {**own, **found}
    return found


def eos_ids(files: ModelFiles, gguf: GGUFFile | None = None) -> tuple[int, ...]:
    """The tokens that end a text or a turn, ascending. `gguf`: the model's file, if it is open already."""
    found = _gguf_ends(gguf or GGUFFile(files.root)) if files.is_gguf else _folder_ends(files.root)
    return tuple(sorted(found))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} where there is no such file; BadModel where it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{path} is not JSON ({str(error)[:100]})", "Copy or download it again") from None
    if not isinstance(value, dict):
        raise BadModel(f"{path} is not a JSON object", "Copy or download it again")
    return value


def _folder_ends(folder: Path) -> set[int]:
    config = read_json(folder / "config.json")
    found: set[int] = set()
    for source in (read_json(folder / "generation_config.json"), config, config.get("text_config")):
        if isinstance(source, dict):
            found |= _ids(source.get("eos_token_id"))
    return found | _tokenizer_end(folder)


def _tokenizer_end(folder: Path) -> set[int]:
    """The id of tokenizer_config.json's eos_token, looked up among the added tokens."""
    config = read_json(folder / "tokenizer_config.json")
    token = config.get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        return set()
    added = config.get("added_tokens_decoder")
    if isinstance(added, dict):
        pairs = [(int(k), v) for k, v in added.items() if k.isdecimal() and isinstance(v, dict)]
    else:
        listed = read_json(folder / "tokenizer.json").get("added_tokens") or []
        pairs = [(v["id"], v) for v in listed if isinstance(v, dict) and isinstance(v.get("id"), int)]
    return {i for i, v in pairs if v.get("content") == text}


def _gguf_ends(gguf: GGUFFile) -> set[int]:
    found: set[int] = set()
    for key in ("eos_token_id", "eot_token_id", "eom_token_id"):
        found |= _ids(gguf.get(f"tokenizer.ggml.{key}"))
    tokens, types = gguf.get("tokenizer.ggml.tokens"), gguf.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list):
        return found
    if hasattr(types, "nonzero") and len(types) == len(tokens):
        ends = {i for i in (types == _CONTROL).nonzero()[0].tolist() if tokens[i] in ENDS}
        harmony = any(tokens[i] == _HARMONY for i in ends)
        found |= {i for i in ends if not (harmony and tokens[i] == _WITHIN)}
    return {i for i in found if i < len(tokens)}


def _ids(value: Any) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {v for v in values if type(v) is int and v >= 0}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
