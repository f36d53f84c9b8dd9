# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What ./samm does before a verb runs: standard library only, in Python 3.8's syntax, as nothing is installed yet."""
