"""Count what a client does, and give a snapshot of the counters."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from modelslab_async.protocol.lifecycle import JobState

RequestKind = Literal["submit", "fetch", "probe", "download", "call"]
"""Kind of an HTTP request.

submit: the paid request. fetch: a poll of a job. probe: the first bytes of a link. download: a file. call: any other
request, such as one for the balance.
"""


class Statistics(NamedTuple):
    """Snapshot of what a client did since it was made, and of its state. `Client.statistics` returns a new one.

    jobs: the number of jobs that are, or ended, in each state.
    requests: the number of HTTP requests of each kind: "submit", "fetch", "probe", "download", "call". Repeats count.
    polls_per_job: mean number of fetches and probes until the end of a job was seen, over the jobs that were polled
        until their end; None if there was none.
    detection_latency: upper bound of the time from the end of a job to the poll that saw it, seconds. It is the mean of
        the time between that poll and the last poll that saw the job running; None if there was none.
    slot_idle_time: seconds for which slots were free while a job waited, summed over the slots.
    cap: the number of the account's slots that the client believes all clients together can use now.
    in_flight: the number of its jobs that are submitted or processed now. An uncertain job that ended here is not among
        them, although it holds a slot for a while.
    """

    jobs: Mapping[JobState, int]
    requests: Mapping[RequestKind, int]
    polls_per_job: float | None
    detection_latency: float | None
    slot_idle_time: float
    cap: int
    in_flight: int


class Counters:
    """Count a client's requests, the ends of its jobs, and how its polls saw those ends."""

    def __init__(self) -> None:
        self.requests, self.ended = Counter[RequestKind](), Counter[JobState]()
        self.slot_idle_time = 0.0
        self._detected = self._polls = 0
        self._detection_time = 0.0

    def detected(self, polls: int, detection_time: float) -> None:
        """Count the end of a job that polls saw.

        polls: the number of polls of the job.
        detection_time: seconds from the last poll that saw the job running to the poll that saw its end.
        """
        self._detected += 1
        self._polls += polls
        self._detection_time += detection_time

    def snapshot(self, open_jobs: Mapping[JobState, int], *, cap: int) -> Statistics:
        """Return the counters as they are now.

        open_jobs: the number of jobs in each state that have not ended. cap: as in `Statistics`.
        """
        return Statistics(
            jobs={state: self.ended[state] + open_jobs.get(state, 0) for state in JobState},
            requests={kind: self.requests[kind] for kind in get_args(RequestKind)},
            polls_per_job=self._polls / self._detected if self._detected else None,
            detection_latency=self._detection_time / self._detected if self._detected else None,
            slot_idle_time=self.slot_idle_time,
            cap=cap,
            in_flight=open_jobs.get(JobState.SUBMITTING, 0) + open_jobs.get(JobState.PROCESSING, 0),
        )
