# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes to this machine's configuration: planned as a list of steps, carried out one by one, and
undone in the reverse order when one fails or when somebody asks for it."""
