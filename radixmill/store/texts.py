"""What tells that the files beside a model's weights are still what they were: those that say how it reads, writes and ends.

They are small and read by several processes, each when it starts, so they are known by what stands in them. A GGUF file has
all that in itself, of several parts the first, and is known as weights are: by its size and time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from pathlib import Path

from radixmill.core.config import ModelOptions
from radixmill.core.errors import ModelChanged
from radixmill.core.spec import TextMark
from radixmill.store.files import ModelFiles
from radixmill.store.split import part_names

# What is read beside any model, and what only where the model is a folder.
_BESIDE = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json", "generation_config.json")
_FOLDER = ("config.json", "tokenizer.json", "special_tokens_map.json")


def text_marks(files: ModelFiles, options: ModelOptions) -> tuple[TextMark, ...]:
    """Of the files as they are now; those that are not there are left out."""
    found = {str(path): _mark(path, files) for path in _paths(files, options)}
    return tuple(mark for _, mark in sorted(found.items()) if mark)


def touched(earlier: tuple[TextMark, ...], now: tuple[TextMark, ...], same: Container[str]) -> tuple[TextMark, ...]:
    """`earlier`, with the marks that the files named in `same` have now: their bytes are known to be what they were."""
    renewed = {mark.name: mark for mark in now if mark.name in same}
    return tuple(renewed.get(mark.name, mark) for mark in earlier)


def check_texts(earlier: tuple[TextMark, ...], now: tuple[TextMark, ...]) -> None:
    """Raises ModelChanged if they are others than `earlier`; (): those are not known."""
    if not earlier:
        return
    unread = {mark.name for mark in (*earlier, *now) if not mark.print}
    if changed := sorted({mark.name for mark in set(earlier) ^ set(now)} - unread):
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ModelChanged(f"{changed[0]}{more} changed on disk after the model had been loaded")


def _paths(files: ModelFiles, options: ModelOptions) -> Iterator[Path]:
    yield from _of(files.root)
    if options.tokenizer is not None:
        yield from _of(Path(options.tokenizer).expanduser())
    if options.chat_template is not None:
        yield Path(options.chat_template).expanduser()


def _of(root: Path) -> Iterator[Path]:
    folder = root if root.is_dir() else root.parent
    yield from (folder / name for name in (*_BESIDE, *(_FOLDER if root.is_dir() else part_names(root.name)[:1])))
    yield from folder.glob("additional_chat_templates/*.jinja")


def _mark(path: Path, files: ModelFiles) -> TextMark | None:
    name = path.name if path.parent == files.folder else str(path)
    try:
        if path.suffix == ".gguf":
            at = path.stat()
            return TextMark(name, f"{at.st_size} bytes of {at.st_mtime_ns}")
        with path.open("rb") as file:
            return TextMark(name, hashlib.file_digest(file, "sha256").hexdigest())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # it can't be read now, which says nothing; whoever needs it says it better
        return TextMark(name, "")
