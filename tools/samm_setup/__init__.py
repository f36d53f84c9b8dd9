# SPDX-License-Identifier: Apache-2.0
"""What ./samm does before a verb runs. It meets the machine bare: standard library only, in Python 3.8's syntax."""
