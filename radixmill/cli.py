"""Flags that grow out of the config dataclasses: the parser, the config file, and the docs page."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

import yaml

from radixmill.core.config import Config, walk
from radixmill.core.errors import CannotStart

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def size(text: str) -> int:
    """`4096`, `32k`, `512m`, `4g`: units of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)i?b?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 4096, 32k, 512m or 4g")
    return int(float(match[1]) * _UNITS[match[2]])


def add_flags(
    parser: argparse.ArgumentParser, *, positional_model: bool = True, sections: Collection[str] = ()
) -> None:
    """One flag per leaf of Config, in a group per section; the values land under dotted names. `sections`: only these."""
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="settings from a .yaml, .toml or .json file; flags win over it"
    )
    for section, cls in get_type_hints(Config).items():
        if sections and section not in sections:
            continue
        group = parser.add_argument_group(section, (cls.__doc__ or "").strip())
        for path, kind, leaf in walk(cls, (section,)):
            _add_flag(group, ".".join(path), kind, leaf, positional_model)


def _add_flag(group: Any, dest: str, kind: Any, leaf: Any, positional_model: bool) -> None:
    meta = leaf.metadata
    names = ["--" + leaf.name.replace("_", "-"), *meta["flags"]]
    shown = "" if leaf.default in (None, (), "", False, True) else f" (default: {leaf.default})"
    about = {"dest": dest, "default": argparse.SUPPRESS, "help": (meta["help"] + shown).replace("%", "%%")}
    if meta.get("positional") and positional_model:
        group.add_argument(dest, nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help=about["help"])
    if kind is bool:
        _add_switch(group, names, leaf, about)
    elif kind == tuple[str, ...]:
        group.add_argument(*names, nargs="+", metavar="X", **about)
    else:
        metavar = (
            None
            if meta["choices"]
            else meta.get("metavar") or ("SIZE" if meta.get("size") else _parser_of(kind, meta).__name__.upper())
        )
        group.add_argument(
            *names, type=_parser_of(kind, meta), choices=meta["choices"] or None, metavar=metavar, **about
        )


def _add_switch(group: Any, names: list[str], leaf: Any, about: dict[str, Any]) -> None:
    """`--x` and `--no-x`; the help shows the one that changes something."""
    off = list(dict.fromkeys(["--no-" + leaf.name.replace("_", "-"), *leaf.metadata.get("off", ())]))
    on_about, off_about = dict(about), dict(about)
    if leaf.default:
        on_about["help"], off_about["help"] = argparse.SUPPRESS, f"don't {about['help']}"
    else:
        off_about["help"] = argparse.SUPPRESS
    group.add_argument(*names, action="store_true", **on_about)
    group.add_argument(*off, action="store_false", **off_about)


def _parser_of(kind: Any, meta: Any) -> Any:
    if meta.get("size"):
        return size
    plain = next((k for k in get_args(kind) if k is not type(None)), kind)
    return plain


def config_from(args: argparse.Namespace, under: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Config:
    """The config that the flags, over the file, over what lies `under` both, describe. Raises CannotStart for a bad file."""
    path: Path | None = getattr(args, "config", None)
    tree: dict[str, dict[str, Any]] = {name: dict(section) for name, section in under.items()}
    for name, section in (_read(path) if path else {}).items():
        tree[name] = tree.get(name, {}) | section
    for name, value in vars(args).items():
        if "." in name:
            group, key = name.split(".")
            tree.setdefault(group, {})[key] = tuple(value) if isinstance(value, list) else value
    return build(tree)


def build(tree: dict[str, Any]) -> Config:
    """A Config from nested dicts; unknown names, and values that a setting cannot have, are refused by name."""
    return _build(Config, tree, "")


def _build(cls: Any, tree: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    if unknown := set(tree) - set(known):
        raise CannotStart(
            f"the config has no setting {where}{sorted(unknown)[0]!r}", f"It knows: {', '.join(sorted(known))}"
        )
    made = {}
    for name, value in tree.items():
        if is_dataclass(hints[name]):
            made[name] = _build(hints[name], value, f"{where}{name}.")
        else:
            secret = known[name].metadata.get("secret")
            made[name] = _checked(hints[name], value, f"{where}{name}", "what it is" if secret else f"{value!r}")
            _check_range(known[name].metadata, made[name], f"{where}{name}")
    return cls(**made)


def _checked(kind: Any, value: Any, where: str, shown: str) -> Any:
    """A value of a config file, checked against its field's type. `shown`: how errors tell of it."""
    if kind == tuple[str, ...]:
        if not isinstance(value, str | list | tuple):
            raise CannotStart(f"the config's {where} must be text or a list of texts, not {shown}")
        return (value,) if isinstance(value, str) else tuple(map(str, value))
    allowed = get_args(kind) or (kind,)
    if isinstance(value, str) and int in allowed and str not in allowed:
        try:
            return size(value)
        except argparse.ArgumentTypeError as error:
            raise CannotStart(f"the config's {where}: {error}") from None
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join("nothing" if k is type(None) else k.__name__ for k in allowed)
        raise CannotStart(f"the config's {where} must be {names}, not {shown}")
    return value


def _check_range(meta: Mapping[str, Any], value: Any, where: str) -> None:
    """Raise CannotStart for a value that is none of the choices, or a number out of bounds."""
    if (choices := meta["choices"]) and value not in choices:
        raise CannotStart(f"{where} must be one of {', '.join(choices)}, not {value!r}")
    low, high = meta.get("low"), meta.get("high")
    if value is None or low is None or (low <= value and (high is None or value <= high)):
        return
    raise CannotStart(
        f"{where} must be " + (f"at least {low}" if high is None else f"from {low} to {high}") + f", not {value}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        match path.suffix:
            case ".toml":
                tree = tomllib.loads(text)
            case ".json":
                tree = json.loads(text)
            case _:
                tree = yaml.safe_load(text) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CannotStart(f"cannot read the config file {path}: {error}") from None
    if not isinstance(tree, dict) or not all(isinstance(section or {}, dict) for section in tree.values()):
        raise CannotStart(f"the config file {path} must be a mapping of sections, each a mapping of settings")
    return {name: section or {} for name, section in tree.items()}


def flags_page() -> str:
    """docs/flags.md, generated."""
    lines = [
        "# Flags of `radixmill serve`",
        "",
        "Generated from `radixmill/core/config.py` by `python -m radixmill.cli > docs/flags.md`.",
        "",
    ]
    for section, cls in get_type_hints(Config).items():
        lines += [f"## {section}", "", (cls.__doc__ or "").strip(), "", "| flag | default | meaning |", "|---|---|---|"]
        for _, _, leaf in walk(cls):
            names = ", ".join(
                f"`{n}`"
                for n in ["--" + leaf.name.replace("_", "-"), *leaf.metadata["flags"], *leaf.metadata.get("off", ())]
            )
            choices = f" ({', '.join(leaf.metadata['choices'])})" if leaf.metadata["choices"] else ""
            default = "" if leaf.default in (None, ()) else f"`{leaf.default}`"
            lines.append(f"| {names} | {default} | {leaf.metadata['help']}{choices} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(flags_page())
