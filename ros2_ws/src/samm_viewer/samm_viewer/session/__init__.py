# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The process behind one browser: a scene of 3D Slicer's core, Slicer-IPP's logic over it, and the page that shows both."""
