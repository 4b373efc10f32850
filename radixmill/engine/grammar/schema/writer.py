"""Forms → the schema text for the grammar library.

States used more than once become definitions; all others stand where they are used. What could only go on forever (a
member that is required and needs itself again) is found by counting up what can end, and left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from radixmill.engine.grammar.errors import GrammarError
from radixmill.engine.grammar.schema.cases import CaseAnalysis
from radixmill.engine.grammar.schema.forms import ArrayForm, Form, ObjectForm, Plain, forms_of
from radixmill.engine.grammar.schema.regex import write
from radixmill.engine.grammar.schema.shapes import ARRAY, OBJECT, State

MAX_STATES = 6_000
MAX_INLINE = 8  # levels written in place before a definition is made of the next

# NOTE: where members may have any name, the grammar library would take "\\u0061" for another name than "a", and so a
# member could be had against its schema. Without \\u that can't be; all but some control characters can be written.
_NO_UNICODE_ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}
# Enough for any layout in use: lines are indented, and little stands within them. Without a bound a model that likes
# line ends or blanks may write nothing else until its limit.
LAYOUT = r"\r?\n( {0,64}|\t{0,16})|[ \t]{0,2}"
_NEEDS_ESCAPES = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


class Writer:
    """One schema, from its first state on. `space`: a regular expression of what may stand between two tokens."""

    def __init__(self, cases: CaseAnalysis, space: str = LAYOUT) -> None:
        self.cases, self.space = cases, space
        self.forms: dict[State, list[Form]] = {}
        self.uses: Counter[State] = Counter()
        self.ending: set[State] = {()}
        self.names: dict[State, str] = {}
        self.open_names, self.needs_escapes = False, False

    def write(self, root: State) -> str:
        self._gather(root)
        self._count_up()
        if root not in self.ending:
            self._refuse_all(root)
        schema = self._schema(root, 0)
        schema = {"anyOf": [schema]} if isinstance(schema, bool) else schema
        definitions = dict(self._definitions())
        if self.open_names and self.needs_escapes:
            raise GrammarError("enum or const: a control character can't be written beside members of any name")
        options = {"whitespace_pattern": self.space, **(_NO_UNICODE_ESCAPES if self.open_names else {})}
        rest = {"$defs": definitions} if definitions else {}
        return json.dumps({"x-guidance": options, **rest, **schema}, ensure_ascii=False)

    def _refuse_all(self, root: State) -> None:
        conflict = self.cases.conflict
        if self.forms[root]:
            raise GrammarError("$ref: every value would go on without end")
        if conflict is None:
            raise GrammarError("the schema is false: no value satisfies it")
        keyword = conflict.reason.split()[0]
        raise GrammarError(f"no value satisfies the schema: {keyword} contradicts the rest of it", conflict.place)

    def _gather(self, root: State) -> None:
        """The forms of all states that can be reached."""
        todo = [root]
        while todo:
            state = todo.pop()
            self.uses[state] += 1
            if state in self.forms or state == ():
                continue
            if len(self.forms) >= MAX_STATES:
                raise GrammarError(f"the schema has more than {MAX_STATES} different parts")
            self.forms[state] = [] if self.cases.contradictory(state) else forms_of(self.cases, state)
            todo += [child for form in self.forms[state] for child, _ in _children(form)]

    def _count_up(self) -> None:
        """`ending`: the states in which a value of finite size exists."""
        waiting = list(self.forms)
        while True:
            left = [state for state in waiting if not any(map(self._ends, self.forms[state]))]
            if len(left) == len(waiting):
                return
            self.ending.update(set(waiting) - set(left))
            waiting = left

    def _ends(self, form: Form) -> bool:
        return all(child in self.ending for child, needed in _children(form) if needed)

    # ── text ──

    def _definitions(self) -> Iterator[tuple[str, Any]]:
        """Writing one may name more."""
        done: set[State] = set()
        while todo := [state for state in self.names if state not in done]:
            for state in todo:
                done.add(state)
                yield self.names[state], self._schema(state, 0)

    def _child(self, state: State, level: int) -> Any:
        if state == ():
            return True
        if state not in self.ending:
            return False
        if all(isinstance(form, Plain) for form in self.forms[state]):
            return self._schema(state, level)
        if self.uses[state] > 1 or level >= MAX_INLINE:
            return {"$ref": f"#/$defs/{self.names.setdefault(state, f's{len(self.names)}')}"}
        return self._schema(state, level)

    def _schema(self, state: State, level: int) -> Any:
        written = [self._form(form, level + 1) for form in self.forms[state] if self._ends(form)]
        return written[0] if len(written) == 1 else {"anyOf": written}

    def _form(self, form: Form, level: int) -> Any:
        if isinstance(form, Plain):
            self.needs_escapes |= _has_control(form.json)
            return form.json
        return self._array(form, level) if isinstance(form, ArrayForm) else self._object(form, level)

    def _array(self, form: ArrayForm, level: int) -> dict[str, Any]:
        out: dict[str, Any] = {"type": ARRAY}
        if form.prefix:
            out["prefixItems"] = [self._child(state, level) for state in form.prefix]
        if form.rest:
            out["items"] = self._child(form.rest, level)
        if form.low:
            out["minItems"] = form.low
        return out if form.high is None else {**out, "maxItems": form.high}

    def _object(self, form: ObjectForm, level: int) -> dict[str, Any]:
        out: dict[str, Any] = {"type": OBJECT}
        patterned = {write(pattern): self._child(state, level) for pattern, state in form.patterned}
        rest = self._child(form.rest, level)
        is_open = rest is not False or any(below is not False for below in patterned.values())
        members = {name: self._child(state, level) for name, state, _ in form.members}
        if not is_open:
            members = {name: below for name, below in members.items() if below is not False}
        if members:
            out["properties"] = members
        if required := [name for name, _, needed in form.members if needed]:
            out["required"] = required
        if is_open and (members or patterned):
            self.open_names = True
        if patterned:
            out["patternProperties"] = patterned
        if rest is not True:
            out["additionalProperties"] = rest
        limits = {"minProperties": form.low or None, "maxProperties": form.high}
        return out | {keyword: limit for keyword, limit in limits.items() if limit is not None}


def _has_control(schema: Any) -> bool:
    values = schema.get("enum", ()) if isinstance(schema, dict) else ()
    return any(isinstance(value, str) and _NEEDS_ESCAPES.search(value) for value in values)


def _children(form: Form) -> Iterator[tuple[State, bool]]:
    """States below a form, and whether a value needs one of them."""
    if isinstance(form, ArrayForm):
        yield from ((state, index < form.low) for index, state in enumerate(form.prefix))
        yield form.rest, form.low > len(form.prefix)
    elif isinstance(form, ObjectForm):
        yield from ((state, required) for _, state, required in form.members)
        yield from ((state, False) for _, state in form.patterned)
        yield form.rest, False
