# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m hibprep``: the command line, where its script is not in the PATH."""

from __future__ import annotations

from hibprep.cli import main

if __name__ == "__main__":
    main()
