# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`python -m samm_ros.cli VERB …`, as ./samm calls it."""

import sys

from . import main

sys.exit(main())
