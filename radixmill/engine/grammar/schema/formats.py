"""The string formats that the grammar library enforces; all others are annotations, as the standard has it."""

from __future__ import annotations

from radixmill.engine.grammar.schema.regex import Expr, parse

# For each format, a pattern that all its strings match and others may: enough to see that two formats, or a format
# and a pattern or value, have nothing in common (RFC 3339, RFC 5321, RFC 1123, RFC 4291, RFC 9562, RFC 3986).
_COVERS = {
    "date-time": r"^\d{4}-\d\d-\d\d[tT]\d\d:\d\d:\d\d[0-9.zZ+:-]*$",
    "time": r"^\d\d:\d\d:\d\d[0-9.zZ+:-]*$",
    "date": r"^\d{4}-\d\d-\d\d$",
    "duration": r"^P[0-9YMDTHSW]+$",
    "email": r"^[^@]+@[^@]+$",
    "hostname": r"^[a-zA-Z0-9.-]+$",
    "ipv4": r"^\d+\.\d+\.\d+\.\d+$",
    "ipv6": r"^[0-9a-fA-F:]*:[0-9a-fA-F:]*$",
    "uuid": r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F-]{22}$",
    "uri": r"^[a-zA-Z][a-zA-Z0-9+.-]*:[!-~]*$",
}
KNOWN_FORMATS: dict[str, Expr] = {name: parse(pattern) for name, pattern in _COVERS.items()}
