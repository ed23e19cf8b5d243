# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frozen values that travel from the kernel to the plan, the executor and the report.

Units are in the names: `_bytes`, `_pages` (of `Snapshot.page_size`), `_seconds`. Nothing here does
I/O, reads a clock or imports anything outside the standard library, so every layer may use it.
"""

from hibprep.model.done import (
    Ending,
    Freed,
    Progress,
    Report,
    StepReport,
)
from hibprep.model.machine import (
    Cgroup,
    First,
    Generation,
    GenerationList,
    Kept,
    Memory,
    Power,
    Pressure,
    Rules,
    ScopeMemory,
    Snapshot,
    SwapArea,
    Vmstat,
    Zone,
)
from hibprep.model.planned import (
    Fit,
    KnobChange,
    Limits,
    Plan,
    Prediction,
    Rates,
    Step,
    Target,
    TargetKind,
)
from hibprep.model.words import (
    MACHINE,
    BackendName,
    Capability,
    Kind,
    Limit,
    Scope,
    ScopeKind,
    Stage,
)

__all__ = [
    "MACHINE",
    "BackendName",
    "Capability",
    "Cgroup",
    "Ending",
    "First",
    "Fit",
    "Freed",
    "Generation",
    "GenerationList",
    "Kept",
    "Kind",
    "KnobChange",
    "Limit",
    "Limits",
    "Memory",
    "Plan",
    "Power",
    "Prediction",
    "Pressure",
    "Progress",
    "Rates",
    "Report",
    "Rules",
    "Scope",
    "ScopeKind",
    "ScopeMemory",
    "Snapshot",
    "Stage",
    "Step",
    "StepReport",
    "SwapArea",
    "Target",
    "TargetKind",
    "Vmstat",
    "Zone",
]
