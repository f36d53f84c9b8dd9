# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
