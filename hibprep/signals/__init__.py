# SPDX-License-Identifier: LGPL-2.1-or-later
"""The outside world as typed signals (`hibprep.events`). A source decides nothing and touches no
memory."""
