# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the experiment's results files say: ``python -m bench report``, ``compare`` and ``table``.

Pure but for `cli` and `publish`; matplotlib is imported by ``report`` alone.
"""
