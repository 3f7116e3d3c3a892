"""Check whether a file is a whole video, in one of the containers that the service's operations give."""

from collections.abc import Collection

from modelslab_async.media import gif, mp4
from modelslab_async.protocol.operations import Container

CONTAINERS: tuple[Container, ...] = ("mp4", "gif")
Verdict = mp4.Verdict | gif.Verdict
_MAGIC_BYTES = 6


def container_of(head: bytes, allowed: Collection[Container] = CONTAINERS) -> Container | None:
    """Return what a file that starts with *head* may be, of the allowed containers. Return None if it is neither."""
    if head.startswith(gif.MAGIC):
        return "gif" if "gif" in allowed else None
    return "mp4" if "mp4" in allowed and mp4.looks_like_mp4(head) else None


class Parser:
    """Parse a file that is fed in order, chunk by chunk. Its first bytes decide what it is parsed as.

    allowed: the containers that it may be.
    """

    def __init__(self, allowed: Collection[Container] = CONTAINERS) -> None:
        self._allowed = allowed
        self._head = b""
        self._parser: mp4.Parser | gif.Parser | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._parser is None:
            self._head += chunk
            if len(self._head) < _MAGIC_BYTES:
                return
            is_gif = "gif" in self._allowed and self._head.startswith(gif.MAGIC)
            self._parser = gif.Parser() if is_gif else mp4.Parser()
            chunk, self._head = self._head, b""
        self._parser.feed(chunk)

    def verdict(self) -> Verdict:
        """Return what the file is if it ends here."""
        return self._parser.verdict() if self._parser else mp4.Verdict.CUT_SHORT

    @property
    def is_whole(self) -> bool:
        """Whether the file is a whole video if it ends here."""
        return self.verdict() in (mp4.Verdict.WHOLE, gif.Verdict.WHOLE)

    @property
    def is_wrong(self) -> bool:
        """Whether the file is no video, whatever follows."""
        return self.verdict() in (mp4.Verdict.NOT_MP4, gif.Verdict.NOT_GIF)

    def facts(self) -> mp4.Facts:
        """Return the facts that the file says."""
        return self._parser.facts() if self._parser else mp4.Facts()
