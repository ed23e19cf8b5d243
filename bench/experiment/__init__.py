# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reference experiment: guests that are filled, prepared in one way or another, hibernated
and resumed, timed from outside. ``python -m bench hibernate`` runs it."""
