# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Volumes in numbers: structures as rows of a table, the work on one volume, and its spread over processes."""
