"""The laws that hold the house up: who may import whom, and where torch, asyncio, HTTP and pickle may appear."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "radixmill"

# Room → the rooms of the package that it may import (besides itself). The longest matching prefix counts.
ALLOW: dict[str, set[str]] = {
    "core": set(),
    "store": {"core"},
    "observe": {"core"},
    "supervise": {"core", "observe", "store"},
    "link": {"core"},
    "sacrifice": set(),
    "front.text": {"core", "store"},
    "front.dialects": {"core"},
    "front.session": {"core", "link", "observe", "sacrifice", "store", "front.text", "front.dialects"},
    "front.api": {"core", "link", "observe", "front.session"},
    "front.models": {"core", "link", "observe", "store", "front.session"},
    "front.process": {"core", "link", "observe", "store", "front.session", "front.api", "front.text", "front.models"},
    "engine.cache": {"core"},
    "engine.grammar": {"core", "observe", "sacrifice"},
    "engine.schedule": {"core", "engine.cache", "engine.grammar"},
    "engine.loop": {"core", "link", "observe", "engine.schedule", "engine.grammar"},
    "engine.process": {"core", "link", "observe", "engine.schedule", "engine.loop", "engine.grammar"},
    "device.kernels": set(),
    "device.quant": {"core", "device.kernels"},
    "device.parallel": {"core", "device.kernels"},
    "device.loader": {"core", "store", "device.kernels", "device.quant"},
    "device.sampling": {"core", "device.kernels"},
    "device.layers": {"core", "device.kernels", "device.parallel", "device.quant", "device.loader"},
    "device.models": {"core", "device.kernels", "device.parallel", "device.quant", "device.layers", "device.loader"},
    "device": {"core", "observe", "store", "device"},
    "bench": {"core"},
    "front": set(),
    "engine": set(),
}
TOP = {
    "__init__",
    "__main__",
    "launch",
    "launch_server",
    "llm",
    "native",
    "cli",
    "compat",
    "doctor",
    "families",
    "talk",
    "utils",
} | {
    "replay",
    "verify",
}
EVERYONE = {"__init__"}  # the version

TORCH_ROOMS = ("device.kernels.cuda",)
ASYNC_ROOMS = ("front", "link.client", "link.remote", "bench", "llm", "native", "replay")
HTTP = {"fastapi", "starlette", "uvicorn", "uvloop", "httptools", "httpx", "http", "aiohttp"}
HTTP_ROOMS = ("front", "bench", "talk", "utils", "verify")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield dotted.removesuffix(".__init__"), ast.parse(path.read_text())


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "radixmill":
                yield from (f"radixmill.{alias.name}" for alias in node.names)
            else:
                yield node.module


def within(module: str, rooms: tuple[str, ...] | set[str]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def room_of(module: str) -> str:
    return max((room for room in ALLOW if within(module, {room})), key=len, default="")


def test_rooms_import_only_what_the_table_allows() -> None:
    bad = []
    for module, tree in modules():
        if module in TOP:
            continue
        room = room_of(module)
        if not room:
            bad.append(f"{module} stands in no room")
            continue
        for name in imports(tree):
            if name == "radixmill" or not name.startswith("radixmill."):
                continue
            target = name.removeprefix("radixmill.")
            if not within(target, {room} | ALLOW[room]) and target not in EVERYONE and target != "__version__":
                bad.append(f"{module} may not import {target}")
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("names", "rooms"),
    [
        ({"torch", "triton"}, TORCH_ROOMS),
        ({"asyncio"}, ASYNC_ROOMS),
        (HTTP, HTTP_ROOMS),
        ({"pickle", "dill", "cloudpickle", "marshal", "shelve"}, ()),
    ],
    ids=["torch", "asyncio", "http", "pickle"],
)
def test_these_appear_only_where_they_may(names: set[str], rooms: tuple[str, ...]) -> None:
    found = [
        (module, name)
        for module, tree in modules()
        for name in imports(tree)
        if name.split(".")[0] in names and not within(module, rooms)
    ]
    assert not found


RUNS_CODE = {"eval", "exec", "compile", "__import__", "torch.load", "importlib.util.spec_from_file_location"}


def test_no_file_of_a_model_is_run() -> None:
    """Nor is anybody else told to: libraries run a model's files, or unpickle them, only where they are asked to."""
    found = []
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in RUNS_CODE:
                found.append((module, ast.unparse(node.func)))
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                found.append((module, node.arg))
    assert not found


def test_no_import_cycles() -> None:
    graph = {module: set() for module, _ in modules()}
    for module, tree in modules():
        runtime = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for name in imports(ast.Module(runtime, [])):
            target = name.removeprefix("radixmill.")
            while target and target not in graph:
                target = target.rpartition(".")[0]
            if target and target != module and not module.startswith(target + "."):
                graph[module].add(target)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for target in graph[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_hardware_names_above_the_kernels() -> None:
    names = ("cuda", "avx", "neon", "nvidia", "hopper")
    rooms = (
        "core.request",
        "core.messages",
        "core.plan",
        "core.spec",
        "engine",
        "front",
        "link",
        "device.models",
        "device.layers",
        "device.runner",
        "device.sampling",
    )
    for module, tree in modules():
        if within(module, rooms):
            words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert not [word for word in words if any(name in word.lower() for name in names)], module


@pytest.mark.parametrize(
    ("entry", "absent"),
    [
        ("radixmill.launch", ("asyncio", "numpy", "fastapi", "torch")),
        ("radixmill.front.process", ("torch", "radixmill.engine", "radixmill.device")),
        ("radixmill.engine.process", ("torch", "asyncio", "fastapi", "radixmill.front")),
        ("radixmill.device.worker", ("torch", "asyncio", "fastapi", "radixmill.front")),
    ],
)
def test_what_a_process_does_not_import(entry: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {entry}; print(*[name for name in {absent!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.strip() == ""
