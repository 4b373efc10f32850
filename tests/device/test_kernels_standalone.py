"""The C++ kernels without Python: a program checks each instruction set, those of ARM under emulation if need be.

The program is `csrc/`: every op against plain loops in double, integers of every format exactly, and a row's bits alone
and in company. It ends with a digest of all results.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import radixmill

KERNELS = Path(radixmill.__file__).parent / "device" / "kernels" / "cpu" / "csrc"
CHECKS = Path(__file__).parent / "csrc"
FLAGS = (
    "-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", "-pthread",
    "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-psabi",
)  # fmt: skip
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (
    *AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mprefer-vector-width=512",
)  # fmt: skip
# Per processor its instruction sets, the best first, and what their units are compiled with; as in CMakeLists.txt.
UNITS = {
    "x86_64": {
        "avx512bf16": (*AVX512, "-mavx512bf16"),
        "avx512": AVX512,
        "avxvnni": (*AVX2, "-mavxvnni"),
        "avx2": AVX2,
        "portable": (),
    },
    "aarch64": {"neon-dotprod": ("-march=armv8.2-a+dotprod",), "neon": (), "portable": ()},
}
ISAS = [(processor, isa) for processor, units in UNITS.items() for isa in units]
NAMES = {"AMD64": "x86_64", "arm64": "aarch64"}
HERE = NAMES.get(platform.machine(), platform.machine())

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Program:
    path: Path
    under: tuple[str, ...] = ()  # the emulator, and whom it plays

    def run(self, *words: str, under: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.under, *under, self.path, *words], capture_output=True, text=True, timeout=300)

    def isas(self, *under: str) -> list[str]:
        return self.run(under=under).stdout.split()

    def digest(self, isa: str) -> str:
        """Of everything the instruction set computed. Fails with what the program found wrong."""
        if isa not in self.isas():
            pytest.skip(f"this machine has no {isa}")
        done = self.run(isa)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    """What was built so far, by processor."""
    return {}


@pytest.fixture
def program(programs: dict[str, Program], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """The program for a processor, built when first asked for."""

    def of(processor: str) -> Program:
        if processor not in programs:
            programs[processor] = build(processor, tmp_path_factory.mktemp(processor))
        return programs[processor]

    return of


def build(processor: str, folder: Path) -> Program:
    """Skips where there is no compiler for it, or nothing to run it with."""
    if processor == HERE:
        compiler, under, flags = shutil.which("g++") or shutil.which("c++"), (), FLAGS
    else:
        compiler, under = shutil.which(f"{processor}-linux-gnu-g++"), (f"qemu-{processor}",)
        flags = [*FLAGS, "-static", "-Werror"]
    if not compiler:
        pytest.skip(f"no C++ compiler for {processor}")
    if under and not shutil.which(under[0]):
        pytest.skip(f"no {under[0]}")
    flags = [*flags, f"-I{KERNELS}", *(f"-DRADIXMILL_{name(isa).upper()}" for isa in UNITS[processor])]
    sources = [KERNELS / f"{unit}.cpp" for unit in ("isas", "matrix", "stored", "pool")] + sorted(CHECKS.glob("*.cpp"))
    jobs = [(source, ()) for source in sources]
    jobs += [(KERNELS / f"isa_{name(isa)}.cpp", extra) for isa, extra in UNITS[processor].items()]

    def compiled(job: tuple[Path, tuple[str, ...]]) -> Path:
        source, extra = job
        call(compiler, *flags, *extra, "-c", source, "-o", folder / f"{source.stem}.o")
        return folder / f"{source.stem}.o"

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, jobs))
    call(compiler, *flags, *objects, "-o", folder / "kernels_check")
    return Program(folder / "kernels_check", under)


def name(isa: str) -> str:
    return isa.replace("-", "_")


def call(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize(("processor", "isa"), ISAS, ids=map("/".join, ISAS))
def test_an_instruction_set_is_right(program, processor: str, isa: str) -> None:
    assert program(processor).digest(isa)


@pytest.mark.parametrize(
    ("processor", "more", "less"), [("aarch64", "neon-dotprod", "neon"), ("x86_64", "avxvnni", "avx2")]
)
def test_dot_products_move_no_bit(program, processor: str, more: str, less: str) -> None:
    where = program(processor)
    assert where.digest(more) == where.digest(less)


@pytest.mark.parametrize(("arm", "x86"), [("neon", "avx2"), ("portable", "portable")])
def test_arm_computes_the_bits_of_x86(program, arm: str, x86: str) -> None:
    """Eight lanes and one order of every sum in all of them; fused multiply-adds in the first two."""
    assert program("aarch64").digest(arm) == program("x86_64").digest(x86)


def test_what_a_machine_lacks_is_not_offered(program) -> None:
    arm = program("aarch64")
    if not arm.under:
        pytest.skip("this machine is not emulated")
    assert arm.isas("-cpu", "max") == ["neon-dotprod", "neon", "portable"]
    assert arm.isas("-cpu", "cortex-a53") == ["neon", "portable"]
    assert arm.run("neon-dotprod", under=("-cpu", "cortex-a53")).returncode != 0
