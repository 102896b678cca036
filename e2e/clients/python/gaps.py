"""Measures for how long no new picture of a publisher was decoded."""

import time


class GapWatch:
    """Is told of every decoded picture, whatever track carries it."""

    def __init__(self) -> None:
        # Seconds: last picture and longest gap, by publisher.
        self._clocks: dict[str, tuple[float, float]] = {}

    def tick(self, identity: str) -> None:
        now = time.monotonic()
        last, longest = self._clocks.get(identity, (now, 0.0))
        self._clocks[identity] = (now, max(longest, now - last))

    def take(self) -> dict[str, float]:
        """The longest gap of each publisher since this was asked last, in milliseconds."""
        now = time.monotonic()
        gaps = {who: 1000 * max(longest, now - last) for who, (last, longest) in self._clocks.items()}
        self._clocks = {who: (last, 0.0) for who, (last, _) in self._clocks.items()}
        return gaps
