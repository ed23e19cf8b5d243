# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `hibprep check` finds, topic by topic: facts are judged here, and nothing is read."""
