"""How a job ends where things go wrong, so that each end says what is known of its charge."""

import logging

from modelslab_async.errors import JobDetachedError, JobError, ModelsLabError, SubmitUncertainError
from modelslab_async.job.future import Job
from modelslab_async.protocol import lifecycle
from modelslab_async.protocol.lifecycle import JobState

_log = logging.getLogger("modelslab_async")


def mistake(job: Job, error: Exception) -> JobError:
    """Something went wrong in here."""
    _log.error("%r: a mistake in modelslab_async", job, exc_info=error)
    return JobError(f"a mistake in modelslab_async, please report it: {error!r}")


def let_go(job: Job, *, is_kept: bool, is_sent: bool) -> None:
    """End a job that a closing client no longer drives.

    is_kept: the journal keeps it as WAITING for the next client. is_sent: its paid request may have left.
    """
    if job.state is JobState.SUBMITTING:
        if is_sent:
            lost = SubmitUncertainError("cancelled while the submit was under way")
            job._advance(lifecycle.ReplyLost(lost))
        else:
            job._advance(lifecycle.PutBack() if is_kept else lifecycle.Rejected(closed_before()))
    if not is_kept:
        job.cancel()
    stays_uncertain(job)
    job._detach()


def stays_uncertain(job: Job) -> None:
    """Nobody will hear any more of a job whose reply was lost."""
    if job.state is JobState.UNCERTAIN and job._doubt and not job.done():
        job._advance(lifecycle.ReplyLost(job._doubt))  # for the second time, and that is its end


def closed_before() -> JobDetachedError:
    """The client was closed while the job was about to be sent."""
    return JobDetachedError("the client was closed before this job was sent")


def give_up(job: Job, error: JobError) -> None:
    """Whatever goes wrong, the job gets an end that says what is known of its charge."""
    match job.state:
        case JobState.SUBMITTING:
            job._advance(lifecycle.ReplyLost(error))
        case JobState.PROCESSING:
            job._advance(lifecycle.Abandoned(error))
        case JobState.READY if not job.done():
            job._advance(lifecycle.Unreadable(error))


def uncertain(error: ModelsLabError) -> SubmitUncertainError:
    """The reply was lost, or says nothing."""
    message = f"the submit was sent and its outcome is unknown, so it is not sent again: {error.args[0]}"
    lost = SubmitUncertainError(message)
    lost.__cause__ = error
    return lost
