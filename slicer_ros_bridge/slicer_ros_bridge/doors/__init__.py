# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The doors, a package for each protocol that a client may speak. They reach the node graph by GraphActions alone."""
