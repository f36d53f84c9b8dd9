# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The graph's names and QoS profiles, each defined here alone. Names are relative: a namespace makes another graph."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from samm_core.cycle.request import MAX_CLIENTS

# What positions in messages are in: patient space, millimetres, right-anterior-superior. Of pixels, the slice's own frame
# (ImageId.msg says which) is told in the same header: it lies in this space.
FRAME_ID = "ras"

PROMPTS = "prompts"
SLICE_REQUESTS = "slice_requests"
ACCEPTED_REQUESTS = "accepted_requests"
MASKS = "masks"
RECEIVED_MASKS = "received_masks"
TASK_MASKS = "task_masks"
OVERLAY = "overlay"
EMBEDDING_REQUESTS = "embedding_requests"
EMBEDDINGS = "embeddings"

VOLUME_INFO = "volume_info"
VOLUMES = "volumes"
MODEL_INFO = "model_info"
EMBEDDING_STATUS = "embedding_status"
SEGMENTATION_STATUS = "segmentation_status"
TASK_EVENTS = "task_events"
DIAGNOSTICS = "/diagnostics"

LOAD_VOLUME = "load_volume"
SELECT_MODEL = "select_model"
UNDO = "undo"
REDO = "redo"
SAVE_WORK = "save_work"
OPEN_WORK = "open_work"
EDIT_SEGMENTS = "edit_segments"
SAVE_SEGMENTATION = "save_segmentation"
EMBED_VOLUME = "embed_volume"
SEGMENT_VOLUME = "segment_volume"

# The cycle, of one client: the newest wins and nothing queues; SND_INF sends again what got no answer.
NEWEST = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
# The cycle, of all clients: deep enough that none pushes out another's newest while its reader is busy. The newest of each
# wins all the same: readers take all that has come and work on the newest of each.
OF_ALL_CLIENTS = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=4 * MAX_CLIENTS,
)
# Embeddings for decoders elsewhere, and the requests for them: none is lost, and no more than a few, of 2 to 4 MiB, queue.
EMBEDDING = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=8,
)
# The masks of whole-volume tasks: every one, however long APL_MSK takes.
TASKS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=2000,
)
# State: a late joiner sees it.
LATCHED = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
# The trace: every event, off the hot path.
EVENTS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1000,
)
