# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP without its widget: the client of the bridge, the logic over MRML, the writing of segments."""
