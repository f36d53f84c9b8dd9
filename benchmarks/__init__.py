# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, one file each, with main(args): `samm bench` runs them."""
