"""Count of the copies between host and device: each costs a wait of its own, however few its bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Copies:
    """Copies that a backend has made, and their bytes; copies within the device do not count.

    Attributes
    ----------
    to_device, to_host : int
        Copies each way.
    bytes_to_device, bytes_to_host : int
        Bytes each way.
    """

    to_device: int = 0
    bytes_to_device: int = 0
    to_host: int = 0
    bytes_to_host: int = 0

    def count_to_device(self, size: int) -> None:
        """A copy of so many bytes; none for an empty array."""
        self.to_device += size > 0
        self.bytes_to_device += size

    def count_to_host(self, size: int) -> None:
        """Likewise."""
        self.to_host += size > 0
        self.bytes_to_host += size
