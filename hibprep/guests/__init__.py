# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of libvirt: preparing, moving, saving, and putting back what was changed for it.

`port` is what everything here works on; `connection` is the only place that knows libvirt.
"""
