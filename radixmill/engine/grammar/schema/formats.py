"""String formats: those that the grammar library enforces, those enforced here by a pattern; others are annotations."""

from __future__ import annotations

from radixmill.engine.grammar.schema.regex import Expr, parse

# For each format of the library's, a pattern that all its strings match and others may: enough to see that two
# formats, or a format and a pattern or value, have nothing in common (RFC 3339, 5321, 1123, 4291, 9562, 3986).
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

# RFC 3986, appendix A. In a relative path's first segment no colon may stand.
_OCTET = "%[0-9a-fA-F]{2}"
_CHAR = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|{_OCTET})"
_NO_COLON = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=@-]|{_OCTET})"
_USER = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=:-]|{_OCTET})"
_NAME = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=-]|{_OCTET})"
_H16 = "[0-9a-fA-F]{1,4}"
_IPV6 = "|".join(
    (rf"(?:{_H16}:){{7}}{_H16}", *(rf"(?:{_H16}:){{{n}}}:(?:{_H16}(?::{_H16}){{0,{6 - n}}})?" for n in range(1, 7)))
)
_IPV6 += rf"|::(?:{_H16}(?::{_H16}){{0,6}})?|(?:{_H16}:){{7}}:"
_LITERAL = rf"\[(?:{_IPV6}|[vV][0-9a-fA-F]+\.{_USER}+)\]"
_AUTHORITY = rf"//(?:{_USER}*@)?(?:{_LITERAL}|{_NAME}*)(?::\d*)?(?:/{_CHAR}*)*"
_ABSOLUTE = rf"/(?:{_CHAR}+(?:/{_CHAR}*)*)?"
_SCHEME = "[a-zA-Z][a-zA-Z0-9+.-]*:"
_TAIL = rf"(?:\?(?:{_CHAR}|[/?])*)?(?:#(?:{_CHAR}|[/?])*)?"
_FULL = rf"{_SCHEME}(?:{_AUTHORITY}|{_ABSOLUTE}|{_CHAR}+(?:/{_CHAR}*)*)?"
_RELATIVE = rf"(?:{_AUTHORITY}|{_ABSOLUTE}|{_NO_COLON}+(?:/{_CHAR}*)*)?"
_POINTER = r"(?:/(?:[^/~]|~[01])*)*"

_PATTERNS = {
    "uri-reference": rf"^(?:{_FULL}|{_RELATIVE}){_TAIL}$",
    "json-pointer": rf"^{_POINTER}$",  # RFC 6901
    "relative-json-pointer": rf"^(?:0|[1-9]\d*)(?:#|{_POINTER})$",
}
FORMAT_PATTERNS: dict[str, Expr] = {name: parse(pattern) for name, pattern in _PATTERNS.items()}

# The library's own formats for strings outside JSON, where it does not enforce them: whole strings, in its syntax.
_DATE = (
    r"(?:\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))|(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[zZ]|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_CLOCK = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"

RAW_FORMATS = {
    "date-time": rf"{_DATE}[tT]{_TIME}",  # RFC 3339
    "time": _TIME,
    "date": _DATE,
    "duration": rf"P(?:(?:\d+D|\d+M(?:\d+D)?|\d+Y(?:\d+M(?:\d+D)?)?)(?:{_CLOCK})?|{_CLOCK}|\d+W)",
    "email": rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*",  # RFC 5321, without quoted names and addresses
    "hostname": rf"{_LABEL}(?:\.{_LABEL})*",  # RFC 1123
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": f"(?:{_IPV6})",
    "uuid": r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": rf"{_FULL}{_TAIL}",  # RFC 3986
}
