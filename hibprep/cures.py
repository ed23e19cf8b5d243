# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is wrong with a configuration and what is allowed instead, in words, from its JSON schema:
nothing is said twice about a setting."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from hibprep.sizes import SIZE_WORDS, shorten

Document = Mapping[str, object]
Place = tuple[str | int, ...]


def explain(
    document: Document, error: ValidationError, origins: Mapping[Place, Path], fallback: Path
) -> Iterator[str]:
    """One line for each key that is wrong. `document` is the schema, `origins` the file that each
    section and key was read from."""
    seen: set[Place] = set()
    for item in error.errors(include_url=False):
        place = _place(document, item["loc"])
        if place in seen:
            continue  # one line per key, however many members of a union it failed to be
        seen.add(place)
        path = next((origins[place[:n]] for n in (2, 1) if place[:n] in origins), fallback)
        key = _named(place)
        if item["type"] == "extra_forbidden":
            known = _keys(document, place[:-1])
            near = difflib.get_close_matches(str(place[-1]), known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            yield f"{path}: {key}: unknown {'section' if len(place) == 1 else 'key'}: {cure}"
        elif item["type"] == "value_error":
            yield f"{path}: {key}: {item['ctx']['error']}"
        elif item["type"] == "missing":
            yield f"{path}: {key} is missing: must be {_allowed(document, place)}"
        else:
            value = item["input"]
            yield f"{path}: {key} = {_shown(value)}: must be {_allowed(document, place)}"


def _place(document: Document, location: Place) -> Place:
    """As much of `location` as is in the file: sections, keys, and which of several tables. What
    comes after is pydantic's: the member of a union, the index in a list."""
    node = dict(document)
    place: list[str | int] = []
    for part in location:
        inner = _resolve(document, _object(node.get("items"))) if isinstance(part, int) else node
        if "properties" not in inner:
            break
        place.append(part)
        node = inner
        if isinstance(part, str):
            node = _resolve(document, _object(inner["properties"]).get(part))
    return tuple(place)


def _named(place: Place) -> str:
    """idle.after_seconds, or [[on]] 2: do, counted as people do."""
    words = str(place[0])
    for part in place[1:]:
        words = f"[[{words}]] {part + 1}:" if isinstance(part, int) else f"{words}.{part}"
    return words.replace(":.", ": ").removesuffix(":")


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return shorten(str(value).lower() if isinstance(value, bool) else repr(value))


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _resolve(document: Document, node: object) -> dict[str, object]:
    found = _object(node)
    reference = found.get("$ref")
    if isinstance(reference, str):
        definitions = _object(document.get("$defs"))
        return {**_object(definitions.get(reference.rsplit("/", 1)[-1])), **found}
    return found


def _node(document: Document, place: Place) -> dict[str, object]:
    node = dict(document)
    for part in place:
        within = node.get("items") if isinstance(part, int) else None
        node = _resolve(document, within or _object(node.get("properties")).get(str(part)))
    return node


def _keys(document: Document, place: Place) -> list[str]:
    return list(_object(_node(document, place).get("properties")))


def _allowed(document: Document, place: Place) -> str:
    """What a value may be."""
    node = _node(document, place)
    if len(place) > 1 and not isinstance(place[-1], int):
        return _words(document, node)
    if node.get("type") == "array":
        keys = _keys(document, (*place, 0))
        return f"tables [[{place[0]}]] with keys: {', '.join(keys)}"
    return "a section with keys: " + ", ".join(_keys(document, place))


def _words(document: Document, node: dict[str, object]) -> str:
    node = _resolve(document, node)
    if "enum" in node or "const" in node:
        members = node.get("enum", [node.get("const")])
        return "one of " + ", ".join(map(str, members if isinstance(members, list) else []))
    options = node.get("anyOf")
    if isinstance(options, list):
        if node.get("description") == SIZE_WORDS:
            return SIZE_WORDS
        words = [
            _words(document, option) for option in options if _object(option).get("type") != "null"
        ]
        return ", ".join(word.removeprefix("one of ") for word in words)
    if node.get("type") == "array":
        items = _words(document, _object(node.get("items")))
        if not node.get("minItems"):
            return f"a list, each of it {items}"
        return "a list with at least one of " + items.removeprefix("one of ")
    if node.get("type") == "boolean":
        return "true or false"
    if node.get("type") == "string":
        return str(node.get("description", "a text"))
    kind = "a whole number" if node.get("type") == "integer" else "a number"
    if "exclusiveMinimum" in node:
        kind += f" above {node['exclusiveMinimum']:g}"
    elif "minimum" in node:
        kind += f" from {node['minimum']:g}"
    return kind + (f" up to {node['maximum']:g}" if "maximum" in node else "")
