# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The exceptions that samm_ros raises for what a user can mend: each carries one sentence to show as it is."""


class SammError(Exception):
    """What went wrong, in one sentence that names the value, the limit and the remedy."""


class VolumeError(SammError):
    """A volume that cannot be read or has no usable geometry."""


class FrameError(SammError):
    """An image of a stream that cannot be used."""


class PromptError(SammError):
    """A prompt that has no answer: outside the volume, off the slice, or of a kind that the model does not take."""


class NotReadyError(SammError):
    """Something is away or still starting; the same request may be answered when it is sent again."""


class ModelError(SammError):
    """A model or checkpoint that cannot be loaded."""


class BackendError(ModelError):
    """A backend that this machine lacks, or that does not agree with the reference; another one can be taken."""


class PoseError(SammError):
    """A pose that is missing, too old or no pose, or an image whose pixels have no place in the world."""


class MaskError(SammError):
    """A mask that is damaged or does not fit, or a segmentation that cannot be written."""


class CacheError(SammError):
    """Saved embeddings that are damaged or belong to something else."""


class BagError(SammError):
    """A recording that cannot be read or written."""


class OutputError(SammError):
    """A file or folder that cannot be written."""


class PathError(SammError):
    """A path in a message that is no path, or lies in none of the folders that the graph may use."""


class LaunchError(SammError):
    """A launch file, launch argument or process that cannot be started."""


class SetupError(SammError):
    """Something that the set-up needs and this machine lacks."""
