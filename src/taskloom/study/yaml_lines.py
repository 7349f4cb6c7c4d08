"""YAML with line numbers: every key of a study file knows where it stands, so that an error can say so."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from taskloom.errors import ConfigError
from taskloom.recipes import recipe_of

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys of mappings and positions in lists, from the top."""


@dataclass
class Document:
    """A YAML file as plain values, with the line of every key.

    Args:
        path: The file, as it is named in messages.
        value: Its top mapping.
        lines: Line (from 1) of every key path.
        overridden: Key paths that `--set` put in; they have no line.
    """

    path: str
    value: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overridden: set[KeyPath] = field(default_factory=set)

    def where(self, path: KeyPath) -> str:
        """Returns "file.yaml:12" for a key path, or for the nearest one above it; "--set a.b" where set so.

        Example:
            >>> Document("a.yaml", {}, lines={("tasks",): 3}).where(("tasks", "age", "unit"))
            'a.yaml:3'
        """
        for end in range(len(path), 0, -1):
            if path[:end] in self.overridden:
                return f"--set {dotted(path[:end])}"
            if path[:end] in self.lines:
                return f"{self.path}:{self.lines[path[:end]]}"
        return self.path

    def say(self, path: KeyPath, message: str) -> str:
        """Returns a message that begins with a setting's path, with its place before it; no path twice.

        Example:
            >>> Document("a.yaml", {}, lines={("seed",): 3}).say(("seed",), "seed: a number expected.")
            'a.yaml:3: seed: a number expected.'
            >>> Document("a.yaml", {}, overridden={("seed",)}).say(("seed",), "seed: a number expected.")
            '--set seed: a number expected.'
        """
        place = self.where(path)
        key = place.removeprefix("--set ")
        if key != place and message.startswith((f"{key}:", f"{key} ")):
            return f"--set {message}"
        return f"{place}: {message}"


def dotted(path: KeyPath) -> str:
    """Writes a key path as messages do.

    Example:
        >>> dotted(("cells", 0, "hard_sharing", "stages"))
        'cells[0].hard_sharing.stages'
    """
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


class _Loader(yaml.SafeLoader):
    """Plain scalars as in YAML 1.2: `1e-3` is a number, `no` and `2011-05-01` are text.

    YAML 1.1, which PyYAML follows, reads `1e-3` as text and the class names `[no, yes]` as booleans.
    """


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))


def _integer(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """A leading zero is decimal, as in YAML 1.2, not octal as in YAML 1.1."""
    text = str(node.value)
    return int(text, 16) if text.lower().startswith("0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


_PLAIN_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def read_document(path: Path) -> Document:
    """Reads a study file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, holds a key twice or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        own = recipe_of(path)
        where = f" taskloom's own {path.name} is {own}." if own else ""
        raise ConfigError(
            f"{path}: there is no such file; a study file in YAML was expected.{where}"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a study file in YAML was expected, found a folder.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the file cannot be read as text ({error}).") from None
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Parses the text of a study file; `name` stands for the file in messages.

    Raises:
        ConfigError: See `read_document`.

    Example:
        >>> document = parse_document("training: {lr: 1e-3}", "a.yaml")
        >>> document.value, document.where(("training", "lr"))
        ({'training': {'lr': 0.001}}, 'a.yaml:1')
    """
    document = Document(name, {})
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        value = None if node is None else _value(loader, node, (), document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: this is not YAML: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: this is not YAML: {' '.join(str(error).split())}.") from None
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{name}: settings by name expected (data, tasks, encoder, ...), found {found}.")
    document.value = value
    return document


def parse_value(text: str) -> Any:
    """Parses one value, as `--set key=value` gives it; keys are text, as in a file (`null: drop`).

    Raises:
        yaml.YAMLError: The text is not YAML.
        ConfigError: A key stands twice, or is none.

    Example:
        >>> parse_value("[1, 1e-3, no]")
        [1, 0.001, 'no']
        >>> parse_value("{null: drop}")
        {'null': 'drop'}
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _value(loader, node, (), Document("--set", {}))
    finally:
        loader.dispose()


def _value(loader: _Loader, node: yaml.Node, path: KeyPath, document: Document) -> Any:
    """The value of a node; notes the line of every key below it on the way."""
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_COLLECTIONS:
        line = node.start_mark.line + 1
        raise ConfigError(
            f"{document.path}:{line}: this is not YAML: the tag `{node.tag}` means nothing here."
        )
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*path, i), document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, document)
    return loader.construct_object(node, deep=True)


def _mapping(loader: _Loader, node: yaml.MappingNode, path: KeyPath, document: Document) -> dict[str, Any]:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
            raise ConfigError(
                f"{document.path}:{line}: {dotted((*path, key))} stands twice, first in line {seen[key]}; "
                "keep one of the two."
            )
        seen[key] = line
    loader.flatten_mapping(node)  # `<<: *other` first, so that the mapping's own keys win
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(
                f"{document.path}:{key_node.start_mark.line + 1}: a name expected as the key, "
                "found a list or mapping."
            )
        key = str(key_node.value)
        document.lines[(*path, key)] = key_node.start_mark.line + 1
        values[key] = _value(loader, value_node, (*path, key), document)
    return values
