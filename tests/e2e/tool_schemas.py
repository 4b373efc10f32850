"""Random tools, always the same for the same seed: all their texts, lists and levels have bounds.

Strings hold 40 characters at most, arrays four items, objects five members, and stand three levels deep at most; so a
value has an end, but how long it may become is not bound: members come together as they like.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

NAMES = (
    *("city", "country", "street", "title", "author", "note", "email", "phone", "price", "weight", "width", "height"),
    *("count", "level", "score", "rating", "tags", "items", "options", "owner", "address", "start", "end", "day"),
    *("month", "year", "colour", "size", "mode", "status", "language", "currency", "limit", "offset"),
)
WORDS = (
    *("red", "green", "blue", "small", "large", "low", "high", "open", "closed", "north", "south"),
    *("metric", "imperial", "café", "naïve", "a/b", "100%"),
)
MAX_DEPTH, MAX_MEMBERS, MAX_ITEMS, MAX_LENGTH = 3, 5, 4, 40


def tool(seed: int) -> Schema:
    """A function tool as OpenAI's API takes it."""
    draw = _Draw(random.Random(seed))
    parameters = draw.object(MAX_DEPTH)
    if draw.defs:
        parameters["$defs"] = draw.defs
    verb, noun = draw.rng.choice(("get", "set", "find", "book", "update")), draw.rng.choice(NAMES)
    function = {"name": f"{verb}_{noun}", "description": f"To {verb} the {noun}.", "parameters": parameters}
    return {"type": "function", "function": function}


class _Draw:
    """One tool's schemas. `defs`: those that others refer to."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.defs: dict[str, Schema] = {}

    def value(self, depth: int) -> Schema:
        """A schema whose values have at most `depth` levels below them."""
        leaves: list[Callable[[], Schema]] = [self.string, self.string, self.enum, self.integer, self.number, self.flag]
        if depth == 0 or self.rng.random() < 0.6:
            return self.rng.choice(leaves)()
        nests: list[Callable[[int], Schema]] = [self.object, self.array, self.array, self.reference, self.either]
        return self.rng.choice(nests)(depth - 1)

    def string(self) -> Schema:
        forms: list[Schema] = [{"format": "date"}, {"pattern": "^[A-Z]{2}-[0-9]{1,6}$"}, {"minLength": 1}, {}, {}, {}]
        form = self.rng.choice(forms)
        bound = {} if {"format", "pattern"} & set(form) else {"maxLength": self.rng.randint(3, MAX_LENGTH)}
        return {"type": "string", **form, **bound}

    def enum(self) -> Schema:
        listed = self.rng.sample(WORDS, self.rng.randint(2, 5))
        return {"enum": [*listed, None, 7]} if self.rng.random() < 0.2 else {"type": "string", "enum": listed}

    def integer(self) -> Schema:
        low = self.rng.randint(-100, 100)
        return {"type": "integer", "minimum": low, "maximum": low + self.rng.randint(1, 10**6)}

    def number(self) -> Schema:
        low = round(self.rng.uniform(-50, 50), 2)
        bound = self.rng.choice(("minimum", "exclusiveMinimum"))
        return {"type": "number", bound: low, "maximum": round(low + self.rng.randint(1, 1000), 2)}

    def flag(self) -> Schema:
        return {"type": self.rng.choice(("boolean", "boolean", "null"))}

    def object(self, depth: int) -> Schema:
        """Some of its members may be left out."""
        names = self.rng.sample(NAMES, self.rng.randint(1, MAX_MEMBERS))
        required = [name for name in names if self.rng.random() < 0.7]
        return {
            "type": "object",
            "properties": {name: self.value(depth - 1 if depth else 0) for name in names},
            "required": required,
            "additionalProperties": False,
        }

    def array(self, depth: int) -> Schema:
        most = self.rng.randint(1, MAX_ITEMS)
        return {"type": "array", "items": self.value(depth), "minItems": self.rng.randint(0, 1), "maxItems": most}

    def reference(self, depth: int) -> Schema:
        name = f"part{len(self.defs)}"
        self.defs[name] = {}  # its place, for those within it count on
        self.defs[name] = self.object(depth)
        return {"$ref": f"#/$defs/{name}"}

    def either(self, depth: int) -> Schema:
        """Null, or something else."""
        return {"anyOf": [self.value(depth), {"type": "null"}]}
