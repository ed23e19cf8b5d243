# SPDX-License-Identifier: LGPL-2.1-or-later
"""Installing and uninstalling from beginning to end: looking, planning, doing, telling systemd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hibprep.install import carry, running, steps, systemd
from hibprep.install import record as records
from hibprep.install.layout import find_layout
from hibprep.install.manifest import Extra, Item, extra_paths, fitting_extras, items
from hibprep.install.program import Program
from hibprep.install.record import Record
from hibprep.install.running import Done
from hibprep.install.steps import Plan, Step
from hibprep.install.systemd import Command, Manager
from hibprep.kernel.knobs import KnobJournal
from hibprep.kernel.root import KernelRoot

_UNITS = "/etc/systemd/system"
_LINKS = (".wants", ".requires")


@dataclass(frozen=True, slots=True)
class Changes:
    """What was done with each file, or with `dry_run` would be; what was run, what would be, and
    what is left to whoever wants it; what else there is to say."""

    dry_run: bool
    files: tuple[Step, ...]
    commands: tuple[Done, ...]
    planned: tuple[Command, ...]
    offered: tuple[Command, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # not part of this installation of hibprep: it is broken

    @property
    def whole(self) -> bool:
        """Whether all that was wanted was done."""
        return not (
            self.missing
            or any(step.short for step in self.files)
            or any(done.error for done in self.commands)
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of an installation."""

    extras: frozenset[Extra] = frozenset()
    enable: bool = False
    recording: bool = True
    dry_run: bool = False


def install(
    root: KernelRoot,
    program: Program,
    generated: Mapping[str, str],
    wish: Wish,
    run: running.Run = running.run,
) -> Changes:
    """Put every file; `generated` are the texts that are made from the command line."""
    record = records.load(root) if wish.recording else Record()
    layout = find_layout(root)
    # what was asked for once is kept up, unless it was taken away by hand
    kept = frozenset(
        extra
        for extra, paths in extra_paths(layout).items()
        if any(path in record.files and root.exists(path) for path in paths)
    )
    chosen = wish.extras | kept | fitting_extras(root)
    wanted, missing = items(layout, program, generated, chosen)
    plan = _plan(root, wanted, record, recording=wish.recording)
    todo = systemd.after_install(plan, _manager(root))
    if wish.dry_run:
        done: tuple[Done, ...] = ()
    else:
        carry.install(root, plan, wanted, recording=wish.recording)
        done = running.run_all(todo, run) if wish.enable else ()
    return Changes(
        dry_run=wish.dry_run,
        files=plan.steps,
        commands=done,
        planned=todo if wish.dry_run and wish.enable else (),
        # whoever builds a package has means of the package's own
        offered=todo if wish.recording and not wish.enable else (),
        missing=missing,
    )


def uninstall(
    root: KernelRoot, *, purge: bool, dry_run: bool, run: running.Run = running.run
) -> Changes:
    """Take everything away that was put; with `purge` what hibprep itself has kept, too."""
    record = records.load(root)
    plan = steps.to_uninstall(carry.look(root, (), record))
    manager = _manager(root)
    before, after = systemd.before_uninstall(plan, manager), systemd.after_uninstall(plan, manager)
    if dry_run:
        return Changes(dry_run, plan.steps, (), (*before, *after), ())
    done = running.run_all(before, run)
    # the daemon has ended: nobody else would put back what a killed one has left changed
    notes = [f"put back: {words}" for words in KnobJournal(root).recover()]
    carry.uninstall(root, plan)
    if purge:
        notes += [f"taken away: {place}" for place in carry.purge(root)]
    done += running.run_all(after, run)
    return Changes(dry_run, plan.steps, done, (), (), tuple(notes))


def _plan(root: KernelRoot, wanted: tuple[Item, ...], record: Record, *, recording: bool) -> Plan:
    surroundings = carry.look(root, (item.path for item in wanted), record)
    digested = [(item, carry.digest(item.content)) for item in wanted]
    return steps.to_install(digested, surroundings, records.PATH if recording else "")


def _manager(root: KernelRoot) -> Manager:
    prefix = str(root.prefix)
    links = {
        name
        for folder in root.subdirectories(_UNITS)
        if folder.endswith(_LINKS)
        for name in root.listdir(f"{_UNITS}/{folder}")
    }
    running_here = root.is_real and root.is_dir("/run/systemd/system")
    return Manager(prefix, running_here, frozenset(links))
