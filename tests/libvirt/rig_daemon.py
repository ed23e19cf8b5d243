# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep run` on a host of the rig: a process of its own, as the user that libvirtd and so its
hooks are, on a machine that is rendered."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

from bench.lab import hypervisor
from bench.lab.paths import REPOSITORY
from bench.lab.process import end, launch, tail
from bench.lab.rig import own
from bench.lab.rig_host import RigHost
from tests.fakes.machine import FakeMachine
from tests.fakes.state import FakeSwap
from tests.waiting import until

START_SECONDS = 120.0
HEARS = "source guests works"
_END_SECONDS = 30.0
_BECOME = Path(__file__).with_name("become.py")
_SWAP = FakeSwap("/dev/vda2", 16 << 30, device="254:2")
CONFIG = """
[daemon]
policy = "on-request"
[guests]
enabled = true
uri = "{uri}"
"""


class RigDaemon:
    """Use it in a ``with`` statement; it has heard of libvirt by then."""

    def __init__(self, host: RigHost, *, uri: str = "", more: str = "") -> None:
        """``uri``: of libvirt, if not the host's own. ``more``: of its configuration."""
        self._host = host
        self._uri = uri or host.uri
        host.folder.joinpath("daemons").mkdir(exist_ok=True)
        self.root = Path(tempfile.mkdtemp(dir=host.folder / "daemons"))
        FakeMachine(swaps=[_SWAP], resume_device=_SWAP.device).render(self.root)
        self._log = self.root / "log"
        self.configure(more)
        for path in (self.root, *self.root.rglob("*")):
            own(path)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def control(self) -> Path:
        """Where it listens."""
        return self.root / "run/hibprep/control"

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    def configure(self, more: str) -> None:
        """Write its configuration, for the next `start` or `reload`."""
        path = self.root / "etc/hibprep/hibprep.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CONFIG.format(uri=self._uri) + more)
        own(path)

    def reload(self) -> None:
        """Have it read that."""
        assert self._process is not None
        seen = self.log.count("read anew")
        self._process.send_signal(signal.SIGHUP)
        self.wait_for(lambda: self.log.count("read anew") > seen, "it has read its configuration")

    def __enter__(self) -> Self:
        program = [sys.executable, "-B", "-m", "hibprep", "run", "--root", str(self.root)]
        # no bus: that of this machine is no business of the rig's
        environment = self._host.environment | {
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.root}/no-bus",
            "PYTHONPATH": str(REPOSITORY),
        }
        with self._log.open("ab") as output:
            self._process = launch(
                [sys.executable, "-I", "-S", str(_BECOME), str(hypervisor.UID), *program],
                output=output,
                environment=environment,
            )
        try:
            self.wait_for(self.control.exists, "it listens")
            self.wait_for(lambda: HEARS in self.log, "it hears libvirt")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            end(self._process, _END_SECONDS)

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Until that is so; fails at once when it has ended."""

        def look() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, tail(self._log, 40)
            return bool(condition())

        try:
            until(look, what, START_SECONDS, pause_seconds=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{tail(self._log, 40)}") from None
