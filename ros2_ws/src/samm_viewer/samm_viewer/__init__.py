# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The browser viewer: a front that people talk to, and a session for each browser. Needs no ROS."""
