# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Trains a decoder that takes points on LiteMedSAM's frozen encoder. See README.md."""
