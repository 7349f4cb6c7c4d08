"""What `GET /openapi.json` says of `POST /predict`: what it takes, what it answers, how mistakes are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskloom.predict.readings import CellKind, Readings

_TYPES: Mapping[CellKind, str] = {"int": "integer", "float": "number", "text": "string", "bool": "boolean"}


def request_body(kind: str) -> Mapping[str, Any]:
    """What `/predict` takes.

    Args:
        kind: images, table or recordings.
    """
    files = {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}}
    if kind == "recordings":
        files |= {"person": {"type": "string"}, "new_people": {"type": "boolean"}}
        files |= {"people": {"type": "string", "format": "binary"}}
    form = {"schema": {"type": "object", "properties": files, "required": ["files"]}}
    content: dict[str, Any] = {"multipart/form-data": form}
    if kind == "table":
        rows = {"rows": {"type": "array", "items": {"type": "object"}}}
        content["application/json"] = {"schema": {"type": "object", "properties": rows, "required": ["rows"]}}
    return {"required": True, "content": content}


def answers(readings: Readings) -> dict[int | str, dict[str, Any]]:
    """What `/predict` answers, and the sentence of a mistake.

    Args:
        readings: How the bundle's tasks are read: their columns stand in every row, behind those that say
            which row it is.
    """
    row = {
        "type": "object",
        "properties": {column.name: _cell(_TYPES[column.kind]) for column in readings.columns},
        "required": [column.name for column in readings.columns],
        "additionalProperties": {"type": ["integer", "number", "string", "boolean", "null"]},
    }
    of_classes = {"type": "object", "additionalProperties": _cell("number")}
    answer = {
        "columns": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "kind": {"enum": list(_TYPES)}},
                "required": ["name", "kind"],
            },
        },
        "rows": {"type": "array", "items": row},
        "probabilities": {
            "description": "Of every row, by task, the probability of every class; null without predictions.",
            "type": "array",
            "items": {"type": ["object", "null"], "additionalProperties": of_classes},
        },
        "notes": {"type": "array", "items": {"type": "string"}},
        "device": {"type": "string"},
    }
    whole = {"type": "object", "properties": answer, "required": list(answer)}
    mistake = {
        "type": "object",
        "properties": {"error": {"type": "string", "description": "One sentence."}},
        "required": ["error"],
    }
    told = {"content": {"application/json": {"schema": mistake}}}
    return {
        200: {
            "description": "The predictions; with `format=csv` the table that `taskloom predict` writes.",
            "content": {"application/json": {"schema": whole}, "text/csv": {"schema": {"type": "string"}}},
        },
        "4XX": {"description": "A mistake in the request, or too much of it.", **told},
        "5XX": {"description": "Too many wait (503), or the server failed.", **told},
    }


def _cell(kind: str) -> dict[str, Any]:
    """A value, or null where there is none."""
    return {"type": [kind, "null"]}
