# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`python -m samm_ros.cli VERB …`, as ./samm calls it."""

import sys

from samm_core.private import keep_files_private

from . import main

# All that a verb and what it starts write: recordings, logs, results.
keep_files_private()
sys.exit(main())
