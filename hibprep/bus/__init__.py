# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only code that speaks D-Bus; everything else gets typed values and `BusError` from here."""
