"""Models in several GGUF files, as llama.cpp's gguf-split writes them: NAME-00001-of-00003.gguf and its followers.

The first holds all metadata, and perhaps tensors; the others hold tensors. Names say which files belong together, so that
nobody needs to open one to find the rest; headers must say the same: `split.no` (from 0), `split.count` and
`split.tensors.count`, which is of all files together. Any part stands for the whole.
Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/gguf-split/gguf-split.cpp
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radixmill.core.errors import BadModel

_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)


def part_names(name: str) -> list[str]:
    """The names of all parts, in order, of the model that the file `name` (perhaps with folders) is a part of; `name`
    alone where it is none."""
    found = _PART.fullmatch(name)
    if found is None or not 1 <= int(found[2]) <= int(found[3]):
        return [name]
    return [f"{found[1]}-{number:05d}-of-{found[3]}.gguf" for number in range(1, int(found[3]) + 1)]


def whole_name(name: str) -> str:
    """Without the number of the part."""
    found = _PART.fullmatch(name)
    return name if found is None else f"{found[1]}.gguf"


def parts(path: Path) -> list[Path]:
    """The paths of all parts of a model, whichever `path` is; they may not be there."""
    names = part_names(path.name)
    return [path] if len(names) == 1 else [path.with_name(name) for name in names]


def lacking(path: Path) -> list[Path]:
    """The parts that are not there."""
    return [part for part in parts(path) if not part.is_file()]


def present(path: Path) -> list[Path]:
    """All parts. Raises BadModel if some of several are not there."""
    found = parts(path)
    if len(found) > 1 and (missing := lacking(path)):
        more = ", …" if len(missing) > 5 else ""
        raise BadModel(
            f"{path} is a part of a model in {len(found)} files, of which {len(missing)} are missing: "
            f"{', '.join(part.name for part in missing[:5])}{more}",
            "Copy or download them again",
        )
    return found


def check_part(path: Path, number: int, count: int, metadata: Mapping[str, Any]) -> None:
    """Raises BadModel unless `metadata`, of the part `number` (from 0) of `count` by its name, says that it is that."""
    said_count, said_number = _whole(metadata, "split.count"), _whole(metadata, "split.no")
    if count == 1 and (said_count or 0) <= 1:
        return
    if count == 1:
        raise BadModel(
            f"{path} is one part of a model split into {said_count} files, and its name does not say which",
            f"Name the parts NAME-00001-of-{said_count:05d}.gguf and so on",
        )
    if said_count is None or said_number is None:
        raise BadModel(
            f"{path} is part {number + 1} of {count} by its name, and its header has no split.no and split.count",
            "Name a model that is in one file otherwise",
        )
    if (said_number, said_count) != (number, count):
        raise BadModel(
            f"{path} is part {number + 1} of {count} by its name, and part {said_number + 1} of {said_count} by its header",
            "Copy or download it again",
        )


def check_total(path: Path, tensors: int, metadata: Mapping[str, Any]) -> None:
    """Raises BadModel unless all parts together have as many tensors as `metadata`, of one of them at `path`, says."""
    if (said := _whole(metadata, "split.tensors.count")) != tensors:
        raise BadModel(
            f"{path}: the model's parts hold {tensors} tensors, and split.tensors.count is {said}",
            "Copy or download all parts of one model again",
        )


def _whole(metadata: Mapping[str, Any], key: str) -> int | None:
    value = metadata.get(key)
    return value if type(value) is int else None
