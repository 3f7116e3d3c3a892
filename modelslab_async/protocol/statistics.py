"""What a client counts, and the snapshot that it gives."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from modelslab_async.protocol.lifecycle import JobState

RequestKind = Literal["submit", "fetch", "probe", "download", "call"]
"""A paid submit; a question after a job; the first bytes of a link; a file; anything else, such as a balance."""


class Statistics(NamedTuple):
    """What a client did since it was made, and how it stands. `Client.statistics` gives one; it does not change.

    jobs: how many jobs are, or ended, in each state.
    requests: how many HTTP requests were sent, by kind: "submit", "fetch", "probe", "download", "call". Repeats count.
    polls_per_job: fetches and probes until the end was seen, mean over the jobs that were watched to it; None if none.
    detection_latency: when a job ended is not known, but it was after the last look that saw it running. So this is an
        upper bound, the mean of the seconds from that look to the one that saw the end; None if none.
    slot_idle_time: seconds in which a place was empty while a job waited, added up over the places.
    cap: how many jobs the client now takes the account to have places for.
    in_flight: how many places its jobs fill.
    """

    jobs: Mapping[JobState, int]
    requests: Mapping[RequestKind, int]
    polls_per_job: float | None
    detection_latency: float | None
    slot_idle_time: float
    cap: int
    in_flight: int


class Counters:
    """The counters."""

    def __init__(self) -> None:
        self.requests, self.ended = Counter[RequestKind](), Counter[JobState]()
        self.slot_idle_time = self._unseen = 0.0
        self._watched = self._looks = 0

    def detected(self, looks: int, unseen: float) -> None:
        """A watch saw the end of its job, after so many looks; it may have been over for so many seconds."""
        self._watched += 1
        self._looks += looks
        self._unseen += unseen

    def snapshot(self, open_jobs: Mapping[JobState, int], *, cap: int, in_flight: int) -> Statistics:
        """The counters as they are now."""
        return Statistics(
            jobs={state: self.ended[state] + open_jobs.get(state, 0) for state in JobState},
            requests={kind: self.requests[kind] for kind in get_args(RequestKind)},
            polls_per_job=self._looks / self._watched if self._watched else None,
            detection_latency=self._unseen / self._watched if self._watched else None,
            slot_idle_time=self.slot_idle_time,
            cap=cap,
            in_flight=in_flight,
        )
