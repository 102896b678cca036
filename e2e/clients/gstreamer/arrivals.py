"""When something arrived."""

import time


class Arrivals:
    """Counts arrivals, and the longest pause between them since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._count = 0
        self._last = time.monotonic()
        self._longest = 0.0

    def note(self) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        self._count += 1

    def report(self) -> dict[str, float]:
        pause = max(self._longest, time.monotonic() - self._last)
        return {"count": self._count, "longestPauseMs": round(pause * 1000)}
