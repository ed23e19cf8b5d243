# SPDX-License-Identifier: LGPL-2.1-or-later
"""DAMON_RECLAIM as its document has it: parameters, what they may be, and why it may do nothing.
Pure."""
