# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a person asks of DAMON_RECLAIM, checked as a whole: all that is wrong, before anything is
written. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from hibprep.damon.parameters import PARAMETERS, PRESETS, Parameter, Unit, Value, parse_value
from hibprep.damon.state import ReclaimState, Surroundings
from hibprep.damon.valid import errors
from hibprep.errors import UsageError
from hibprep.sizes import shorten

# Not an input: what `set` ends with. Taken like one, as the document writes it.
_ENABLED = Parameter("enabled", Unit.SWITCH, default=False, since="5.16")


class WrongParameters(UsageError):
    """Parameters that cannot be; `lines` tells each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


@dataclass(frozen=True, slots=True)
class Choice:
    """Inputs to be set, and whether it is to run."""

    inputs: Mapping[str, Value]
    enabled: bool


def chosen(
    words: Sequence[str], preset: str | None, state: ReclaimState, around: Surroundings
) -> Choice:
    """What `PARAM=VALUE` words on top of a preset come to, on top of what is set now; raises
    WrongParameters with everything that is wrong."""
    wrong: list[str] = []
    if not words and preset is None:
        wrong.append("nothing to set: give PARAM=VALUE, such as min_age=30s, or --preset document")
    given: dict[str, Value] = {}
    for word in words:
        try:
            name, value = _read(word)
        except ValueError as error:
            wrong.append(str(error))
        else:
            if name in given:
                wrong.append(f"{name} is given twice")
            given[name] = value
    enabled = bool(given.pop(_ENABLED.name, True))
    inputs = {**(PRESETS[preset] if preset else {}), **given}
    wrong += [
        f"{name}: this kernel has no such parameter; from {PARAMETERS[name].since} on there is one"
        for name in inputs
        if name not in state.inputs
    ]
    wrong += errors({**state.inputs, **inputs}, around.ram, page=around.page)
    if wrong:
        raise WrongParameters(wrong)
    return Choice(inputs, enabled)


def _read(word: str) -> tuple[str, Value]:
    """The name and the value in PARAM=VALUE; ValueError says what is wrong."""
    name, equals, text = word.partition("=")
    if not equals:
        raise ValueError(f"{shorten(word)} is not PARAM=VALUE, such as min_age=30s")
    parameter = _ENABLED if name == _ENABLED.name else PARAMETERS.get(name)
    if parameter is None:
        near = get_close_matches(name, PARAMETERS, n=1)
        hint = f"did you mean {near[0]}?" if near else "hibprep damon show lists them"
        raise ValueError(f"there is no parameter {shorten(name)}: {hint}")
    return name, parse_value(parameter, text)
