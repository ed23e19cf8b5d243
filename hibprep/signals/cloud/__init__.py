# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices of clouds: one module a provider, on one shared poller (`source`)."""
