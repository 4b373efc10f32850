"""GGUF metadata → the words of Hugging Face's config.json."""

from __future__ import annotations

from typing import Any

from radixmill.core.errors import BadModel
from radixmill.device.loader.gguf_families import FAMILIES, GGUFFamily, Metadata
from radixmill.store import GGUFFile


def gguf_config(file: GGUFFile) -> dict[str, Any]:
    """The configuration, in the words of the family's config.json.

    Raises BadModel for an architecture that is not in the table, and where a needed key is missing or is not what it
    should be.
    """
    keys, family = Metadata(file), gguf_family(file)
    config = family.words(keys)
    assert config["architectures"][0].removesuffix("ForCausalLM") in family.models, family.models
    return {**config, **keys.rest()}


def gguf_family(file: GGUFFile) -> GGUFFamily:
    if file.architecture not in FAMILIES:
        name = file.architecture or "(none)"
        raise BadModel(
            f"{file.path}: GGUF architecture {name!r} is not supported", f"These are: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[file.architecture]
