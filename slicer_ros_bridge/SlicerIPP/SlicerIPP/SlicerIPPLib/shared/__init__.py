# SPDX-License-Identifier: Apache-2.0
"""Links to what the graph uses too: coordinates, prompts, the mask codec and the messages have one owner each."""
