"""What training takes: time and memory."""

import time
from collections.abc import Iterator
from typing import Any

import psutil
import torch


class Throughput:
    """Movies a second, and the share of the time in which training waits for its loader.

    By the host's clock alone, so that no step waits for the device.
    """

    def start(self, num_samples: int) -> None:
        """Begin to measure, at so many movies."""
        self.num_samples = num_samples
        self.waited = 0.0
        self.started = time.perf_counter()

    def wait_for(self, batches: Iterator[Any]) -> Any:
        """The next batch."""
        asked = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - asked
        return batch

    def measure(self, num_samples: int, waited: float) -> dict[str, float]:
        """The figures since the last time, or since the start.

        Args:
            num_samples: Movies by now.
            waited: Seconds, the mean of all processes' own.
        """
        seconds = time.perf_counter() - self.started
        figures = {
            "train/samples_per_second": (num_samples - self.num_samples) / seconds,
            "train/data_wait_share": waited / seconds,
        }
        self.start(num_samples)
        return figures


def memory_use(device: torch.device) -> dict[str, float]:
    """MiB that this process holds, and the most that it ever held of its device."""
    figures = {"memory/host_mib": psutil.Process().memory_info().rss / 2**20}
    if device.type == "cuda":
        figures["memory/device_peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return figures
