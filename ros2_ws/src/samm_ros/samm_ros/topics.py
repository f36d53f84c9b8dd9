# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The graph's names and QoS profiles, each defined here alone. Names are relative: a namespace makes another graph."""

from rclpy.duration import Duration
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)

from samm_core.cycle.request import MAX_CLIENTS

# What positions in messages are in: patient space, millimetres, right-anterior-superior. Of pixels, the slice's own frame
# (ImageId.msg says which) is told in the same header: it lies in this space.
FRAME_ID = "ras"

PROMPTS = "prompts"
PICTURE_PROMPTS = "picture_prompts"
SLICE_REQUESTS = "slice_requests"
ACCEPTED_REQUESTS = "accepted_requests"
MASKS = "masks"
RECEIVED_MASKS = "received_masks"
TASK_MASKS = "task_masks"
OVERLAY = "overlay"
EMBEDDING_REQUESTS = "embedding_requests"
EMBEDDINGS = "embeddings"

# A live stream: what comes in, and what is made of it.
IMAGE = "image"
COMPRESSED_IMAGE = "image/compressed"
POSE = "pose"
TRANSFORM = "transform"
TRACK_PROMPTS = "track_prompts"
TRACKS = "tracks"
LABEL_IMAGE = "label_image"
DETECTIONS = "detections"
LABEL_INFO = "label_info"
STREAM_OVERLAY = "stream_overlay"
COMPRESSED_STREAM_OVERLAY = "stream_overlay/compressed"
CONTOURS = "contours"
POINTS = "points"

VOLUME_INFO = "volume_info"
VOLUMES = "volumes"
MODEL_INFO = "model_info"
EMBEDDING_STATUS = "embedding_status"
SEGMENTATION_STATUS = "segmentation_status"
TASK_EVENTS = "task_events"
WEIGHTS = "weights"
DIAGNOSTICS = "/diagnostics"

LOAD_VOLUME = "load_volume"
LOAD_PICTURE = "load_picture"
SELECT_MODEL = "select_model"
UNDO = "undo"
REDO = "redo"
SAVE_WORK = "save_work"
OPEN_WORK = "open_work"
EDIT_SEGMENTS = "edit_segments"
GET_PROMPTS = "get_prompts"
SAVE_SEGMENTATION = "save_segmentation"
EMBED_VOLUME = "embed_volume"
SEGMENT_VOLUME = "segment_volume"
FETCH_WEIGHTS = "fetch_weights"
EDIT_TRACKS = "edit_tracks"
RECORD_SWEEP = "record_sweep"

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
# Prompts that bring their picture: of several MB each, so that few queue. Whoever got no answer sends it again.
PICTURES = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=8,
)
# What is made of each image of a stream. Whoever shows it wants the newest; whoever steers by it has to know when it is late:
# a message is dropped after its lifespan, and a reader may ask for the deadline and the liveliness that are offered.
OF_A_STREAM = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    deadline=Duration(seconds=0.5),
    lifespan=Duration(seconds=0.5),
    liveliness=LivelinessPolicy.AUTOMATIC,
    liveliness_lease_duration=Duration(seconds=1),
)
# Poses come up to 1000 times a second, and an image needs those around it.
POSES = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
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
