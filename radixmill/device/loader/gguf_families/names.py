"""Names of tensors within a block, GGUF's → Hugging Face's.

A name with {e} or {h} stands for one matrix of a stack: of each expert, of each head. Several names: the tensor holds them
one below the other. A key may end in `.weight` or `.bias` where both would not be named alike; then the name is whole.
"""

from __future__ import annotations

from collections.abc import Mapping

Names = Mapping[str, str | tuple[str, ...]]

ATTENTION: Names = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
}
DENSE: Names = {
    **ATTENTION,
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
EXPERTS: Names = {
    **DENSE,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{e}.gate_proj",
    "ffn_up_exps": "mlp.experts.{e}.up_proj",
    "ffn_gate_up_exps": ("mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj"),
    "ffn_down_exps": "mlp.experts.{e}.down_proj",
}
