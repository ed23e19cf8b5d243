# SPDX-License-Identifier: LGPL-2.1-or-later
"""hibprep gets a Linux machine ready to be hibernated, migrated or stopped before anyone asks."""

__version__ = "0.1.0"
