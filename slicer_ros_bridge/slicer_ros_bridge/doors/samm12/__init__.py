# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The protocol of the published SAMM extension, release 1.2: HTTP with JSON."""
