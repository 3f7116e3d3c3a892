"""What the duration of a job depends on, as far as its request shows it."""

from typing import NamedTuple

from modelslab_async.protocol.request import ImageToVideoUltra

Kind = tuple[object, ...]
"""What two jobs must have in common so that one is forecast from the other."""
_TYPICAL_FRAMES, _TYPICAL_RESOLUTION, _TYPICAL_STEPS = 81, 480, 20
_MAX_PARAMETER = 1e6


class Workload(NamedTuple):
    """What the duration of a job depends on.

    kind: only jobs of the same kind are compared. work: how much the service has to compute; 1 for a typical request.
    """

    kind: Kind = ()
    work: float = 1.0


def work_of(request: ImageToVideoUltra) -> float:
    """Return how much the service has to compute: the pixels of all frames times the steps; 1 for a typical request."""
    frames = _relative(request.num_frames, _TYPICAL_FRAMES)
    steps = _relative(request.num_inference_steps, _TYPICAL_STEPS)
    return frames * steps * _relative(request.resolution, _TYPICAL_RESOLUTION) ** 2


def workload_of(request: ImageToVideoUltra | None) -> Workload:
    """Return the workload of *request*. None, for a job whose request is unknown, gives a kind of its own."""
    if request is None:
        return Workload()
    ratio = request.resolution if isinstance(request.resolution, str) else None
    return Workload((request.model_id, ratio), work_of(request))


def _relative(value: object, typical: int) -> float:
    """Return *value* as a multiple of the typical value. Return 1 if it is no number of a sensible size."""
    return value / typical if isinstance(value, int | float) and 1 <= value < _MAX_PARAMETER else 1.0
