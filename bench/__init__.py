# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measuring tools and the lab: real guests that really hibernate. Not part of the wheel."""
