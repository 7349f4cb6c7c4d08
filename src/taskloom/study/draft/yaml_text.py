"""YAML as a person would write it: one line per setting, names quoted only where they must be."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from taskloom.errors import DataError
from taskloom.study.yaml_lines import parse_value

WIDTH = 110
_COMMENT_COLUMN = 33
_PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_.#()/-]*( [A-Za-z0-9_.()/-]+)*")
_LONGEST_KEY = 1000
_SHOWN = 40


def scalar(value: Any) -> str:
    """A value in YAML that study files, and YAML 1.1 as PyYAML reads it, take for that same value.

    Example:
        >>> [scalar(value) for value in ("age", "no", "1", "a: b", 0.001, True)]
        ['age', '"no"', '"1"', '"a: b"', '0.001', 'true']
    """
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    return json.dumps(value)


def flow(value: Any) -> str:
    """A value on one line.

    Example:
        >>> flow({"kind": "binary", "classes": ["no", "sick"]})
        '{kind: binary, classes: ["no", sick]}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key(name)}: {flow(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def key(name: str) -> str:
    """The name of a setting, a column for example.

    Raises:
        DataError: It is longer than YAML takes.
    """
    text = scalar(name)
    if len(text) > _LONGEST_KEY:
        raise DataError(
            f"column `{shown(name)}`: a name of {len(name):,} characters is too long for a study file; "
            "rename the column."
        )
    return text


def line(text: str, comment: str = "") -> list[str]:
    """A line with its comment, which stands above it where both do not fit beside each other.

    Example:
        >>> line("repeats: 5", "seeds")
        ['repeats: 5                       # seeds']
    """
    comment = _on_one_line(comment)
    if not comment:
        return wrapped(text)
    beside = f"{text.ljust(_COMMENT_COLUMN - 2)}  # {comment}"
    if len(beside) <= WIDTH:
        return [beside]
    indent = text[: len(text) - len(text.lstrip())]
    return [*remark(comment, indent), *wrapped(text)]


def remark(comment: str, indent: str = "") -> list[str]:
    """A comment on lines of its own."""
    return textwrap.wrap(
        _on_one_line(comment),
        WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def wrapped(text: str) -> list[str]:
    """A line of flow YAML, broken after commas where it is too long; never inside quotation marks."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    lines, current = [], ""
    for piece in _pieces(text):
        if current.strip() and len(current) + len(piece.rstrip()) > WIDTH:
            lines.append(current.rstrip())
            current = indent + piece.lstrip()
        else:
            current += piece
    return [*lines, current.rstrip()]


def _pieces(text: str) -> Iterable[str]:
    """The text cut after every comma and blank that stands outside quotation marks."""
    start, quoted, escaped = 0, False, False
    for position, sign in enumerate(text):
        if escaped:
            escaped = False
        elif sign == "\\" and quoted:
            escaped = True
        elif sign == '"':
            quoted = not quoted
        elif sign == " " and not quoted and position and text[position - 1] == ",":
            yield text[start : position + 1]
            start = position + 1
    yield text[start:]


def shown(text: str) -> str:
    """A name or value as a comment shows it: on one line, and not too long.

    Example:
        >>> shown("a\\nb"), len(shown("x" * 200))
        ('a\\\\nb', 40)
    """
    plain = "".join(sign if sign.isprintable() else _quoted(sign)[1:-1] for sign in text)
    return plain if len(plain) <= _SHOWN else f"{plain[: _SHOWN - 3]}..."


def _on_one_line(comment: str) -> str:
    """The comment without signs that end a line, or that YAML does not take at all."""
    return "".join(sign if sign.isprintable() else " " for sign in comment)


def _is_plain(text: str) -> bool:
    """Whether both readers of YAML take the bare text, in a list, for itself."""
    if not _PLAIN.fullmatch(text) or " #" in text:
        return False
    return bool(parse_value(f"[{text}]") == [text] and yaml.safe_load(f"[{text}]") == [text])


def _quoted(text: str) -> str:
    """The text in quotation marks; what a printer or a YAML reader does not take is escaped."""
    signs = []
    for sign in json.dumps(text, ensure_ascii=False):
        if sign.isprintable():
            signs.append(sign)
        else:
            code = ord(sign)
            signs.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(signs)
