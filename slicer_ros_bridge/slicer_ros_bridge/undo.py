# SPDX-License-Identifier: Apache-2.0
"""Who owns a segmentation and its undo. The rule is written here, and nowhere else:

- Each client's segmentation has one owner, and that owner's undo is the one that counts.
- For 3D Slicer (Slicer-IPP by IPP/2, the extension by SAMM 1.1) the owner is Slicer: what it shows is the
  segmentation of its scene, and its undo steps back there. The graph's segmentation is a copy, for `save` and for
  other programs.
- For a client in the graph, as a ROS program, the owner is apl_msk: its segmentation, its services undo and redo.

The graph has one segmentation for all clients of a volume, with one row of steps. An `undo` that comes through a door
therefore reaches the copy only if the newest step there is that client's own. Otherwise the copy stays as it is and the
client is told so; its own segmentation has stepped back all the same.

The steps are known from APL_MSK's events. What is unknown, as after a restart of the bridge, is left to the graph. The
events do not tell that another program called apl_msk's undo or redo: the row is then one step off.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

from samm_core.latency.events import Outcome, Task, TaskEvent
from samm_core.segmentation.slice_edit import UNDO_STEPS

from .graph_actions import SLICER_NODE

NOT_YOURS = "The newest mask in the graph is another client's: nothing was undone there."


@dataclass
class _Steps:
    """Client ids, the newest last."""

    done: deque[str] = field(default_factory=lambda: deque(maxlen=UNDO_STEPS))
    undone: list[str] = field(default_factory=list)


class StepOwners:
    """Whose each step in the graph's segmentations is, as rows that follow those of apl_msk: one for each volume."""

    def __init__(self) -> None:
        self._by_volume: defaultdict[str, _Steps] = defaultdict(_Steps)

    def note(self, event: TaskEvent) -> None:
        """Count a mask that apl_msk has applied; Slicer's own APL_MSK changes nothing in the graph."""
        if event.task != Task.APL_MSK or event.outcome != Outcome.COMPLETED:
            return
        if not event.node.startswith(SLICER_NODE):
            steps = self._by_volume[event.image.source]
            steps.done.append(event.client_id)
            steps.undone.clear()

    def may_undo(self, client_ids: Collection[str], volume_uid: str) -> bool:
        """Whether the newest step on the volume is by one of these, or not known."""
        done = self._by_volume[volume_uid].done
        return not done or done[-1] in client_ids

    def undone(self, volume_uid: str) -> None:
        """The graph has undone the newest step on this volume."""
        steps = self._by_volume[volume_uid]
        if steps.done:
            steps.undone.append(steps.done.pop())

    def redone(self, volume_uid: str) -> None:
        """The graph has made the step on this volume again that was undone last."""
        steps = self._by_volume[volume_uid]
        if steps.undone:
            steps.done.append(steps.undone.pop())
