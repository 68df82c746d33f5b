"""The JSON Schema of the outbound, for editors that complete and check what is typed.

``outbound.schema.json`` beside this file is what :func:`schema_text` returns. After a change of the definitions::

    python -m anytls_http.config.schema

What needs more than one field, a name's form or the machine at hand to be judged is beyond a schema:
``anytls-http check-config`` judges all of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .definitions import FIELDS, FieldDefinition, Kind, default_text
from .unsupported import MEMBERS

__all__ = ["SCHEMA_PATH", "outbound_schema", "schema_text"]

SCHEMA_PATH = Path(__file__).with_name("outbound.schema.json")

_UNIT = "(?:ns|us|\u00b5s|\u03bcs|ms|s|m|h|d)"
#: A Go duration that isn't negative, or nothing.
_DURATION = rf"^\+?(?:0|(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+){_UNIT})+)$|^$"
#: What Go's ParseUint takes with base 0, or nothing.
_MARK = "^(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)?$"


def outbound_schema() -> dict[str, Any]:
    """Return the schema. A field may be null everywhere: that is as good as leaving it out."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "AnyTLS outbound of anytls_http",
        "description": "The anytls outbound of sing-box, with the fields of the pool that this package adds.",
        **_object(""),
    }


def schema_text() -> str:
    """Return the schema as the file has it."""
    return json.dumps(outbound_schema(), indent=2, ensure_ascii=False) + "\n"


def _object(path: str) -> dict[str, Any]:
    members = [field for field in FIELDS if field.parent == path and field.path]
    properties = {field.name: _property(field) for field in members}
    # What belongs to something that isn't supported yet is known by name only.
    properties |= {name: {} for name in MEMBERS.get(path, ()) if name not in properties}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required := [field.name for field in members if field.required]:
        schema["required"] = required
    return schema


def _property(field: FieldDefinition) -> dict[str, Any]:
    described: dict[str, Any] = {"description": field.meaning.replace("`", "")}
    if default := default_text(field).replace("`", ""):
        described["description"] += f" (default: {default})"
    return described | (_unset(field) if field.refused else _values(field))


def _unset(field: FieldDefinition) -> dict[str, Any]:
    return {"enum": [False, None] if field.kind is Kind.FLAG else ["", None]}


def _values(field: FieldDefinition) -> dict[str, Any]:
    optional = [] if field.required else ["null"]
    match field.kind:
        case Kind.FLAG:
            return {"const": True} if field.required else {"type": ["boolean", *optional]}
        case Kind.INTEGER:
            bounds = {"minimum": field.lowest, "maximum": field.highest}
            return {"type": ["integer", *optional], **bounds} if optional else {"type": "integer", **bounds}
        case Kind.DURATION:
            return {"type": ["string", *optional], "pattern": _DURATION, "examples": ["30s", "1h30m"]}
        case Kind.MARK:
            number = {"type": "integer", "minimum": 0, "maximum": field.highest}
            return {"anyOf": [number, {"type": "string", "pattern": _MARK}, {"type": "null"}]}
        case Kind.TEXTS:
            item = {"enum": list(field.choices)} if field.choices else {"type": "string"}
            one = {"enum": [*field.choices, ""]} if field.choices else item
            return {"anyOf": [one, {"type": "array", "items": item}, {"type": "null"}]}
        case Kind.OBJECT:
            return (
                _object(field.path) if field.required else {"anyOf": [_object(field.path), {"type": "null"}]}
            )
        case Kind.TEXT_OR_OBJECT:
            return {"anyOf": [{"type": "string"}, _object(field.path), {"type": "null"}]}
        case Kind.TEXT:
            if field.choices:
                return {"enum": [*field.choices, "", None]}
            return {"type": ["string", *optional]} if optional else {"type": "string", "minLength": 1}


if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
