"""What front and engine know of a model: numbers, no arrays."""

from __future__ import annotations

from msgspec import Struct


class KVGroup(Struct, frozen=True):
    """Layers whose KV lives and dies together."""

    layers: tuple[int, ...]
    bytes_per_token: int  # all layers of the group together
    pages: int  # how many the pool holds
    window: int | None = None  # positions a query looks back, itself included; None: all


class FileMark(Struct, frozen=True, array_like=True):
    """What tells that a file is still the one it was."""

    name: str
    size: int
    mtime_ns: int
    inode: int

    def same_as(self, other: FileMark) -> bool:
        """Whether it is as good as the same file: one that was put back has another inode."""
        return (self.name, self.size, self.mtime_ns) == (other.name, other.size, other.mtime_ns)


class TextMark(Struct, frozen=True, array_like=True):
    """What tells that a file says what it did: of tokenizer, template, configuration."""

    name: str
    print: str  # "": it could not be read


class Identity(Struct, frozen=True):
    """What every engine that takes over from another must have in common with it."""

    numerics: str
    weight_marks: tuple[FileMark, ...] = ()  # (): unknown, or there are none
    text_marks: tuple[TextMark, ...] = ()  # (): unknown


class ModelSpec(Struct, frozen=True, kw_only=True):
    """The model as the other rooms see it."""

    name: str
    architecture: str
    vocab_size: int
    context: int  # max_model_len: the model's own, or less where the KV pool is smaller
    context_reason: str = ""
    eos_ids: tuple[int, ...] = ()
    page_size: int = 64
    slots: int = 64  # sequences that can run at once
    kv_groups: tuple[KVGroup, ...] = ()
    numerics: str = ""  # equal ids give equal bytes
    compute: str = "fast"
    invariant: bool = True  # a row's bits depend on nothing but its record; else there are no receipts
    kv_dtype: str = ""  # what keys and values are kept as
    isa: str = ""
    weight_marks: tuple[FileMark, ...] = ()  # of the files that were loaded; (): unknown, or there are none
    text_marks: tuple[TextMark, ...] = ()  # of the files beside them, which fronts read; (): unknown
    modalities: tuple[str, ...] = ("text",)
    notes: tuple[str, ...] = ()  # why settings are what they are
    phases: tuple[tuple[str, float], ...] = ()  # start-up: what was done, seconds

    @property
    def kv_bytes(self) -> int:
        """Of all pages of all groups."""
        return sum(group.pages * group.bytes_per_token for group in self.kv_groups) * self.page_size

    @property
    def kv_tokens(self) -> int:
        """Tokens that the cache holds, and what slides out of windows; of a model with nothing but windows: that it holds
        in sequences as short as they are."""
        first, *windows = self.kv_groups
        counted = [first] if first.bytes_per_token or not windows else windows
        return min(group.pages for group in counted) * self.page_size

    @property
    def identity(self) -> Identity:
        return Identity(self.numerics, self.weight_marks, self.text_marks)
