# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon: signals in, decisions out, and carrying them out.

Everything happens on one event loop, in one task group; a decision is made in the very moment in
which its signal comes. Only a run of reclaim is in a thread (`hibprep.runner`). Nothing here knows
what is idle, and when to take what: that is `hibprep.decide`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import replace

from hibprep import daemonlog, metrics, streams
from hibprep.asleep import AroundSleep
from hibprep.bringback import BringBack
from hibprep.bus.manager import ManagerService
from hibprep.clock import Clock, SystemClock
from hibprep.config import Config
from hibprep.decide import decide
from hibprep.errors import HibprepError
from hibprep.events import (
    GuestEvent,
    Moment,
    Request,
    RunEnded,
    Signal,
    Sleep,
    SourceChanged,
    Tick,
    Wish,
)
from hibprep.incoming import Incoming
from hibprep.kernel.lock import RunLock
from hibprep.kernel.mlock import lock_memory
from hibprep.ledger import Ledger
from hibprep.looking import Look
from hibprep.machine import open_machine
from hibprep.model import Ending
from hibprep.notices import NoticeKind
from hibprep.notify import Notifier
from hibprep.parts import Parts
from hibprep.rooms import Rooms
from hibprep.runner import Runner, Work
from hibprep.sampling import Sampling
from hibprep.signals.base import Source, moment, supervise
from hibprep.signals.channel import Channel
from hibprep.signals.control import Control
from hibprep.signals.logind import Logind
from hibprep.sleephook import Leg, close_lost
from hibprep.standing import status_of, worth_telling
from hibprep.state import Act, Decision, Phase, State, begin
from hibprep.status import Status
from hibprep.waiters import Waiters

log = logging.getLogger(__name__)

_BUS_PAUSE_SECONDS = 60.0
_SOON_SECONDS = 0.05
_END_SECONDS = 10.0


class Daemon:
    """One daemon; `run` is its life. It is the `Host` of its control socket and bus service."""

    def __init__(
        self,
        root_prefix: str,
        load_config: Callable[[], Config],
        *,
        clock: Clock | None = None,
        bus_address: str | None = None,
        environ: MutableMapping[str, str] | None = None,
        work: Work | None = None,
    ) -> None:
        self._prefix = root_prefix
        self._load = load_config
        self._config = load_config()
        self._policy = self._config.policy()
        self._clock = clock or SystemClock()
        self._notifier = Notifier(os.environ if environ is None else environ, self._clock)
        self._machine = open_machine(root_prefix, self._config)
        self._ledger = Ledger(root_prefix)
        day, written = self._ledger.load()
        self._state = begin(self._now(), written_day=day, written_bytes=written)
        self._runner = Runner(root_prefix, self.emit, work)
        root = self._machine.root
        self._logind = Logind(self._clock, address=bus_address)
        self._around = AroundSleep(root_prefix)
        self._bringing = BringBack(root_prefix)
        self._control = Control(root, self)
        self._channel = Channel(root, self)
        self._incoming = Incoming()
        self._manager = ManagerService(bus_address)
        self._signals: deque[Signal] = deque()
        self._deciding = False
        self._timer: asyncio.TimerHandle | None = None
        self._sample_at = 0.0
        self._look = Look(self._machine, self._clock)
        self._sampling = Sampling(self._machine, self._look, self._clock, self.emit)
        parts = Parts(
            machine=self._machine,
            config=lambda: self._config,
            emit=self.emit,
            run_ended=self.run_ended,
            changed=lambda: self._changes.wake(None),
            runner=self._runner,
            bringing=self._bringing,
            around=self._around,
            logind=self._logind,
        )
        self._rooms = Rooms(root_prefix, parts, self._clock)
        self._changes = Waiters[None]()
        self._endings = Waiters[RunEnded]()
        self._end: asyncio.Event | None = None
        self._ending = False

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until SIGTERM or SIGINT. Every setting is back, and nothing runs, when it returns.

        Raises LockedError when another daemon runs.
        """
        loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        lock = RunLock(self._machine.root, name="daemon", who="another hibprep daemon runs")
        with lock, self._signal_handlers(loop):
            # on another root it is a test's process that would be locked
            locked = lock_memory() if self._machine.root.is_real else ""
            for words in (*self._machine.recovered, *close_lost(self._machine), locked):
                if words:
                    log.warning("%s", words)
            try:
                async with asyncio.TaskGroup() as group:
                    sources: tuple[Source, ...] = (
                        self._logind, *self._sampling.sources, self._control, self._channel,
                        *self._rooms.sources,
                    )  # fmt: skip
                    tasks = [
                        group.create_task(
                            supervise(source, self.emit, self._clock), name=str(source.name)
                        )
                        for source in sources
                    ]
                    tasks.append(group.create_task(self._serve_bus(), name="bus service"))
                    tasks.append(
                        group.create_task(
                            metrics.serve_quietly(self.status, self._config.daemon.metrics_port),
                            name="metrics",
                        )
                    )
                    self._notifier.ready(self._state.reason)
                    self._tick()
                    await self._end.wait()
                    self._notifier.stopping()
                    self._rooms.close()
                    for task in tasks:
                        task.cancel()
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                await self._runner.closed()
                await self._around.closed()
                await self._bringing.stopped("the daemon ends", _END_SECONDS)

    @contextlib.contextmanager
    def _signal_handlers(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        handlers = {
            signal.SIGTERM: self.end,
            signal.SIGINT: self.end,
            signal.SIGHUP: self.reload,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """Leave `run`, as SIGTERM does. What is under way is stopped at once."""
        self._ending = True
        self._runner.stop("the daemon ends")
        self._bringing.stop("the daemon ends")
        if self._end is not None:
            self._end.set()

    def reload(self) -> None:
        """Read the configuration anew, as SIGHUP does, or keep the old one and say why."""
        self._notifier.reloading()
        try:
            self._config = self._load()
        except HibprepError as error:
            for line in getattr(error, "lines", (str(error),)):
                log.warning("%s; the configuration stays as it was", line)
        else:
            self._policy = self._config.policy()
            log.info("the configuration is read anew")
            self.emit(Tick())
        self._notifier.ready(self._state.reason)

    async def _serve_bus(self) -> None:
        """The service on the bus; a convenience, so that its absence is told and nothing more."""
        said = ""
        while True:
            try:
                await self._manager.run(self.emit, self)
            except (HibprepError, OSError, EOFError) as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("no service on the bus: %s", said)
            await asyncio.sleep(_BUS_PAUSE_SECONDS)

    # --- signals ------------------------------------------------------------------------------

    def emit(self, signal_: Signal) -> None:
        """Decide on a signal, now. What that leads to may bring signals of its own: in order."""
        self._signals.append(signal_)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._signals:
                self._decide(self._signals.popleft())
        finally:
            self._deciding = False
            self._arm()  # also after a defect: else nothing would happen until the next signal

    def _decide(self, signal_: Signal) -> None:
        before = self._state
        self._state, made = decide(before, signal_, self._now(), self._policy)
        if isinstance(signal_, SourceChanged):
            daemonlog.source_changed(before, signal_)
        if isinstance(signal_, RunEnded):
            self._run_ended(signal_, before)
        self._rooms.hear(signal_)
        for decision in made:
            self._carry_out(decision)
        if isinstance(signal_, Request):
            self._answer(signal_)
        self._tell(before)

    def _carry_out(self, decision: Decision) -> None:
        if self._ending:
            return  # what ends must not begin anything: the last run's end is a signal too
        daemonlog.decided(decision)
        if decision.act is Act.START:
            if not (self._state.done or self._state.checks or self._state.request):
                self._look.unprepared(self._config)
            self._runner.start(decision, self._config, self._bringing.stop(decision.reason))
        elif decision.act is Act.STOP:
            self._runner.stop(decision.reason)
        elif decision.act is Act.SWAP_IN:
            self._bringing.start(self._config, self._runner.task)
        elif decision.act is Act.RELEASE:
            self._bringing.stop_then(decision.reason, self._release)

    def _release(self) -> None:
        # the sleep may be over by now, and the lock is for the next one
        if self._state.phase is Phase.SLEEPING:
            self._logind.release_lock()

    def _answer(self, request: Request) -> None:
        """A request that leads to no run is answered as one that ended at once."""
        if request.wish is Wish.PREPARE and self._state.request is not request:
            reason = f"nothing is begun now: {self._state.reason}"
            self._endings.wake(RunEnded(ending=Ending.UNAVAILABLE, reason=reason))

    def _run_ended(self, ended: RunEnded, before: State) -> None:
        daemonlog.run_ended(ended, self._policy)
        self._look.forget()
        if ended.swapped_out_bytes and self._state.written_day is not None:
            note = self._ledger.save(self._state.written_day, self._state.written_bytes)
            if note:
                log.warning("what was written today is not kept: %s", note)
        if not before.pending:  # else it made room for the one that is asked for and waited for
            self._endings.wake(ended)

    def _tell(self, before: State) -> None:
        after = self._state
        if after.phase is not before.phase:
            daemonlog.phase_changed(before, after, self._policy)
            self._notifier.status(f"{after.phase}: {after.reason}")
        if worth_telling(after) != worth_telling(before):
            self._changes.wake(None)

    # --- time ---------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Wake up for the next sample, or for what the state waits for; for nothing else."""
        if self._end is None or self._ending:
            return
        now = self._clock.monotonic()
        at = self._sample_at
        if self._state.wake_at_seconds is not None:
            at = min(at, self._state.wake_at_seconds)
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        # asyncio's clock is CLOCK_MONOTONIC too
        self._timer = loop.call_later(max(_SOON_SECONDS, at - now), self._tick)

    def _tick(self) -> None:
        try:
            if self._clock.monotonic() >= self._sample_at:
                self._sample()
        finally:
            self.emit(Tick())

    def _sample(self) -> None:
        """What is looked at once in a while, with the watchdog fed before: a defect in one of
        these is told by asyncio each time and is no reason to be killed."""
        self._sample_at = self._clock.monotonic() + self._sampling.pause_seconds(self._policy)
        self._notifier.watchdog()
        self._sampling.take(self._policy, self._config)
        metrics.write_quietly(self.status, self._config.daemon.metrics_file)

    # --- Host ---------------------------------------------------------------------------------

    def status(self) -> Status:
        """See `Host.status`."""
        facts = replace(
            self._look.facts(self._config),
            progress=self._runner.progress,
            report=self._runner.report,
        )
        return self._rooms.shown(status_of(self._state, self._policy, self._now(), facts))

    async def changed(self) -> None:
        """See `Host.changed`."""
        await self._changes.wait()

    async def run_ended(self) -> RunEnded:
        """See `Host.run_ended`."""
        return await self._endings.wait()

    async def before_sleep(self, leg: str, seconds: float) -> tuple[bool, list[str]]:
        """See `Host.before_sleep`."""
        until = self._clock.monotonic() + seconds
        async with streams.task(self.run_ended()) as ended:
            self.emit(Sleep(coming=True))
            if self._runner.busy:
                await asyncio.wait((ended,), timeout=seconds)
        left = max(0.0, until - self._clock.monotonic())
        if self._runner.busy or not await self._bringing.stopped("a sleep comes", left):
            return False, ["what was under way has not stopped"]
        if not leg:
            return True, []
        left = max(0.0, until - self._clock.monotonic())
        return True, await self._around.before(Leg(leg), self._config, left)

    async def after_sleep(self, seconds: float) -> list[str]:
        """See `Host.after_sleep`."""
        said = await self._around.after(self._config, seconds)
        self.emit(Sleep(coming=False))
        self._logind.want_lock()
        return said

    def incoming_seconds(self, event: GuestEvent) -> float:
        """See `Host.incoming_seconds`."""
        return self._incoming.seconds(event, self._config.incoming)

    async def incoming(self, event: GuestEvent) -> str:
        """See `Host.incoming`."""
        return await self._incoming.ask(event, self._config.incoming)

    def notices(self) -> dict[str, object]:
        """See `Host.notices`."""
        return self._rooms.notices(self._state.view.sources)

    def simulate(self, kind: NoticeKind, seconds: float | None, who: str) -> str:
        """See `Host.simulate`."""
        return self._rooms.simulate(kind, seconds, who)

    def _now(self) -> Moment:
        return moment(self._clock)
