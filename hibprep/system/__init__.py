# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is configured on this machine outside the kernel: readers, all below a relocatable root."""
