# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What people talk to: one process that checks each request and relays it to the session of that browser.

It knows neither VTK nor ROS. The session, a process with one scene and one client of the bridge, is in samm_viewer.session.
"""
