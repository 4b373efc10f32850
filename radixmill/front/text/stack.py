"""From a model's files to its tokenizer and its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radixmill.core.errors import BadModel, CannotStart
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.front.text.hf import NAMED, hf_vocabulary, named_tokens
from radixmill.front.text.template import CHATML, LINES, ChatTemplate
from radixmill.front.text.tokenizer import Tokenizer, Vocabulary
from radixmill.store.files import ModelFiles
from radixmill.store.gguf import GGUFFile
from radixmill.store.side import read_json

BUILT_IN = {"chatml": CHATML, "lines": LINES}
"""Templates that any model can be given by name."""


@dataclass(frozen=True, slots=True)
class TextStack:
    """What turns one model's text into ids and back. `template` is None for models that don't chat.

    `notes`: what a user should know about how these were made, each a sentence for the log.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    """A vocabulary and the templates that came with it."""

    vocabulary: Vocabulary
    templates: Mapping[str, str]
    origin: str
    variables: Mapping[str, str]
    chats: bool = True


def load_text(
    files: ModelFiles, *, chat_template: str | None = None, tokenizer: str | None = None, gguf: GGUFFile | None = None
) -> TextStack:
    """The text stack of a model.

    `tokenizer`: a folder, a tokenizer.json or a .gguf file to take the tokenizer from instead of the model's own;
    `chat_template`: a file to take the template from, or the name of one: of the model's own, or of BUILT_IN; `gguf`:
    the model's file, if it is open already. A template is looked for in that order: `chat_template`,
    chat_template.jinja, tokenizer_config.json, the GGUF file; a model without one gets ChatML if its vocabulary has
    `<|im_start|>`, else lines of "role: content".
    Raises CannotStart (BadModel for damaged files).
    """
    own = tokenizer is None
    source = _open(files.root if own else _existing(str(tokenizer), "--tokenizer"), gguf if own else None)
    made = Tokenizer(source.vocabulary)
    template, notes = _template(source, made, chat_template, _folder_templates(files.folder))
    return TextStack(made, template, (*made.notes, *notes))


def _open(root: Path, gguf: GGUFFile | None) -> _Source:
    return _from_gguf(gguf or GGUFFile(root)) if root.suffix == ".gguf" else _from_folder(root)


def _from_gguf(file: GGUFFile) -> _Source:
    metadata = file.metadata
    vocabulary = gguf_vocabulary(metadata)
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in zip(NAMED, _GGUF_NAMED, strict=True)}
    variables = {name: tokens[i] for name, i in ids.items() if i is not None and 0 <= i < len(tokens)}
    templates = {"default": metadata.get("tokenizer.chat_template")}
    for name in metadata.get("tokenizer.chat_templates") or ():
        templates[name] = metadata.get(f"tokenizer.chat_template.{name}")
    found = {name: text for name, text in templates.items() if isinstance(text, str)}
    beside = _folder_templates(file.path.parent, config=False)
    chats = metadata.get("tokenizer.ggml.model") != "bert"
    return _Source(vocabulary, beside or found, "chat_template.jinja" if beside else "the GGUF file", variables, chats)


_GGUF_NAMED = ("bos", "eos", "unknown", "seperator", "padding", "cls", "mask")


def _from_folder(root: Path) -> _Source:
    path = root if root.is_file() else root / "tokenizer.json"
    if not path.is_file():
        hint = "Save it with transformers' AutoTokenizer(…).save_pretrained, or use --tokenizer DIR"
        raise BadModel(f"{root} has no tokenizer.json", hint)
    config = read_json(path.parent / "special_tokens_map.json") | read_json(path.parent / "tokenizer_config.json")
    templates = _folder_templates(path.parent)
    return _Source(hf_vocabulary(path, config), templates, str(path.parent), named_tokens(config))


def _folder_templates(folder: Path, *, config: bool = True) -> dict[str, str]:
    """Name → source: chat_template.jinja and its named siblings, else what tokenizer_config.json holds."""
    found = {path.stem: _read(path) for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if (path := folder / "chat_template.jinja").is_file():
        found["default"] = _read(path)
    if found or not config:
        return found
    for name in ("tokenizer_config.json", "chat_template.json"):
        if found := _named(read_json(folder / name).get("chat_template")):
            return found
    return {}


def _named(value: Any) -> dict[str, str]:
    """A template as tokenizer_config.json writes it: a string, or a list of {"name", "template"}."""
    match value:
        case str():
            return {"default": value}
        case list():
            pairs = [(v.get("name"), v.get("template")) for v in value if isinstance(v, dict)]
            return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
    return {}


def _template(
    source: _Source, tokenizer: Tokenizer, chosen: str | None, beside: Mapping[str, str]
) -> tuple[ChatTemplate | None, tuple[str, ...]]:
    variables = source.variables
    if chosen is not None:
        text = _chosen(chosen, source.templates or beside)
        return ChatTemplate(text, variables=variables, origin=chosen), ()
    if templates := source.templates or beside:
        return ChatTemplate(templates, variables=variables, origin=source.origin), ()
    if not source.chats:
        return None, ()
    chatml = "<|im_start|>" in tokenizer.control
    name, text = ("ChatML", CHATML) if chatml else ('lines of "role: content"', LINES)
    note = f"the model has no chat template; conversations are written as {name}"
    return ChatTemplate(text, variables=variables, origin="RadixMill's default"), (note,)


def _chosen(chosen: str, own: Mapping[str, str]) -> str:
    """The source of a template by its name or its file; a file that has a name's name is written as ./NAME."""
    named = {**BUILT_IN, **own}
    if chosen in named:
        return named[chosen]
    path = Path(chosen).expanduser()
    if path.is_file():
        return _read(path)
    mine = f"The model's own are {', '.join(sorted(own))}" if own else "The model has none of its own"
    raise CannotStart(
        f"--chat-template {chosen}: there is no such file, and no template of that name",
        f"{mine}; built in are {', '.join(sorted(BUILT_IN))}",
    )


def _existing(name: str, flag: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise CannotStart(f"{flag} {name}: there is no such file or folder")
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadModel(f"{path} cannot be read: {error}") from None
