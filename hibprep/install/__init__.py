# SPDX-License-Identifier: LGPL-2.1-or-later
"""Putting hibprep's files into the system's places, and taking exactly those away again."""
