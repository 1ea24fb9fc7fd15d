"""Copies KV blocks between a GPU's KV caches and the staging arena, beside the forward pass.

Everything runs on one side stream, in order. Blocks are collected on the device in a small staging
buffer, a few kernels per chunk, and cross to the host's memory in long rows; and back likewise.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import gcd
from typing import Any, Protocol

import torch

from migration.vllm.worker.cache_shape import CacheShape, Lane
from migration.vllm.worker.copying import Ticket, check_numbers, count_slots, paired_runs, runs

CHUNK_BYTES = 32 << 20
"""Device memory for staging; vLLM leaves at least this much beside its KV cache."""

_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}

log = logging.getLogger(__name__)


class Streams(Protocol):
    """What depends on the device: order of work, pinned memory."""

    def aside(self) -> Any:
        """Return a context whose work is ordered after what was launched so far."""

    def event(self) -> Any:
        """Mark the end of the side work so far: `query()`, `synchronize()`."""

    def fence(self, event: Any) -> None:
        """Make what is launched from now on wait for this event."""

    def on_device(self, numbers: Sequence[int]) -> Any:
        """Copy numbers to the device; in the side context."""

    def pin(self, host: Any) -> bool:
        """Make the device reach this host tensor directly; False if that is not possible."""

    def unpin(self, host: Any) -> None:
        """Undo `pin`."""

    def pinned(self, rows: int, n_bytes: int) -> Any:
        """Return a host tensor of bytes that the device reaches directly."""

    def drain(self) -> None:
        """Wait for all side work."""


class DeviceCopier:
    """Gathers and scatters with torch operations; see `Copier` for what each call promises."""

    def __init__(
        self,
        shape: CacheShape,
        arena_buffer: memoryview,
        streams: Streams,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.shape = shape
        self.buffer = arena_buffer
        self.slots = count_slots(shape, arena_buffer)
        self._streams = streams
        self._chunk = max(1, min(self.slots, chunk_bytes // shape.block_bytes))
        with torch.inference_mode():
            flat = torch.frombuffer(arena_buffer, dtype=torch.uint8)
            self._arena = flat.view(self.slots, shape.block_bytes)
            with streams.aside():
                padded = -(-self._chunk * shape.block_bytes // 8) * 8
                staging = torch.empty(padded, dtype=torch.uint8, device=shape.device)
            self._rows = staging[: self._chunk * shape.block_bytes].view(self._chunk, -1)
            self._lanes = [self._views(lane, staging) for lane in shape.lanes]
        self._open: deque[Ticket] = deque()
        self._pinned = streams.pin(flat)
        if not self._pinned:
            log.warning("the staging memory cannot be pinned: KV goes through another buffer")

    def _views(self, lane: Lane, staging: Any) -> tuple[Any, Any]:
        """View a lane's part of the caches and of the staging rows alike, in the widest words."""
        row = self.shape.block_bytes
        outer, (length, _) = lane.dims[:-1], lane.dims[-1]
        strides = [stride for _, stride in outer]
        width = gcd(8, lane.offset, lane.block_stride, lane.slot_offset, row, length, *strides)
        sizes = [size for size, _ in outer] + [length // width]
        dense = [1]
        for size in reversed(sizes[1:]):
            dense.insert(0, dense[0] * size)
        root = self.shape.roots[lane.root]
        words = root[: root.numel() // width * width].view(_WORDS[width])
        cache = words.as_strided(
            [self.shape.num_blocks, *sizes],
            [one // width for one in (lane.block_stride, *strides)] + [1],
            lane.offset // width,
        )
        stage = staging.view(_WORDS[width]).as_strided(
            [self._chunk, *sizes], [row // width, *dense], lane.slot_offset // width
        )
        return cache, stage

    def gather(self, block_ids: Sequence[int], slots: Sequence[int]) -> Ticket:
        """Copy block i to slot i, as the blocks are after the work launched so far."""
        check_numbers(self, block_ids, slots)
        if not slots:
            return Ticket()
        host, rows = self._host(slots)
        with torch.inference_mode(), self._streams.aside():
            index = self._streams.on_device(block_ids)
            for start in range(0, len(rows), self._chunk):
                chunk = rows[start : start + self._chunk]
                for cache, stage in self._lanes:
                    torch.index_select(
                        cache, 0, index[start : start + len(chunk)], out=stage[: len(chunk)]
                    )
                for first, row, n in runs(chunk):
                    host[row : row + n].copy_(self._rows[first : first + n], non_blocking=True)
            event = self._streams.event()
        if host is self._arena:
            return Ticket(event)

        def finish() -> None:
            with torch.inference_mode():
                for row, slot, n in paired_runs(rows, slots):
                    self._arena[slot : slot + n].copy_(host[row : row + n])

        ticket = Ticket(event, finish)
        self._open.append(ticket)
        return ticket

    def scatter(self, slots: Sequence[int], block_ids: Sequence[int]) -> Ticket:
        """Copy slot i to block i, once the work launched so far no longer needs the blocks."""
        check_numbers(self, block_ids, slots)
        if not slots:
            return Ticket()
        if self._open:
            self.wait(self._open[-1])  # the slots may be theirs
        host, rows = self._host(slots)
        with torch.inference_mode(), self._streams.aside():
            if host is not self._arena:
                for row, slot, n in paired_runs(rows, slots):
                    host[row : row + n].copy_(self._arena[slot : slot + n])
            index = self._streams.on_device(block_ids)
            for start in range(0, len(rows), self._chunk):
                chunk = rows[start : start + self._chunk]
                for first, row, n in runs(chunk):
                    self._rows[first : first + n].copy_(host[row : row + n], non_blocking=True)
                for cache, stage in self._lanes:
                    cache.index_copy_(0, index[start : start + len(chunk)], stage[: len(chunk)])
            return Ticket(self._streams.event())

    def _host(self, slots: Sequence[int]) -> tuple[Any, Sequence[int]]:
        """Name the host memory the device copies to or from, and the rows of it to use."""
        if self._pinned:
            return self._arena, slots
        return self._streams.pinned(len(slots), self.shape.block_bytes), range(len(slots))

    def done(self, ticket: Ticket) -> bool:
        """Whether the copy, and with it every earlier one, is complete, without waiting."""
        if ticket.event is not None and not ticket.event.query():
            return False
        self._finish(ticket)
        return True

    def wait(self, ticket: Ticket) -> None:
        """Wait until the copy, and with it every earlier one, is complete."""
        if ticket.event is not None:
            ticket.event.synchronize()
        self._finish(ticket)

    def _finish(self, ticket: Ticket) -> None:
        """Finish this copy on the host and, since they complete in order, earlier ones.

        A caller that splits a long copy need only ask for the last part.
        """
        ticket.event = None
        while ticket.finish is not None:
            earlier = self._open.popleft()
            finish, earlier.finish, earlier.event = earlier.finish, None, None
            assert finish is not None, "the open copy was not finished"
            finish()

    def fence(self, ticket: Ticket) -> None:
        """Make what is launched from now on wait for the copy, on the device, not here."""
        if ticket.event is not None:
            self._streams.fence(ticket.event)

    def close(self) -> None:
        """Wait for all copies and release the arena."""
        self._streams.drain()
        if self._pinned:
            self._streams.unpin(self._arena)
        self._pinned = False
        self._lanes.clear()


class CudaStreams:
    """One side stream of a CUDA device, of the lowest priority."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=0)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run on the side stream, after what the current stream has been given so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield

    def event(self) -> Any:
        """Record an event on the side stream."""
        return self._stream.record_event()

    def fence(self, event: Any) -> None:
        """Make the current stream wait for the event."""
        torch.cuda.current_stream(self._device).wait_event(event)

    def on_device(self, numbers: Sequence[int]) -> Any:
        """Copy numbers to the device without waiting for it."""
        host = torch.tensor(numbers, dtype=torch.int64, pin_memory=True)
        return host.to(self._device, non_blocking=True)

    def pin(self, host: Any) -> bool:
        """Register the arena's memory with CUDA, which avoids copies through a bounce buffer."""
        failed = torch.cuda.cudart().cudaHostRegister(host.data_ptr(), host.nbytes, 0).value
        if failed:
            try:  # the next launch reports the error once more, and clears it
                torch.zeros(1, device=self._device).add_(1)
            except RuntimeError:
                log.debug("cudaHostRegister failed with error %s", failed)
        return not failed

    def unpin(self, host: Any) -> None:
        """Unregister it."""
        torch.cuda.cudart().cudaHostUnregister(host.data_ptr())

    def pinned(self, rows: int, n_bytes: int) -> Any:
        """Get memory from torch's pool of pinned memory."""
        return torch.empty((rows, n_bytes), dtype=torch.uint8, pin_memory=True)

    def drain(self) -> None:
        """Wait for the side stream."""
        self._stream.synchronize()


def cuda_copier(shape: CacheShape, arena_buffer: memoryview) -> DeviceCopier:
    """Build the copier for caches on a CUDA device."""
    return DeviceCopier(shape, arena_buffer, CudaStreams(shape.device))
