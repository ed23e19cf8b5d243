# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which notices hold, which were told of already, and how far the actions on them are: kept across
starts of the daemon, so that nothing is done twice for one notice, and nothing is left half done.

Every place that is looked at says all that it announces; what it does not say any more holds no
longer. Two places may tell of the same thing: it holds as long as one of them says so, and the
earlier of their times counts.

The file helps and is never in the way: what cannot be read is nothing kept, and what is not kept is
told of again after the next start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hibprep.history import STATE_DIRECTORY
from hibprep.kernel.durable import replace_durably
from hibprep.notices import Key, Notice, NoticeKind, ProviderName, key_of

FILE_NAME = "notices.json"
VERSION = 1
MOST_NOTICES = 64  # in the file; a machine has one or two
MOST_CHARACTERS = 4096  # of one notice's texts together; a longer one is not kept
_MOST_FILE_BYTES = 1 << 20  # far more than is ever written; what is cut off there is no JSON
_NEVER = datetime.max.replace(tzinfo=UTC)

Deeds = tuple[str, ...]
Pages = Mapping[str, tuple[Notice, ...]]  # what each place said last


@dataclass(frozen=True, slots=True)
class Changes:
    """What a look has changed. `over`: not said any more, and its time had come; `withdrawn`: not
    said any more, and it had not."""

    given: tuple[Notice, ...] = ()
    changed: tuple[Notice, ...] = ()  # as they are now: another time, or begun meanwhile
    withdrawn: tuple[Notice, ...] = ()
    over: tuple[Notice, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.given or self.changed or self.withdrawn or self.over)


class NoticeBook:
    """The book under one root. Not for two threads at once, but for `write`."""

    def __init__(self, root_prefix: str = "/") -> None:
        self.path = Path(root_prefix or "/") / STATE_DIRECTORY / FILE_NAME
        self._pages: dict[str, tuple[Notice, ...]] = {}
        self._work: dict[Key, Deeds] = {}

    def load(self) -> str:
        """Take up what was kept; returns why it could not be read, or "". A notice whose actions
        have not ended counts as one that was not told of."""
        try:
            with self.path.open("rb") as file:
                data = file.read(_MOST_FILE_BYTES)
            pages, work = from_text(data.decode())
            # nobody tells of a made-up one any more
            made_up = ProviderName.SIMULATED
            self._work = {key: deeds for key, deeds in work.items() if key[0] is not made_up}
            self._pages = {
                place: tuple(each for each in said if key_of(each) not in self._work)
                for place, said in pages.items()
            }
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{self.path}: {error.strerror or error}"
        except ValueError:
            return f"{self.path}: it is not what hibprep writes there, and counts as empty"
        return ""

    def holding(self) -> tuple[Notice, ...]:
        """All that holds, the most urgent first."""
        return tuple(sorted(merged(self._pages).values(), key=_urgency))

    def told(self, place: str, notices: Iterable[Notice], now: datetime) -> Changes:
        """`place` says these and nothing else; `now` by the provider's clock."""
        before = merged(self._pages)
        said = tuple(notices)
        if said:
            self._pages[place] = said
        else:
            self._pages.pop(place, None)
        return compare(before, merged(self._pages), now)

    def only(self, places: Iterable[str], now: datetime) -> Changes:
        """No other place is looked at any more: what they had said holds no longer."""
        before = merged(self._pages)
        for place in self._pages.keys() - set(places):
            del self._pages[place]
        return compare(before, merged(self._pages), now)

    def behind(self, key: Key) -> Deeds:
        """The actions on a notice that are not to be begun any more, in their order."""
        return self._work.get(key, ())

    def at_work(self, key: Key, behind: Deeds) -> None:
        """There is more to be done for it than these."""
        self._work[key] = behind

    def ended(self, key: Key) -> None:
        """Nothing more is done for it."""
        self._work.pop(key, None)

    def text(self) -> str:
        """What `write` is to be given."""
        return to_text(self._pages, self._work)

    def write(self, text: str) -> str:
        """Keep a text of `text`'s, on the disk when it returns; returns why not, or "". It blocks,
        for seconds where others write much, and may be called in a thread."""
        try:
            replace_durably(self.path, text.encode())
        except OSError as error:
            return f"{self.path}: {error.strerror or error}"
        return ""


# --- pure -----------------------------------------------------------------------------------------


def merged(pages: Pages) -> dict[Key, Notice]:
    """Every notice that is told of, once, as the place has it that leaves the least time."""
    found: dict[Key, Notice] = {}
    for said in pages.values():
        for notice in said:
            known = found.get(key_of(notice))
            if known is None or _urgency(notice) < _urgency(known):
                found[key_of(notice)] = notice
    return found


def compare(before: Mapping[Key, Notice], after: Mapping[Key, Notice], now: datetime) -> Changes:
    """From the one to the other; the most urgent first."""
    gone = [before[key] for key in before if key not in after]
    return Changes(
        given=_sorted(after[key] for key in after if key not in before),
        changed=_sorted(
            after[key]
            for key in after
            if key in before and _matter(after[key]) != _matter(before[key])
        ),
        withdrawn=_sorted(notice for notice in gone if not _is_over(notice, now)),
        over=_sorted(notice for notice in gone if _is_over(notice, now)),
    )


def _is_over(notice: Notice, now: datetime) -> bool:
    return notice.begun or (notice.at is not None and notice.at <= now)


def _matter(notice: Notice) -> tuple[object, ...]:
    """What makes it another one when it changes; words for people are not among it."""
    return (notice.kind, notice.at, notice.begun, notice.lead_seconds, notice.acknowledge)


def _urgency(notice: Notice) -> tuple[bool, datetime, float, str, str, str, str, str]:
    """Smaller is more urgent. All fields are in it, so that of two tellings always the same one
    counts, whichever came last."""
    return (
        not notice.begun,
        notice.at or _NEVER,
        math.inf if notice.lead_seconds is None else notice.lead_seconds,
        notice.source,
        notice.id,
        notice.kind,
        notice.acknowledge,
        notice.text,
    )


def _sorted(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    return tuple(sorted(notices, key=_urgency))


# --- as text --------------------------------------------------------------------------------------


def to_text(pages: Pages, work: Mapping[Key, Deeds] | None = None) -> str:
    """The pages as one JSON document: the most urgent MOST_NOTICES of them, without what is longer
    than a notice should be; and the last so many that are at work."""
    entries = [
        (place, notice)
        for place, said in pages.items()
        for notice in said
        if len(place) + _length(notice) <= MOST_CHARACTERS
    ]
    entries.sort(key=lambda entry: (_urgency(entry[1]), entry[0]))
    return json.dumps(
        {
            "version": VERSION,
            "notices": [
                {
                    "place": place,
                    "kind": notice.kind.value,
                    "source": notice.source.value,
                    "id": notice.id,
                    "at": None if notice.at is None else notice.at.isoformat(),
                    "begun": notice.begun,
                    "lead_seconds": notice.lead_seconds,
                    "acknowledge": notice.acknowledge,
                    "text": notice.text,
                }
                for place, notice in entries[:MOST_NOTICES]
            ],
            "work": [
                {"source": source.value, "id": identity, "behind": behind}
                for (source, identity), behind in list((work or {}).items())[-MOST_NOTICES:]
                if len(identity) + sum(map(len, behind)) <= MOST_CHARACTERS
            ],
        },
        separators=(",", ":"),
    )


def from_text(text: str) -> tuple[dict[str, tuple[Notice, ...]], dict[Key, Deeds]]:
    """The opposite of `to_text`. Raises ValueError for what is none of this version's."""
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError("another version's")
        pages: dict[str, tuple[Notice, ...]] = {}
        for entry in document["notices"][:MOST_NOTICES]:
            place = str(entry["place"])
            pages[place] = (*pages.get(place, ()), _notice_from(entry))
        work = {
            (ProviderName(str(entry["source"])), str(entry["id"])): tuple(map(str, entry["behind"]))
            for entry in document["work"][:MOST_NOTICES]
        }
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError("no book of notices") from error
    return pages, work


def _notice_from(entry: Mapping[str, object]) -> Notice:
    at, lead = entry["at"], entry["lead_seconds"]
    moment = None if at is None else datetime.fromisoformat(str(at)).astimezone(UTC)
    if lead is not None and not (isinstance(lead, int | float) and math.isfinite(lead)):
        raise TypeError("no number of seconds")
    return Notice(
        kind=NoticeKind(str(entry["kind"])),
        source=ProviderName(str(entry["source"])),
        id=str(entry["id"]),
        at=moment,
        begun=entry["begun"] is True,
        lead_seconds=lead,
        acknowledge=str(entry["acknowledge"]),
        text=str(entry["text"]),
    )


def _length(notice: Notice) -> int:
    return len(notice.id) + len(notice.acknowledge) + len(notice.text)
