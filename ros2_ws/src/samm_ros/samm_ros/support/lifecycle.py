# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A managed node whose transitions are one at a time, always answered, and undone when they fail."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from samm_core.errors import SammError

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)


class LifecycleNode(LifecycleNodeMixin, Node):
    """A node of ROS's lifecycle design: what it is asked that does not apply in its state is answered with failure.

    Nodes give `configure`, `activate`, `deactivate` and `cleanup`. A SammError fails a transition in its sentence: the
    node stays where it was. Anything else is an error: all is released, and the node can be configured again.
    `deactivate` and `cleanup` may be called when there is nothing to undo.
    """

    def __init__(self, name: str) -> None:
        Node.__init__(self, name)
        # A group of their own: a state is told while a model is being loaded.
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        self._changing = threading.Lock()
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state

    def configure(self) -> None:
        """Get what is needed to serve."""

    def activate(self) -> None:
        """Begin to serve."""

    def deactivate(self) -> None:
        """Serve nothing; what was loaded stays."""

    def cleanup(self) -> None:
        """Free what `configure` got."""

    def transition_failed(self, sentence: str) -> None:
        """Told why a transition failed; a node with diagnostics says it there."""
        self.get_logger().error(sentence)

    @property
    def state(self) -> str:
        """unconfigured, inactive, active or finalized; or the transition under way."""
        return self._state_machine.current_state[1]

    @property
    def is_active(self) -> bool:
        return self._state_machine.current_state[0] == State.PRIMARY_STATE_ACTIVE

    def trigger_configure(self) -> TransitionCallbackReturn:
        return self._triggered(super().trigger_configure)

    def trigger_activate(self) -> TransitionCallbackReturn:
        return self._triggered(super().trigger_activate)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("configure", self.configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("activate", self.activate, super().on_activate, state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("deactivate", self.deactivate, super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("cleanup", self.cleanup, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("shutdown", self.release, super().on_shutdown, state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("recover", self.release, super().on_error, state)

    def destroy_node(self) -> None:
        # It holds the node's handle, and with it DDS and its shared memory, which Node.destroy_node does not know of.
        self._state_machine.destroy_when_not_in_use()
        super().destroy_node()

    def release(self) -> None:
        """Serve nothing and hold nothing, from whatever state."""
        try:
            self.deactivate()
        finally:
            self.cleanup()

    def _attempt(
        self,
        what: str,
        work: Callable[[], None],
        of_entities: Callable[[LifecycleState], TransitionCallbackReturn],
        state: LifecycleState,
    ) -> TransitionCallbackReturn:
        try:
            work()
        except SammError as error:
            self.transition_failed(str(error))
            return FAILURE
        except Exception as error:
            traceback.print_exc()
            self.transition_failed(f"{self.get_name()} could not {what}: {type(error).__name__}: {error}")
            return ERROR
        return of_entities(state)

    def _triggered(self, trigger: Callable[[], TransitionCallbackReturn]) -> TransitionCallbackReturn:
        """By the process itself: whoever asked by the service first goes before."""
        with self._changing:
            try:
                return trigger()
            except rclpy_implementation.RCLError:
                return FAILURE

    def _on_change_state(self, request: ChangeState.Request, response: Any) -> ChangeState.Response:
        what = request.transition.label or f"transition {request.transition.id}"
        if not self._changing.acquire(blocking=False):
            self.get_logger().warning(f"{what} was refused: {self.get_name()} is {self.state}; ask again.")
            response.success = False
            return response
        try:
            return self._change_state(request, response)
        except rclpy_implementation.RCLError:
            # Where rclpy lets it out of its callback, and with it the executor.
            self.get_logger().warning(
                f"{what} was refused: it does not apply to a node that is {self.state}."
            )
            response.success = False
            return response
        finally:
            self._changing.release()
