"""Experts and heads: many small products at once, each with linear()'s own bits; and how a token chooses among experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from radixmill.device.kernels import isas
from radixmill.device.kernels.contract import Activation, Array, Experts, Mode, Ops, Routing, Stored, Weight
from tests.device.kernel_kit import BACKENDS, MODES, Floats, backend, close, normal, rng, same_bits, stored, values_of

K, F, N = 64, 96, 40
MIXED = ("Q4_1", "F32", "Q8_0", "BF16", "Q6_K", "MXFP4", "F16")


@pytest.fixture(params=[(b, m) for b in BACKENDS for m in MODES], ids="/".join)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(*request.param)


# --- experts


def experts(
    ops: Ops,
    count: int,
    kinds: tuple[str, ...] = ("Q8_0",),
    sizes: tuple[int, int, int] = (K, F, N),
    biased: bool = False,
    activation: Activation = "silu",
) -> Experts:
    """Gate and up of each expert are of the next kinds, one below the other; its down is of the one after."""
    k, f, n = sizes
    seed = iter(range(10_000))

    def weight(at: int, n: int, k: int) -> Weight:
        return ops.pack(small(kinds[at % len(kinds)], n, k, next(seed)))

    return Experts(
        tuple(ops.join([weight(e, f, k), weight(e + 1, f, k)]) for e in range(count)),
        tuple(weight(e + 2, n, f) for e in range(count)),
        activation,
        ops.array(normal(count, 2 * f, seed=1)) if biased else None,
        ops.array(normal(count, n, seed=2)) if biased else None,
    )


def small(kind: str, n: int, k: int, seed: int) -> Stored:
    """Of size 1/√k, so that what comes out is of the size of what went in."""
    if kind in ("F32", "F16", "BF16"):
        return stored(kind, n, k, seed)
    return stored(kind if k % 256 == 0 or kind != "Q6_K" else "Q5_0", n, k, seed)


def routes(tokens: int, count: int, top: int, seed: int = 0) -> Floats:
    r = rng(seed)
    chosen = np.sort(np.stack([r.permutation(count)[:top] for _ in range(tokens)]), axis=1)
    return np.concatenate([chosen, r.random((tokens, top))], axis=1).astype(np.float32)


def one_by_one(ops: Ops, x: Floats, ways: Floats, of: Experts) -> Floats:
    """The same by linear and gated, a token at a time."""
    top, out = ways.shape[1] // 2, np.zeros((len(x), of.down[0].shape[0]), np.float32)
    for token, way in enumerate(ways):
        for expert, weight in zip(way[:top].astype(int).tolist(), way[top:], strict=True):
            up = None if of.gate_up_bias is None else np.ascontiguousarray(of.gate_up_bias[expert])
            down = None if of.down_bias is None else np.ascontiguousarray(of.down_bias[expert])
            inner = ops.gated(ops.linear(x[token : token + 1], of.gate_up[expert], up), of.activation)
            out[token] += ops.linear(inner, of.down[expert], down)[0] * weight
    return out


@pytest.mark.parametrize("kinds", (("Q8_0",), ("Q4_1",), ("F32",), ("BF16",), MIXED), ids="+".join)
def test_experts_are_their_products(ops: Ops, kinds: tuple[str, ...]) -> None:
    tokens = 40 if ops.name == "reference" else 70
    for biased in (False, True):
        of = experts(ops, 7, kinds, biased=biased)
        x, ways = normal(tokens, K), routes(tokens, 7, 3)
        got = ops.experts(x, ways, ops.mixture(of))
        assert same_bits(got, one_by_one(ops, x, ways, of)) and np.abs(got).max() > 1


@pytest.mark.parametrize(("count", "top"), [(2, 1), (2, 2), (64, 1), (64, 8), (5, 5)])
def test_any_number_of_experts(ops: Ops, count: int, top: int) -> None:
    of = experts(ops, count, ("Q4_1", "Q8_0"), activation="clamped")
    mixture = ops.mixture(of)
    for tokens in (1, 2, 9):
        x, ways = normal(tokens, K, seed=tokens), routes(tokens, count, top, seed=tokens)
        assert same_bits(ops.experts(x, ways, mixture), one_by_one(ops, x, ways, of)), tokens
    assert ops.experts(normal(0, K), routes(1, count, top)[:0], mixture).shape == (0, N)


@pytest.mark.parametrize("sizes", [(33, 7, 5), (1, 1, 1), (130, 50, 77)])
def test_sizes_that_fill_no_vector(ops: Ops, sizes: tuple[int, int, int]) -> None:
    for kinds in (("F32",), ("BF16", "F16")):
        of = experts(ops, 3, kinds, sizes, biased=True)
        x, ways = normal(11, sizes[0]), routes(11, 3, 2)
        assert same_bits(ops.experts(x, ways, ops.mixture(of)), one_by_one(ops, x, ways, of)), kinds


@pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
def test_more_tokens_than_go_through_at_once() -> None:
    """What lies between the products is so wide that a step is cut."""
    ops = backend(f"cpu/{isas()[0]}", "fast")
    of = experts(ops, 9, ("F32",), (1, 1, 65_536))
    x, ways, mixture = normal(150, 1), routes(150, 9, 8), ops.mixture(of)
    got = ops.experts(x, ways, mixture)
    for at in (0, 63, 64, 127, 128, 149):
        assert same_bits(ops.experts(x[at : at + 1], ways[at : at + 1], mixture), got[at : at + 1]), at


def test_experts_against_float64() -> None:
    """From the contract's words, over the values the matrices hold."""
    for which in BACKENDS:
        if which != "reference" and which.removeprefix("cpu/") not in isas():
            continue
        ops = backend(which, "exact")
        matrices = [(stored("Q8_0", 2 * F, K, 2 * e), stored("F32", N, F, 2 * e + 1)) for e in range(4)]
        of = Experts(tuple(ops.pack(a) for a, _ in matrices), tuple(ops.pack(b) for _, b in matrices), "silu")
        x, ways = normal(13, K), routes(13, 4, 2)
        wanted = np.zeros((13, N))
        for token in range(13):
            for place in range(2):
                up, down = (values_of(m).astype(np.float64) for m in matrices[int(ways[token, place])])
                gate, linear = np.split(up @ x[token], 2)
                with np.errstate(over="ignore"):
                    wanted[token] += ways[token, 2 + place] * (down @ (gate / (1 + np.exp(-gate)) * linear))
        assert close(ops.experts(x, ways, ops.mixture(of)), wanted, 3e-6), which


@pytest.mark.parametrize("kinds", (("Q4_1",), MIXED), ids="+".join)
def test_a_token_does_not_know_who_else_goes_where(ops: Ops, kinds: tuple[str, ...]) -> None:
    tokens = 300
    mixture = ops.mixture(experts(ops, 6, kinds, biased=True))
    x, ways = normal(tokens, K), routes(tokens, 6, 2)
    together = ops.experts(x, ways, mixture)
    order = rng(3).permutation(tokens)
    assert same_bits(ops.experts(x[order], ways[order], mixture), together[order])
    for rows in (1, 2, 3, 17, 64):
        for at in (0, 111, tokens - rows):
            assert same_bits(ops.experts(x[at : at + rows], ways[at : at + rows], mixture), together[at : at + rows])
    crowd = ways.copy()
    crowd[1:, :2] = (2, 5)  # all the others through the same two
    assert same_bits(ops.experts(x, crowd, mixture)[0], together[0])
    sick = x.copy()
    sick[1:] = np.nan
    with np.errstate(all="ignore"):
        assert same_bits(ops.experts(sick, ways, mixture)[0], together[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", BACKENDS)
def test_threads_change_no_bit(which: str, mode: Mode) -> None:
    results = []
    for threads in (1, 2, 5):
        ops = backend(which, mode, threads)
        of = experts(ops, 4, ("Q4_1", "Q8_0", "F32"), (256, 512, 600))
        results.append([ops.experts(normal(t, 256), routes(t, 4, 2), ops.mixture(of)) for t in (1, 33)])
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


def test_columns_in_orders_of_their_own(ops: Ops) -> None:
    """As files with activation order have them: every matrix sees its columns in another order, or in none."""
    orders = [None if i % 3 == 1 else rng(i).permutation(K) for i in range(8)]

    def weight(i: int, n: int) -> Weight:
        return ops.pack(replace(stored("Q8_0", n, K, i), order=orders[i % 8]))

    same = [weight(0, K), weight(0, K)]
    up = [ops.join([weight(e, K), weight(e + 1, K)]) for e in range(4)] + [ops.join(same)]
    of = Experts(tuple(up), tuple(weight(e + 2, N) for e in range(5)), "gelu")
    x, ways = normal(21, K), routes(21, 5, 3)
    assert same_bits(ops.experts(x, ways, ops.mixture(of)), one_by_one(ops, x, ways, of))


def test_only_what_was_chosen_is_read(ops: Ops) -> None:
    """An expert of NaN that nobody goes to harms nobody."""
    of = experts(ops, 3, ("F32",))
    sick = ops.pack(Stored("F32", (N, F), np.full((N, F), np.nan, np.float32)))
    ways = routes(9, 2, 2)
    healthy = ops.experts(normal(9, K), ways, ops.mixture(of))
    of = replace(of, down=(*of.down[:2], sick))
    assert same_bits(ops.experts(normal(9, K), ways, ops.mixture(of)), healthy)
    ways[4, 1] = 2
    got = ops.experts(normal(9, K), ways, ops.mixture(of))
    assert np.isnan(got[4]).all() and np.isfinite(np.delete(got, 4, axis=0)).all()


@pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
def test_what_does_not_fit_is_refused() -> None:
    ops = backend(f"cpu/{isas()[0]}", "fast")
    of = experts(ops, 3)
    mixture = ops.mixture(of)
    ways = routes(4, 3, 2)
    for bad in (-1, 3, np.nan, np.inf, 1e30):
        wrong = ways.copy()
        wrong[2, 1] = bad
        with pytest.raises(IndexError):
            ops.experts(normal(4, K), wrong, mixture)
    for x, way in ((normal(4, K + 32), ways), (normal(3, K), ways), (normal(4, K), ways[:, :0])):
        with pytest.raises(ValueError):
            ops.experts(x, np.ascontiguousarray(way), mixture)
    for wrong in (
        replace(of, down=of.down[:2]),
        replace(of, down=(*of.down[:2], of.gate_up[0])),
        replace(of, gate_up=of.down),
        replace(of, gate_up_bias=ops.array(normal(3, F))),
        Experts((), (), "silu"),
    ):
        with pytest.raises(ValueError):
            ops.mixture(wrong)


@pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
def test_an_expert_named_twice_counts_twice() -> None:
    """route() names none twice. The first token's two stand where those of the first and the second would."""
    ops = backend(f"cpu/{isas()[0]}", "fast")
    mixture, x = ops.mixture(experts(ops, 4)), normal(3, K)
    ways = np.array([[1, 1, 0.5, 0.25], [2, 3, 0.5, 0.5], [1, 2, 0.5, 0.5]], np.float32)
    y = ops.experts(x, ways, mixture)
    for i in range(3):
        assert same_bits(ops.experts(x[i : i + 1], ways[i : i + 1], mixture)[0], y[i])


# --- heads


@pytest.mark.parametrize("kind", ("Q8_0", "Q4_1", "F32", "F16", "BF16"))
@pytest.mark.parametrize("heads", (1, 5, 16))
def test_heads_are_their_products(ops: Ops, heads: int, kind: str) -> None:
    for n, k in ((72, 64), (33, 96)):
        weights = [ops.pack(stored(kind, n, k, seed)) for seed in range(heads)]
        made = ops.per_head(weights)
        x = normal(37, heads, k)
        got = ops.linear_heads(x, made)
        each = [ops.linear(np.ascontiguousarray(x[:, h]), weight) for h, weight in enumerate(weights)]
        assert same_bits(got, np.stack(each, axis=1)) and got.shape == (37, heads, n)
        for rows in (1, 2, 19):
            assert same_bits(ops.linear_heads(x[3 : 3 + rows], made), got[3 : 3 + rows])
        assert ops.linear_heads(x[:0], made).shape == (0, heads, n)


@pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
def test_more_rows_of_heads_than_go_through_at_once() -> None:
    """Floats that are read where they lie, and codes and columns in an order, which are made for some tokens at a time."""
    ops = backend(f"cpu/{isas()[0]}", "fast")
    k, heads, tokens = 4096, 64, 70
    turned = replace(stored("F32", 4, k, seed=2), order=rng(3).permutation(k).astype(np.intp))
    some = [ops.pack(stored("F32", 4, k)), ops.pack(stored("Q8_0", 4, k, seed=1)), ops.pack(turned)]
    stacks, x = ops.per_head([some[h % 3] for h in range(heads)]), normal(tokens, heads, k)
    got = ops.linear_heads(x, stacks)
    for at in (0, 63, 64, 69):
        assert same_bits(ops.linear_heads(x[at : at + 1], stacks), got[at : at + 1]), at
    for h in (0, 1, 2, 63):
        assert same_bits(ops.linear(np.ascontiguousarray(x[:, h]), some[h % 3]), got[:, h]), h


def test_heads_whose_columns_lie_in_other_orders(ops: Ops) -> None:
    weights = [
        ops.pack(replace(stored("Q8_0", 40, K, i), order=rng(i).permutation(K) if i % 2 else None)) for i in range(4)
    ]
    x = normal(6, 4, K)
    each = [ops.linear(np.ascontiguousarray(x[:, h]), weight) for h, weight in enumerate(weights)]
    assert same_bits(ops.linear_heads(x, ops.per_head(weights)), np.stack(each, axis=1))


# --- the choice


def chosen(logits: Floats, routing: Routing, bias: Floats | None = None) -> tuple[list[list[int]], np.ndarray]:
    """From the contract's words, in float64, a token at a time."""
    numbers, weights = [], []
    for row in logits.astype(np.float64):
        powers = np.exp(row - row.max())
        scores = 1 / (1 + np.exp(-row)) if routing.score == "sigmoid" else powers / powers.sum()
        wanted = scores if bias is None else scores + bias
        size, open_ = routing.experts // routing.groups, range(routing.groups)
        if routing.groups > 1:
            best = [sorted(wanted[g * size : (g + 1) * size])[::-1] for g in open_]
            worth = [b[0] if routing.group_score == "max" else b[0] + b[1] for b in best]
            open_ = sorted(open_, key=lambda g: (-worth[g], g))[: routing.top_groups]
        inside = [e for e in range(routing.experts) if e // size in open_]
        taken = sorted(sorted(inside, key=lambda e: (-wanted[e], e))[: routing.top])
        weight = scores[taken]
        numbers.append(taken)
        weights.append((weight / weight.sum() if routing.renormalise else weight) * routing.scaling)
    return numbers, np.array(weights)


ROUTINGS = (
    Routing(8, 2, "softmax", True),
    Routing(60, 4, "softmax", False),
    Routing(64, 6, "softmax", False, 16.0, 8, 3),
    Routing(64, 8, "sigmoid", True, 2.5, 8, 4, "top2"),
    Routing(33, 33, "sigmoid", False),
    Routing(1, 1, "softmax", True),
    Routing(300, 1, "sigmoid", True),
)


@pytest.mark.parametrize("biased", (False, True))
@pytest.mark.parametrize("routing", ROUTINGS, ids=lambda r: f"{r.experts}-{r.top}-{r.score}-{r.groups}")
def test_a_token_goes_where_it_should(ops: Ops, routing: Routing, biased: bool) -> None:
    logits = normal(150, routing.experts)
    bias = ops.array(normal(routing.experts, seed=4)) if biased else None
    got = ops.route(logits, routing, bias)
    numbers, weights = chosen(logits, routing, bias)
    assert got[:, : routing.top].astype(int).tolist() == numbers
    assert close(got[:, routing.top :], weights, 2e-6)
    for rows in (1, 7):
        assert same_bits(ops.route(logits[20 : 20 + rows], routing, bias), got[20 : 20 + rows])


def test_of_equals_the_lower_number_goes_first(ops: Ops) -> None:
    flat = np.zeros((3, 32), np.float32)
    flat[1, [5, 20]] = 1
    flat[2, :] = np.repeat(np.float32([0, 1, 1, 0]), 8)
    for score in ("softmax", "sigmoid"):
        plain = ops.route(flat, Routing(32, 3, score, True))  # type: ignore[arg-type]
        assert plain[:, :3].tolist() == [[0, 1, 2], [0, 5, 20], [8, 9, 10]]
        grouped = ops.route(flat, Routing(32, 3, score, True, groups=4, top_groups=1))  # type: ignore[arg-type]
        assert grouped[:, :3].tolist() == [[0, 1, 2], [0, 1, 5], [8, 9, 10]]
        assert close(grouped[:1, 3:], np.full((1, 3), 1 / 3), 1e-6)


def test_logits_that_are_no_numbers_choose_experts_that_there_are(ops: Ops) -> None:
    logits = normal(12, 16)
    logits[0], logits[1, 3], logits[2, ::2], logits[3], logits[4, 7] = np.nan, np.nan, np.nan, np.inf, np.inf
    logits[5], logits[6, 0] = -np.inf, -np.inf
    for routing in (
        Routing(16, 4, "softmax", True),
        Routing(16, 4, "sigmoid", True, 2.0, 4, 2, "top2"),
        Routing(16, 4, "sigmoid", False, 1.0, 4, 1),
    ):
        got = ops.route(logits, routing)
        numbers = got[:, : routing.top]
        assert ((numbers >= 0) & (numbers < 16)).all() and (np.diff(numbers, axis=1) > 0).all()
        assert same_bits(ops.route(logits[7:], routing), got[7:]) and np.isfinite(got[7:]).all()
    of = experts(ops, 16)
    with np.errstate(all="ignore"):
        y = ops.experts(normal(12, K), ops.route(logits, Routing(16, 4, "softmax", True)), ops.mixture(of))
    assert np.isfinite(y[6:]).all() and not np.isfinite(y[:4]).any()


def test_more_than_the_best_groups_have_cannot_be_chosen(ops: Ops) -> None:
    ops.route(normal(2, 8), Routing(8, 2, "softmax", True, groups=4, top_groups=1))
    for bad in (Routing(8, 3, "softmax", True, groups=4, top_groups=1), Routing(8, 9, "softmax", True)):
        with pytest.raises(ValueError, match="chosen"):
            ops.route(normal(2, 8), bad)


@pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
def test_choices_that_cannot_be_made_are_refused() -> None:
    ops = backend(f"cpu/{isas()[0]}", "fast")
    for bad in (
        Routing(8, 9, "softmax", True),
        Routing(8, 0, "softmax", True),
        Routing(8, 2, "softmax", True, groups=3),
        Routing(8, 2, "softmax", True, groups=4, top_groups=5),
        Routing(8, 2, "softmax", True, groups=8, top_groups=2, group_score="top2"),
    ):
        with pytest.raises(ValueError):
            ops.route(normal(2, 8), bad)
    with pytest.raises(ValueError):
        ops.route(normal(2, 7), Routing(8, 2, "softmax", True))
    with pytest.raises(ValueError):
        ops.route(normal(2, 8), Routing(8, 2, "softmax", True), ops.array(normal(7)))


# --- recorded


def layers(ops: Ops) -> dict[str, Any]:
    routing = Routing(6, 2, "sigmoid", True, 1.5, 3, 2, "top2")
    return {
        "routing": routing,
        "table": ops.pack(stored("Q8_0", 50, K)),
        "router": ops.pack(stored("F32", 6, K, 1)),
        "bias": ops.array(normal(6, seed=3)),
        "mixture": ops.mixture(experts(ops, 6, ("Q4_1", "Q8_0"), (K, F, K), True)),
        "norm": ops.array(normal(K, seed=5)),
        "runs": ops.array(normal(4, K // 4, seed=6)),
        "shared": ops.pack(stored("Q8_0", 2 * K, K, 7)),
        "shared_down": ops.pack(stored("Q8_0", K, K, 8)),
        "gate": ops.pack(stored("F32", 1, K, 9)),
        "heads": ops.per_head([ops.pack(stored("Q8_0", K // 2, 32, seed)) for seed in range(2)]),
    }


def mixture_block(ops: Ops, w: dict[str, Any], x: Array) -> Array:
    """One norm that the router, the experts, a shared block and its gate read."""
    normed = ops.rms_norm(x, w["norm"], 1e-5)
    y = ops.experts(normed, ops.route(ops.linear(normed, w["router"]), w["routing"], w["bias"]), w["mixture"])
    shared = ops.linear(ops.gated(ops.linear(normed, w["shared"]), "clamped"), w["shared_down"])
    y = ops.add(y, ops.dimmed(shared, ops.linear(normed, w["gate"])))
    return ops.add(x, y)


def dims_what_others_read(ops: Ops, w: dict[str, Any], x: Array) -> Array:
    """What was put off sees x as it was before it changed in place."""
    late = ops.linear(x, w["shared_down"])
    x = ops.dimmed(x, ops.linear(x, w["gate"]))
    return ops.add(x, ops.scale(late, 0.01))


def norms_and_heads(ops: Ops, w: dict[str, Any], x: Array) -> Array:
    normed = ops.layer_norm(ops.layer_norm(x, w["runs"], 1e-5), w["norm"].reshape(1, K), 1e-5)
    return ops.add(x, ops.linear_heads(normed.reshape(-1, 2, 32), w["heads"]).reshape(-1, K))


@pytest.mark.parametrize("layer", (mixture_block, dims_what_others_read, norms_and_heads), ids=lambda f: f.__name__)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("isa", isas())
def test_a_program_is_its_ops(isa: str, mode: Mode, layer: Any) -> None:
    ops = backend(f"cpu/{isa}", mode)
    w = layers(ops)

    def forward(ids: Any, positions: Any, wanted: Any, ragged: Any) -> Array:
        x = ops.embed(ids, w["table"], 0.1)
        for _ in range(3):
            x = layer(ops, w, x)
        return ops.linear(ops.rms_norm(ops.gather(x, wanted), w["norm"], 1e-5), w["table"])

    program = ops.capture(forward, 0)
    assert program is not forward
    for tokens, wanted in ((1, [0]), (7, [6]), (2, []), (150, list(range(150))), (1, [0])):
        args = rng(tokens).integers(0, 50, tokens), np.arange(tokens, dtype=np.int32), np.array(wanted, np.int32), ()
        assert same_bits(program(*args), forward(*args)), tokens


@pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
def test_registers_that_do_not_fit_are_refused() -> None:
    ops = backend(f"cpu/{isas()[0]}", "fast")
    w = layers(ops)
    wide = ops.pack(stored("Q8_0", 2 * K, K))
    for then in (
        lambda x: ops.route(x, w["routing"]),
        lambda x: ops.experts(ops.linear(x, wide), ops.route(ops.linear(x, w["router"]), w["routing"]), w["mixture"]),
        lambda x: ops.experts(x, ops.linear(x, w["gate"]), w["mixture"]),
        lambda x: ops.linear_heads(ops.linear(x, wide), w["heads"]),
        lambda x: ops.dimmed(x, x),
        lambda x: ops.layer_norm(ops.linear(x, wide), w["runs"], 1e-5),
    ):
        with pytest.raises(ValueError, match="width"):
            ops.capture(lambda ids, *_, then=then: ops.gather(then(ops.embed(ids, w["table"])), None), 0)
