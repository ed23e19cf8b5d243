# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only code that opens /proc, /sys and cgroupfs; the rest gets typed values from here."""
