# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, one file each, with HELP, add_arguments(parser) and main(args): `samm bench` runs them."""
