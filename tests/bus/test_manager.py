# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.hibprep.Manager1 on a real bus, asked by another connection and by busctl."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hibprep.bus import interface
from hibprep.bus import manager as module
from hibprep.bus.client import BusError, Client, close
from hibprep.bus.interface import INTERFACE, NAME, PATH
from hibprep.bus.manager import ManagerService
from hibprep.errors import HibprepError, NotPossibleError
from hibprep.events import Request, Signal, Wish
from hibprep.model import Target, TargetKind
from hibprep.status import Status
from tests.bus import conftest
from tests.bus.conftest import Bus, private_bus
from tests.fakes.host import STATUS, FakeHost
from tests.waiting import GENEROUS_SECONDS

if sys.version_info >= (3, 15):
    from dbus_fast import BusType, Message, MessageFlag, Variant
    from dbus_fast.aio import MessageBus
else:
    from dbus_next import BusType, Message, MessageFlag, Variant
    from dbus_next.aio import MessageBus

# dbus-next leaves the socket of a connection that fails to the garbage collector
unclosed = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

MANAGER = (NAME, PATH, INTERFACE)
PROPERTIES = (NAME, PATH, interface.PROPERTIES)
ERRORS = "org.freedesktop.DBus.Error"
NOBODY = 65534


@dataclass
class Serving:
    address: str
    host: FakeHost
    client: Client
    signals: list[Signal] = field(default_factory=list)
    refuses: HibprepError | None = None
    running: asyncio.Task[None] = field(init=False)

    def emit(self, signal: Signal) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.signals.append(signal)

    async def get(self, name: str) -> object:
        (variant,) = await self.client.call(PROPERTIES, "Get", "ss", (INTERFACE, name))
        return variant.value

    async def busctl(self, *words: str, uid: int | None = None) -> subprocess.CompletedProcess[str]:
        program = shutil.which("busctl")
        if program is None:
            pytest.skip("no busctl here: install systemd")
        return await asyncio.to_thread(
            subprocess.run,
            [program, f"--address={self.address}", *words],
            capture_output=True,
            text=True,
            timeout=GENEROUS_SECONDS,
            user=uid,
            extra_groups=None if uid is None else [],
        )


@contextlib.asynccontextmanager
async def serving(address: str) -> AsyncIterator[Serving]:
    host = FakeHost()
    ready = asyncio.Event()
    it = Serving(address, host, Client(address))
    running = it.running = asyncio.create_task(
        ManagerService(address).run(it.emit, host, started=ready.set)
    )
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait(
            (running, waiting), timeout=GENEROUS_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if running.done():
            running.result()
        async with it.client:
            yield it
    finally:
        for task in (waiting, running):
            task.cancel()
        await asyncio.wait((running, waiting), timeout=GENEROUS_SECONDS)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(2 * GENEROUS_SECONDS):
            await test()

    asyncio.run(limited())


def with_service(bus: Bus, test: Callable[[Serving], Awaitable[None]]) -> None:
    async def served() -> None:
        async with serving(bus.address) as it:
            await test(it)

    run(served)


# --- properties -----------------------------------------------------------------------------------


def test_the_properties(bus: Bus) -> None:
    async def test(it: Serving) -> None:
        (everything,) = await it.client.call(PROPERTIES, "GetAll", "s", (INTERFACE,))
        values = {name: (variant.signature, variant.value) for name, variant in everything.items()}
        last = values.pop("LastReport")
        assert last[0] == "s"
        assert json.loads(last[1]) == STATUS.last_report
        # a struct is a list in the one library and a tuple in the other
        sources = values.pop("Sources")
        assert sources[0] == "a(sbs)"
        assert [tuple(each) for each in sources[1]] == [
            ("logind", True, "2 sessions"),
            ("pressure", False, "boot with psi=1"),
        ]
        assert values == {
            "State": ("s", "reclaiming"),
            "Reason": ("s", "idle 5 min 2 s: seat0 locked"),
            "Policy": ("s", "idle"),
            "HibernateSeconds": ("d", 4.25),
            "ResumeSeconds": ("d", 9.5),
            "SaveableBytes": ("t", 3 << 30),
            "NextStep": ("s", "anon in 2 min 10 s"),
        }
        for name, (_, value) in values.items():
            assert await it.get(name) == value
        assert await it.client.call(PROPERTIES, "GetAll", "s", (interface.PEER,)) == [{}]

    with_service(bus, test)


def test_what_is_not_known_yet_and_what_no_bus_can_carry(bus: Bus) -> None:
    async def test(it: Serving) -> None:
        it.host.shown = Status(
            reason="\ud800 of \0", prediction={"saveable_bytes": -1, "resume_seconds": float("inf")}
        )
        assert await it.get("Reason") == "? of  "
        assert await it.get("SaveableBytes") == 0
        assert await it.get("HibernateSeconds") == 0.0
        assert await it.get("LastReport") == ""
        assert await it.get("Sources") == []

    with_service(bus, test)


def test_changes_are_signalled(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHANGES_PAUSE_SECONDS", 0.01)

    async def test(it: Serving) -> None:
        heard: asyncio.Queue[list[Any]] = asyncio.Queue()
        await it.client.listen(interface.PROPERTIES, "PropertiesChanged", heard.put_nowait)
        # written_today_bytes is no property: nothing is said of it
        it.host.change(written_today_bytes=1)
        it.host.change(phase="ready", next_step="")
        name, changed, invalidated = await heard.get()
        assert (name, invalidated) == (INTERFACE, [])
        assert {key: variant.value for key, variant in changed.items()} == {
            "State": "ready",
            "NextStep": "",
        }
        it.host.change(phase="sleeping")
        _, changed, _ = await heard.get()
        assert {key: variant.value for key, variant in changed.items()} == {"State": "sleeping"}

    with_service(bus, test)


# --- methods --------------------------------------------------------------------------------------


def test_the_methods(bus: Bus) -> None:
    async def test(it: Serving) -> None:
        for member, signature, body in (
            ("Prepare", "sd", ("", 0.0)),
            ("Prepare", "sd", ("min", 5.0)),
            ("Prepare", "sd", ("2 GiB", 0.0)),
            ("Stop", "", ()),
            ("SwapIn", "", ()),
        ):
            assert await it.client.call(MANAGER, member, signature, body) == []
        wanted: list[tuple[Wish, Target | None, float | None]] = [
            (Wish.PREPARE, None, None),
            (Wish.PREPARE, Target(TargetKind.MIN), 5.0),
            (Wish.PREPARE, Target(TargetKind.SIZE, 2 << 30), None),
            (Wish.STOP, None, None),
            (Wish.SWAP_IN, None, None),
        ]
        requests = [signal for signal in it.signals if isinstance(signal, Request)]
        assert [(item.wish, item.target, item.timeout_seconds) for item in requests] == wanted
        assert all(item.who.startswith(f"{NAME} :1.") for item in requests)

    with_service(bus, test)


def test_errors_have_their_standard_names(bus: Bus) -> None:
    elsewhere = (NAME, "/org/hibprep/Elsewhere", INTERFACE)
    cases: list[tuple[tuple[str, str, str], str, str, tuple[object, ...], str]] = [
        (MANAGER, "Reboot", "", (), "UnknownMethod"),
        (MANAGER, "Get", "ss", (INTERFACE, "State"), "UnknownMethod"),
        (MANAGER, "Prepare", "", (), "InvalidArgs"),
        (MANAGER, "Prepare", "s", ("min",), "InvalidArgs"),
        (MANAGER, "Prepare", "sd", ("everything", 0.0), "InvalidArgs"),
        (MANAGER, "Prepare", "sd", ("0", 0.0), "InvalidArgs"),
        (MANAGER, "Prepare", "sd", ("min", -1.0), "InvalidArgs"),
        (MANAGER, "Prepare", "sd", ("min", float("nan")), "InvalidArgs"),
        (MANAGER, "Prepare", "sd", ("min", float("inf")), "InvalidArgs"),
        (MANAGER, "Stop", "s", ("now",), "InvalidArgs"),
        (elsewhere, "Stop", "", (), "UnknownObject"),
        ((NAME, PATH, "org.hibprep.Manager2"), "Stop", "", (), "UnknownInterface"),
        ((NAME, "/org/hibprep", INTERFACE), "Stop", "", (), "UnknownInterface"),
        (PROPERTIES, "Get", "ss", (INTERFACE, "Mood"), "UnknownProperty"),
        (PROPERTIES, "Get", "ss", (interface.PEER, "State"), "UnknownProperty"),
        (PROPERTIES, "Get", "ss", ("org.example.None", "State"), "UnknownInterface"),
        (PROPERTIES, "Get", "s", ("State",), "InvalidArgs"),
        (PROPERTIES, "GetAll", "s", ("org.example.None",), "UnknownInterface"),
        (PROPERTIES, "Set", "ssv", (INTERFACE, "State", Variant("s", "x")), "PropertyReadOnly"),
        (PROPERTIES, "Set", "ssv", (INTERFACE, "Mood", Variant("s", "x")), "UnknownProperty"),
    ]

    async def test(it: Serving) -> None:
        for target, member, signature, body, name in cases:
            with pytest.raises(BusError) as caught:
                await it.client.call(target, member, signature, body)
            assert caught.value.name == f"{ERRORS}.{name}", (target, member, body)
            assert "\n" not in str(caught.value)
        assert it.signals == []
        assert await it.get("State") == "reclaiming"

    with_service(bus, test)


def test_what_the_daemon_cannot_do_is_refused_with_its_remedy(bus: Bus) -> None:
    async def test(it: Serving) -> None:
        it.refuses = NotPossibleError("there is no swap", "add one")
        with pytest.raises(BusError, match="there is no swap") as caught:
            await it.client.call(MANAGER, "SwapIn", "", ())
        assert caught.value.name == f"{ERRORS}.NotSupported"
        it.refuses = None
        assert await it.client.call(MANAGER, "Stop", "", ()) == []

    with_service(bus, test)


def test_a_call_that_names_no_interface_and_one_that_wants_no_answer(bus: Bus) -> None:
    async def test(it: Serving) -> None:
        connection: Any = MessageBus(bus_address=it.address, bus_type=BusType.SYSTEM)
        await connection.connect()
        try:
            await connection.call(Message(destination=NAME, path=PATH, member="SwapIn"))
            seen: list[Any] = []
            connection.add_message_handler(seen.append)
            for member in ("Stop", "Reboot"):
                await connection.send(
                    Message(
                        destination=NAME,
                        path=PATH,
                        interface=INTERFACE,
                        member=member,
                        flags=MessageFlag.NO_REPLY_EXPECTED,
                    )
                )
            # answered after the others
            await connection.call(Message(destination=NAME, path=PATH, member="SwapIn"))
            wishes = [item.wish for item in it.signals if isinstance(item, Request)]
            assert wishes == [Wish.SWAP_IN, Wish.STOP, Wish.SWAP_IN]
            assert len(seen) == 1
        finally:
            await close(connection)

    with_service(bus, test)


def test_somebody_else_is_denied_without_any_policy(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The private bus allows everything: it is the service itself that says no."""

    async def test(it: Serving) -> None:
        monkeypatch.setattr(module, "_allowed", lambda: frozenset({NOBODY}))
        for member, signature, body in (
            ("Prepare", "sd", ("min", 0.0)),
            ("Stop", "", ()),
            ("SwapIn", "", ()),
        ):
            with pytest.raises(BusError, match="only root") as caught:
                await it.client.call(MANAGER, member, signature, body)
            assert caught.value.name == f"{ERRORS}.AccessDenied"
        assert it.signals == []
        assert await it.get("State") == "reclaiming"

    with_service(bus, test)


def test_more_calls_than_are_kept(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING_CALLS", 1)

    async def test(it: Serving) -> None:
        calls = (it.client.call(MANAGER, "Stop") for _ in range(20))
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [item.name for item in results if isinstance(item, BusError)]
        assert set(refused) <= {f"{ERRORS}.LimitsExceeded"}
        assert len(it.signals) == len(results) - len(refused) >= 1

    with_service(bus, test)


# --- the name and the connection ------------------------------------------------------------------


def test_a_name_that_is_taken(bus: Bus) -> None:
    async def test(it: Serving) -> None:
        with pytest.raises(HibprepError, match="another hibprep daemon runs"):
            await ManagerService(it.address).run(it.signals.append, FakeHost())
        assert await it.get("State") == "reclaiming"

    with_service(bus, test)


def test_the_name_is_given_back(bus: Bus) -> None:
    async def test(it: Serving) -> None:
        assert await it.get("State") == "reclaiming"

    for _ in range(2):
        with_service(bus, test)


def test_the_bus_dies(bus: Bus) -> None:
    async def test() -> None:
        async with serving(bus.address) as it:
            await asyncio.to_thread(bus.kill)
            await asyncio.wait((it.running,), timeout=GENEROUS_SECONDS)
            assert isinstance(it.running.exception(), BusError)

    run(test)


@unclosed
def test_no_bus(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(BusError, match="no connection to the system bus"):
            await ManagerService(f"unix:path={tmp_path}/none").run(lambda _: None, FakeHost())

    run(test)


# --- the description ------------------------------------------------------------------------------


def test_the_description_is_what_is_answered(bus: Bus) -> None:
    async def describe(it: Serving, path: str) -> ET.Element:
        (text,) = await it.client.call((NAME, path, interface.INTROSPECTABLE), "Introspect")
        return ET.fromstring(text)  # noqa: S314 - our own

    async def test(it: Serving) -> None:
        path = ""
        while path != PATH:  # it leads from the root to the object
            (child,) = (await describe(it, path or "/")).findall("node")
            path += f"/{child.attrib['name']}"
        root = await describe(it, PATH)
        methods = {
            interface.Method(
                face.attrib["name"],
                method.attrib["name"],
                "".join(
                    arg.attrib["type"]
                    for arg in method.findall("arg")
                    if arg.attrib["direction"] == "in"
                ),
            )
            for face in root.findall("interface")
            for method in face.findall("method")
        }
        assert methods == set(interface._METHODS)
        described = {
            (item.attrib["name"], item.attrib["type"], item.attrib["access"])
            for item in root.iter("property")
        }
        (everything,) = await it.client.call(PROPERTIES, "GetAll", "s", (INTERFACE,))
        assert described == {
            (name, variant.signature, "read") for name, variant in everything.items()
        }
        assert await it.client.call((NAME, PATH, interface.PEER), "Ping") == []

    with_service(bus, test)


def test_busctl(bus: Bus) -> None:
    async def test(it: Serving) -> None:
        shown = await it.busctl("introspect", NAME, PATH)
        assert shown.returncode == 0, shown.stderr
        for word in (".Prepare", ".SwapIn", ".Sources", "a(sbs)", ".PropertiesChanged"):
            assert word in shown.stdout
        state = await it.busctl("get-property", NAME, PATH, INTERFACE, "State")
        assert state.stdout == 's "reclaiming"\n'
        called = await it.busctl("call", NAME, PATH, INTERFACE, "Prepare", "sd", "min", "5")
        assert called.returncode == 0, called.stderr
        assert [item.wish for item in it.signals if isinstance(item, Request)] == [Wish.PREPARE]
        refused = await it.busctl("set-property", NAME, PATH, INTERFACE, "State", "s", "x")
        assert refused.returncode != 0

    with_service(bus, test)


# --- the policy -----------------------------------------------------------------------------------

POLICY = Path(interface.__file__).parents[1] / "resources" / "org.hibprep.Manager1.conf"
# what the system bus allows before a service's own file is read (dbus's system.conf)
_SYSTEM_RULES = f"""
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <include>{POLICY}</include>
</busconfig>
"""


@pytest.fixture
def system_bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """A bus with the rules of the system's and with ours, in a folder that anybody may enter."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else as well")
    head = conftest._CONFIG[: conftest._CONFIG.index("<allow user")].rstrip()
    monkeypatch.setattr(conftest, "_CONFIG", f"{head}{_SYSTEM_RULES}")
    with tempfile.TemporaryDirectory(prefix="hibprep-bus-") as folder:
        Path(folder).chmod(0o755)
        with private_bus(Path(folder)) as made:
            yield made


def test_anyone_may_read_and_only_root_may_act(system_bus: Bus) -> None:
    async def test(it: Serving) -> None:
        # root, which is who this test is
        assert await it.client.call(MANAGER, "Stop") == []
        assert len(it.signals) == 1
        reading: tuple[tuple[str, ...], ...] = (
            ("introspect", NAME, PATH),
            ("get-property", NAME, PATH, INTERFACE, "State"),
            ("call", NAME, PATH, interface.PROPERTIES, "GetAll", "s", INTERFACE),
            ("call", NAME, PATH, interface.PEER, "Ping"),
        )
        for words in reading:
            read = await it.busctl(*words, uid=NOBODY)
            assert read.returncode == 0, read.stderr
        acting: tuple[tuple[str, ...], ...] = (
            ("call", NAME, PATH, INTERFACE, "Stop"),
            ("call", NAME, PATH, INTERFACE, "SwapIn"),
            ("call", NAME, PATH, INTERFACE, "Prepare", "sd", "min", "0"),
        )
        for words in acting:
            acted = await it.busctl(*words, uid=NOBODY)
            assert acted.returncode != 0
            assert "denied" in acted.stderr, acted.stderr
            assert "only root" not in acted.stderr, "the bus itself says no"
        assert len(it.signals) == 1

    with_service(system_bus, test)


def test_only_root_may_own_the_name(system_bus: Bus) -> None:
    async def test() -> None:
        # the bus is told the real one, and checks it against the effective one
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            with pytest.raises(BusError, match="does not give the name") as caught:
                await ManagerService(system_bus.address).run(lambda _: None, FakeHost())
        finally:
            os.setresuid(0, 0, 0)
        assert caught.value.name == f"{ERRORS}.AccessDenied"
        assert "/usr/share/dbus-1/system.d" in caught.value.remedy

    run(test)
