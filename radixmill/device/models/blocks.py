"""What the blocks of several families share: the order of their halves, and norms of heads."""

from __future__ import annotations

from radixmill.device.kernels.contract import Array
from radixmill.device.layers import MLA, MLP, Attention, Build, ForwardBatch, Norm, Parts, SparseMoE
from radixmill.device.models.decoder import DecoderConfig, norm

HEAD_NORMS = {"q_norm": ("self_attn.q_norm",), "k_norm": ("self_attn.k_norm",)}


class PreNormBlock:
    """x + attention(norm(x)), then x + feed-forward(norm(x)); what is added is first multiplied by `residual`."""

    residual = 1.0

    def __init__(
        self, build: Build, config: DecoderConfig, part: Parts, attention: Attention | MLA, mlp: MLP | SparseMoE
    ) -> None:
        self.ops, self.attention, self.mlp = build.ops, attention, mlp
        self.attention_norm = norm(build, part("attention_norm"), config)
        self.mlp_norm = norm(build, part("mlp_norm"), config)

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        x = self.ops.add(x, self._scaled(self.attention(self.attention_norm(x), batch)))
        return self.ops.add(x, self._scaled(self.mlp(self.mlp_norm(x))))

    def _scaled(self, y: Array) -> Array:
        return y if self.residual == 1.0 else self.ops.scale(y, self.residual)


class PostNormBlock:
    """x + norm(attention(x)), then x + norm(feed-forward(x))."""

    def __init__(self, build: Build, config: DecoderConfig, part: Parts, attention: Attention) -> None:
        self.ops, self.attention = build.ops, attention
        self.after_attention_norm = norm(build, part("after_attention_norm"), config)
        self.after_mlp_norm = norm(build, part("after_mlp_norm"), config)
        self.mlp = MLP(build, part, config.hidden, config.inner, config.activation)

    def forward(self, x: Array, batch: ForwardBatch) -> Array:
        x = self.ops.add(x, self.after_attention_norm(self.attention(x, batch)))
        return self.ops.add(x, self.after_mlp_norm(self.mlp(x)))


def head_norms(build: Build, config: DecoderConfig, part: Parts) -> tuple[Norm, Norm] | None:
    """Of each query head and of each key head, where the layer has them."""
    if not part.has("q_norm"):
        return None
    q_norm, k_norm = (
        Norm(build, part(role), config.head_dim, config.eps, plus_one=config.norms_plus_one)
        for role in ("q_norm", "k_norm")
    )
    return q_norm, k_norm


def wide_norms(build: Build, config: DecoderConfig, part: Parts) -> tuple[Norm, Norm]:
    """Of all query heads as one, and of all key heads."""
    q_norm = Norm(build, part("q_norm"), config.heads * config.head_dim, config.eps)
    k_norm = Norm(build, part("k_norm"), config.kv_heads * config.head_dim, config.eps)
    return q_norm, k_norm
