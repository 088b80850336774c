"""How fast a run is, and what it waits for."""

import time


class Clock:
    """Measure images per second and the share of time spent waiting for data, between two readings."""

    def __init__(self):
        self.skip()

    def skip(self) -> None:
        """Start the window anew, after a pause that is not training."""
        self.start = self.mark = time.perf_counter()
        self.waited, self.images = 0.0, 0

    def data_ready(self) -> None:
        """Note that a batch has arrived."""
        self.waited += time.perf_counter() - self.mark

    def step_done(self, images: int) -> None:
        """Note that a step of that many images was issued."""
        self.images += images
        self.mark = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Return images per second and share of waiting since the last reading."""
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        result = self.images / elapsed, min(self.waited / elapsed, 1.0)
        self.skip()
        return result
