"""Every family on every backend in both modes, weights packed in several formats: cuts and company change no bit."""

from __future__ import annotations

from functools import partial

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radixmill.device.kernels import isas, native_isa, open_backend
from radixmill.device.kernels.contract import Mode, Stored
from radixmill.device.loader import DummyCheckpoint
from radixmill.device.models import Decoder
from tests.device import tiny_models
from tests.device.model_kit import Driver, build, shapes
from tests.device.tiny_models import MODELS

SEQUENCES = [np.random.default_rng(n).integers(0, 64, n).tolist() for n in (21, 13, 2, 9)]
BACKENDS = ["reference", *(["cpu"] if native_isa() else [])]


class Packed(DummyCheckpoint):
    """Random weights in one stored kind."""

    def __init__(self, name: str) -> None:
        config = tiny_models.config(name)
        super().__init__(config, shapes(config))
        self.kind = tiny_models.kind(name)

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        wide = super().stored(name, shape)
        if self.kind == "F32" or wide.shape[1] % 32:
            return wide
        data = gguf.quants.quantize(wide.data, gguf.GGMLQuantizationType[self.kind])
        return Stored(self.kind, wide.shape, data)


@pytest.fixture(
    scope="module", params=[(b, m, f) for b in BACKENDS for m in ("fast", "exact") for f in MODELS], ids="-".join
)
def model(request: pytest.FixtureRequest) -> Decoder:
    backend, mode, name = request.param
    mode_: Mode = mode
    return build(Packed(name), open_backend(backend, mode_, 2, native_isa()))


@pytest.fixture(scope="module")
def alone(model: Decoder) -> list[np.ndarray]:
    """Each sequence by itself, in one piece."""
    whole = [Driver(model).run([ids], [[len(ids)]])[0] for ids in SEQUENCES]
    assert all(np.isfinite(logits).all() and logits.std() > 1e-3 for logits in whole)
    return whole


@st.composite
def _steps(draw: st.DrawFn) -> list[list[int]]:
    """Any way to compute all sequences together."""
    left, steps = [len(s) for s in SEQUENCES], []
    while any(left):
        counts = [draw(st.integers(0, min(n, 12))) for n in left]
        if not any(counts):
            counts = [min(n, 1) for n in left]
        steps.append(counts)
        left = [n - c for n, c in zip(left, counts, strict=True)]
    return steps


fewer = partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fewer(max_examples=8)
@given(steps=_steps(), page_size=st.sampled_from([4, 8, 16]))
def test_any_cut_in_any_company_gives_the_same_bits(
    model: Decoder, alone: list[np.ndarray], steps: list[list[int]], page_size: int
) -> None:
    """On pages of 8 bits are equal. Another page size is another numerics id: equal among themselves, near to the others."""
    together = Driver(model, page_size=page_size).run(SEQUENCES, steps)
    whole = alone if page_size == 8 else [Driver(model, page_size=page_size).run([s], [[len(s)]])[0] for s in SEQUENCES]
    assert all(np.array_equal(a, b) for a, b in zip(together, whole, strict=True))
    # A bit's difference makes a code of an activation another one, and now and then a token's expert too.
    near, worst = (5e-2, np.median) if model.ops.mode == "fast" else (1e-4, np.max)
    errors = [np.abs(a - b).max(axis=1) / np.abs(b).max() for a, b in zip(together, alone, strict=True)]
    assert all(worst(of_tokens) <= near for of_tokens in errors)


def test_token_by_token_gives_the_same_bits(model: Decoder, alone: list[np.ndarray]) -> None:
    for ids, whole in zip(SEQUENCES, alone, strict=True):
        assert np.array_equal(Driver(model).run([ids], [[1]] * len(ids))[0], whole)


def test_stale_pages_do_not_matter(model: Decoder, alone: list[np.ndarray]) -> None:
    """Pages last held by another sequence, then by none, give what fresh ones do."""
    driver = Driver(model)
    driver.run([SEQUENCES[0]], [[len(SEQUENCES[0])]])
    assert np.array_equal(driver.run([SEQUENCES[1]], [[len(SEQUENCES[1])]])[0], alone[1])


@pytest.mark.parametrize("which", BACKENDS)
@pytest.mark.parametrize("name", tiny_models.LATENT)
def test_latents_kept_as_codes(name: str, which: str) -> None:
    """One scale for a token, so no cut and no company changes a bit; and they are near to what they are codes of."""
    model = build(Packed(name), open_backend(which, "exact", 2, native_isa(), "int8"))
    whole = [Driver(model).run([ids], [[len(ids)]])[0] for ids in SEQUENCES]
    together = Driver(model).run(SEQUENCES, [[9, 0, 1, 4], [0, 7, 1, 1], [12, 6, 0, 4]])
    assert all(np.array_equal(a, b) for a, b in zip(together, whole, strict=True))
    floats = build(Packed(name), open_backend(which, "exact", 2, native_isa(), "f32"))
    (meant,) = Driver(floats).run(SEQUENCES[:1], [[21]])
    assert 0 < np.median(np.abs(whole[0] - meant).max(axis=1)) < 5e-2 * np.abs(meant).max()


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("mode", ("fast", "exact"))
@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_pass_gives_the_same_bits(name: str, mode: Mode, isa: str) -> None:
    """One native call for the whole pass, with ops joined: what the ops give one after another."""
    model = build(Packed(name), open_backend("cpu", mode, 2, isa))
    steps = [[9, 0, 1, 4], [0, 7, 1, 1], [12, 6, 0, 4]]
    wanted = Driver(model).run(SEQUENCES, steps)
    found = Driver(model, recorded=True).run(SEQUENCES, steps)
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
@pytest.mark.parametrize("mode", ("fast", "exact"))
@pytest.mark.parametrize("name", MODELS)
def test_threads_change_no_bit_of_a_recorded_pass(name: str, mode: Mode) -> None:
    steps = [[9, 0, 1, 4], [0, 7, 1, 1], [12, 6, 0, 4]]
    passes = []
    for threads in (1, 2, 3):
        ops = open_backend("cpu", mode, threads, native_isa())
        passes.append(Driver(build(Packed(name), ops), recorded=True))
    one, *others = [driver.run(SEQUENCES, steps) for driver in passes]
    assert all(np.array_equal(a, b) for other in others for a, b in zip(other, one, strict=True))
