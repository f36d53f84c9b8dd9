# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""IPP/2, the protocol of Slicer-IPP; docs/understand/ipp.md."""
