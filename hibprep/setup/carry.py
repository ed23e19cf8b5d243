# SPDX-License-Identifier: LGPL-2.1-or-later
"""Carrying a plan out: step by step, each change on record before it is made; when a step fails, or
somebody breaks it off, all that was done is undone in the reverse order."""

from __future__ import annotations

import base64
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hibprep.clock import Clock
from hibprep.errors import ExitCode, HibprepError, KernelFileError
from hibprep.kernel.knobs import selected
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swapfile import Made, make
from hibprep.setup import files, programs, record
from hibprep.setup.changes import (
    Change,
    FileChanged,
    Group,
    KernelSet,
    Left,
    MadeAnew,
    Ran,
    SwapFileMade,
    Tools,
    take_back,
)
from hibprep.setup.steps import OFFSET, Configure, FileText, MakeSwapFile, Run, SetKernel, Step


class Undone(HibprepError):
    """A step failed; `left` is what could not be undone, nothing as a rule."""

    def __init__(self, error: HibprepError | OSError, left: Sequence[str]) -> None:
        words = "everything is as it was before"
        if left:
            words = "undone but for: " + "; ".join(left)
        super().__init__(f"{error}; {words}")
        self.left = tuple(left)
        known = error.exit_code if isinstance(error, HibprepError) else ExitCode.FAILED
        self.exit_code = ExitCode.PARTLY if left else known


class SystemTools:
    """The real ones. Below another root no program is run that would act on this machine."""

    def __init__(self, root: KernelRoot) -> None:
        self.root = root
        self.skipped: list[str] = []

    def run(self, program: tuple[str, ...], seconds: float, below_root: str = "") -> None:
        """See `Tools.run`."""
        if not self.root.is_real:
            if not below_root:
                self.skipped.append(" ".join(program))
                return
            program = tuple(
                str(self.root.path(word)) if word == below_root else word for word in program
            )
        programs.run(program, seconds)

    def make_swap_file(self, path: str, size_bytes: int, *, is_btrfs: bool) -> Made:
        """See `Tools.make_swap_file`."""
        return make(self.root, path, size_bytes, is_btrfs=is_btrfs)


@dataclass(slots=True)
class Carried:
    """How it went."""

    offset_pages: int | None = None  # of the swap file that was made
    pieces: int = 0
    done: list[str] = field(default_factory=list)  # the titles of the steps


def carry_out(
    name: str,
    steps: Sequence[Step],
    tools: Tools,
    clock: Clock,
    tell: Callable[[Step], None] = lambda _: None,
) -> Carried:
    """Do all steps, or none. `name` is that of the record that is left.

    Raises Undone when one fails. Whoever breaks it off (KeyboardInterrupt) has it undone too.
    """
    with record.locked(tools.root):
        if name in record.names(tools.root):
            raise HibprepError(
                f"{name} was done already, or broken off", f"hibprep setup undo {name}"
            )
        return _Run(name, tools, clock).all(steps, tell)


def undo(name: str, tools: Tools) -> list[str]:
    """Take back what was done under that name, and words for what could not be. What somebody else
    changed since is left as it is."""
    with record.locked(tools.root):
        known = record.load(tools.root, name)
        left = Left()
        for group in reversed(known.groups):
            take_back(group, tools, left)
        if not left.again:
            record.forget(tools.root, name)
        return left.words


class _Run:
    def __init__(self, name: str, tools: Tools, clock: Clock) -> None:
        self._tools = tools
        self._record = record.Record(name, clock.now().isoformat(timespec="seconds"))
        self._outputs: dict[int, dict[str, files.Kept]] = {}  # by group
        self._carried = Carried()

    def all(self, steps: Sequence[Step], tell: Callable[[Step], None]) -> Carried:
        try:
            for step in steps:
                tell(step)
                group = Group(step.title)
                self._record.groups.append(group)
                self._do(step, group)
                self._carried.done.append(step.title)
        except (HibprepError, OSError) as error:
            raise Undone(error, self._undo()) from error
        except BaseException as error:
            left = self._undo()
            if left:
                raise Undone(HibprepError("interrupted"), left) from error
            raise
        return self._carried

    def _undo(self) -> list[str]:
        left = Left()
        for index in reversed(range(len(self._record.groups))):
            group = self._record.groups[index]
            take_back(group, self._tools, left, self._outputs.get(index))
        if not left.again:
            record.forget(self._tools.root, self._record.name)
        return left.words

    def _do(self, step: Step, group: Group) -> None:
        if isinstance(step, Configure):
            self._configure(step, group)
        elif isinstance(step, MakeSwapFile):
            self._make(step, group)
        elif isinstance(step, Run):
            if step.undo:
                change = Ran(undo=step.undo, seconds=step.undo_seconds, swaps_to=step.swaps_to)
                self._remember(group, change)
            self._tools.run(self._filled(step.program), step.seconds, step.below_root)
        else:
            self._set(step, group)

    def _configure(self, step: Configure, group: Group) -> None:
        for file in step.files:
            self._write(file, group)
        if not step.program:
            return
        if step.outputs:
            self._outputs[len(self._record.groups) - 1] = {
                path: files.keep(self._tools.root, path) for path in step.outputs
            }
        self._remember(group, MadeAnew(program=step.program, seconds=step.seconds))
        self._tools.run(self._filled(step.program), step.seconds)

    def _write(self, file: FileText, group: Group) -> None:
        root = self._tools.root
        path = files.real_path(root, file.path)
        data = self._fill(file.text).encode()
        before = files.keep(root, path).data
        self._remember(
            group,
            FileChanged(
                path=path,
                before=None if before is None else base64.b64encode(before).decode(),
                mode=file.mode,
                written=files.digest(data),
                directories=files.missing_directories(root, path),
            ),
        )
        files.write(root, path, data, file.mode)

    def _make(self, step: MakeSwapFile, group: Group) -> None:
        # it is made whole or not at all; on record before, for the case that we are killed in it
        change = SwapFileMade(path=step.path)
        if self._tools.root.exists(step.path):
            raise HibprepError(f"{step.path}: is there already", "give another with --path")
        self._remember(group, change)
        try:
            made = self._tools.make_swap_file(step.path, step.size_bytes, is_btrfs=step.is_btrfs)
        except KernelFileError as error:
            if error.errno == errno.EEXIST:  # somebody was quicker, and it is theirs
                group.changes.remove(change)
            raise
        self._carried.offset_pages, self._carried.pieces = made.offset_pages, made.pieces

    def _set(self, step: SetKernel, group: Group) -> None:
        root = self._tools.root
        before = selected(root.read(step.path))
        self._remember(group, KernelSet(path=step.path, before=before, after=step.value))
        root.write(step.path, step.value)

    def _remember(self, group: Group, change: Change) -> None:
        group.changes.append(change)
        record.save(self._tools.root, self._record)

    def _fill(self, text: str) -> str:
        offset = self._carried.offset_pages
        if OFFSET in text and offset is None:
            raise HibprepError("the offset of the swap file is not known yet")
        return text.replace(OFFSET, str(offset))

    def _filled(self, program: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self._fill(word) for word in program)
