"""A template's program with its costs in sight: what Jinja lets no environment intercept is rewritten before it is compiled.

for x in y               a step is counted for every turn, and for every test of `for … if`
a ~ b                    joined by us, sizes first
a == b, a in b           both are weighed, unless one is a constant: lists that hold lists can take for ever
a[i:j], {a: b}           the slice is counted as made, the key weighed
"""

from __future__ import annotations

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

JOINED, MADE, WEIGHED = "our joined", "our made", "our weighed"  # filters; no template can write these names
# The compiler writes the name as it stands.
_TICK = nodes.EnvironmentAttribute("budget.tick()")


def metered(program: nodes.Template) -> nodes.Template:
    """The same program, changed in place."""
    _Meter().visit(program)
    return program


class _Meter(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_TICK, lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(_TICK, node.test, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through(JOINED, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if not any(map(_is_constant, (node.expr, *(operand.expr for operand in node.ops)))):
            node.expr = _through(WEIGHED, node.expr)
            for operand in node.ops:
                operand.expr = _through(WEIGHED, operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _through(MADE, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        if not _is_constant(node.key):
            node.key = _through(WEIGHED, node.key)
        return node


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _is_constant(node: nodes.Node) -> bool:
    """A constant, or a list of some: what is compared with it is looked at on its surface."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(map(_is_constant, node.items))
    return isinstance(node, nodes.Const)
