# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who owns a segmentation and its undo. The rule is written here, and nowhere else.

- Each client's segmentation has one owner, and that owner's undo is the one that counts.
- For 3D Slicer (Slicer-IPP by IPP/2, the extension by SAMM 1.1) the owner is Slicer: what it shows is the
  segmentation of its scene, and its undo steps back there. The graph's segmentation is a copy, for `save` and for
  other programs.
- For a client in the graph, as a ROS program, the owner is apl_msk: its segmentation, its services undo and redo.

The graph has one segmentation for all clients of a volume, with one row of steps. An `undo` that comes through a door
therefore reaches the copy only if the newest step there is that client's own. Otherwise the copy stays as it is and the
client is told so; its own segmentation has stepped back all the same.

A task over many slices (segment_volume) is one step, on both sides: Slicer's undo takes back all that the task has
written in its scene, and apl_msk's all of it in the copy. Something else in between, such as a prompt's mask or an
undo, ends the step there and there; the rest of the task is the next one. A task of a Slicer is named `CLIENT/task-…`
in the graph, and is that client's. The mask of its marked slice is in the copy's step alone: Slicer's scene had it
before.

A segment that is renamed, recoloured or removed in Slicer is a step there too, and is changed in the copy. Where the
copy has no such segment, or refuses, the step is Slicer's alone, and Slicer asks for no undo of it.

The steps are known from APL_MSK's events, and which of them are one task's from `task_masks`. What is unknown, as after
a restart of the bridge, is left to the graph. The events do not tell that another program called apl_msk's undo or
redo: the row is then one step off.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

from samm_core.latency.events import Outcome, Task, TaskEvent
from samm_core.segmentation.slice_edit import UNDO_STEPS

from .graph_actions import SLICER_NODE

NOT_YOURS = "The newest mask in the graph is another client's: nothing was undone there."
# Between a client's name and the number of its task, in the graph's name of the task.
TASK_MARK = "/task-"
# Masks of tasks that APL_MSK may still have to apply.
_REMEMBERED_MASKS = 4096


def owner_of(client_id: str) -> str:
    """Whose steps those of this client in the graph are."""
    return client_id.partition(TASK_MARK)[0]


@dataclass(frozen=True)
class _Step:
    """owner: as owner_of gives it. task: the id of the task whose masks it is; empty: a prompt's mask."""

    owner: str
    task: str


@dataclass
class _Steps:
    """The newest last."""

    done: deque[_Step] = field(default_factory=lambda: deque(maxlen=UNDO_STEPS))
    undone: list[_Step] = field(default_factory=list)


class StepOwners:
    """Whose each step in the graph's segmentations is, as rows that follow those of apl_msk: one for each volume."""

    def __init__(self) -> None:
        self._by_volume: defaultdict[str, _Steps] = defaultdict(_Steps)
        # The task of a mask, by its client and cycle.
        self._tasks: OrderedDict[tuple[str, int], str] = OrderedDict()

    def note_task(self, client_id: str, cycle: int, task: str) -> None:
        """This mask, which apl_msk may apply, is of a task over many slices."""
        self._tasks[client_id, cycle] = task
        if len(self._tasks) > _REMEMBERED_MASKS:
            self._tasks.popitem(last=False)

    def note(self, event: TaskEvent) -> None:
        """Count a mask that apl_msk has applied; Slicer's own APL_MSK changes nothing in the graph."""
        if event.task != Task.APL_MSK or event.outcome != Outcome.COMPLETED:
            return
        if event.node.startswith(SLICER_NODE):
            return
        steps = self._by_volume[event.image.source]
        task = self._tasks.pop((event.client_id, event.cycle), "")
        steps.undone.clear()
        if not (task and steps.done and steps.done[-1].task == task):
            steps.done.append(_Step(owner_of(event.client_id), task))

    def edited(self, owner: str, volume_uid: str) -> None:
        """Count a change of a segment that was made for `owner`."""
        steps = self._by_volume[volume_uid]
        steps.undone.clear()
        steps.done.append(_Step(owner, ""))

    def may_undo(self, client_ids: Collection[str], volume_uid: str) -> bool:
        """Whether the newest step on the volume is by one of these, or not known."""
        done = self._by_volume[volume_uid].done
        return not done or done[-1].owner in client_ids

    def undone(self, volume_uid: str) -> None:
        """The graph has undone the newest step on this volume."""
        steps = self._by_volume[volume_uid]
        if steps.done:
            steps.undone.append(steps.done.pop())

    def redone(self, volume_uid: str) -> None:
        """The graph has made the step on this volume again that was undone last."""
        steps = self._by_volume[volume_uid]
        if steps.undone:
            # After that nothing joins it: in apl_msk a step that was made again is no task's any more.
            steps.done.append(_Step(steps.undone.pop().owner, ""))
