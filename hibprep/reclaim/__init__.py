# SPDX-License-Identifier: LGPL-2.1-or-later
"""Doing what a plan says: the executor, its worker process and one small back-end a file."""
