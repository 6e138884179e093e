"""What set-ups made, kept on disk and shared read-only by later sandboxes."""

from worker.adapters.layers.disk import DiskLayers

__all__ = ["DiskLayers"]
