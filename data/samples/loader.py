"""Transport: workers that fetch batches ahead of time, in the order a sampler gives; their number changes nothing."""

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from data.images.silence import forget_other_threads
from data.samples.crops import CropBatch, FaceCrops
from data.samples.datasets import IndexedFaces
from data.samples.detected import DetectedCrops
from data.samples.sampler import ALONE, VALIDATION_EPOCH, EpochSampler, Rows, Shard
from utils.config.sections import LoaderParams
from utils.errors import DataError, UserError
from utils.present import present

AHEAD = 4
"""Batches fetched ahead, per worker process or by the threads."""
_THREADS = 2
"""Decoding threads when there are no worker processes; most of their time is spent outside the GIL."""
NAMED = 20
"""Images without a crop that training and validation each name."""

logger = logging.getLogger(__name__)


class BatchLoader:
    """Fetch a sampler's batches of a data set, ahead of the consumer and in order."""

    def __init__(self, dataset: IndexedFaces, sampler: EpochSampler, params: LoaderParams):
        self.dataset, self.sampler = dataset, sampler
        self.batches = _Fetcher(dataset, sampler, params.num_workers, params.pin_memory)
        self.left_out: set[int] = set()

    def steps_per_epoch(self) -> int:
        """Count the batches of an epoch."""
        return self.sampler.steps_per_epoch()

    def describe(self, row: int) -> str:
        """Return what messages call the image of a row."""
        return self.dataset.index.source.describe(row)

    def starting_at(self, position: tuple[int, int], end_epoch: int) -> Iterator[Any]:
        """Yield the batches from (epoch, batch) up to, not including, epoch `end_epoch`, across epochs."""
        self.sampler.position, self.sampler.end_epoch = position, end_epoch
        return iter(self)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            if batch.failures and len(batch.row) < 2 and not self.sampler.keep_all:
                row, reason = batch.failures[0]
                raise DataError(
                    f"{len(batch.failures)} images of one batch give no crop, which leaves less than two to train on; "
                    f"first: {self.describe(row)} ({reason})."
                )
            for row, reason in batch.failures:
                self._say(row, reason)
            yield batch

    def _say(self, row: int, reason: str) -> None:
        """Name an image without a crop once; of very many, name the first and count the others."""
        if row in self.left_out:
            return
        self.left_out.add(row)
        count = len(self.left_out)
        if count <= NAMED:
            logger.warning(f"{self.describe(row)}: {reason}; left out")
        elif count % 1000 == 0 or count == NAMED + 1:
            logger.warning(f"{count} images have been left out so far; no longer named one by one")

    def __len__(self) -> int:
        return len(self.sampler)


def train_loader(dataset: IndexedFaces, rows: Rows, params: LoaderParams, seed: int, shard: Shard = ALONE):
    """Make the loader of training batches; see EpochSampler for the order and for the last batch."""
    return BatchLoader(dataset, EpochSampler(rows, params, seed, shard), params)


def validation_loader(dataset: IndexedFaces, rows: Rows, params: LoaderParams, shard: Shard = ALONE):
    """Make the loader of validation batches: every row once, in order, each time with the same perturbations."""
    sampler = EpochSampler(rows, params.model_copy(update={"shuffle": False}), seed=0, shard=shard)
    sampler.keep_all = True
    sampler.position, sampler.end_epoch = (VALIDATION_EPOCH, 0), VALIDATION_EPOCH + 1
    return BatchLoader(dataset, sampler, params)


def crop_batches(dataset: FaceCrops | DetectedCrops, batch_size: int, num_workers: int = 0) -> Iterator[CropBatch]:
    """Yield the crops in batches, in order.

    Decoding runs ahead of the consumer, in worker processes or, with `num_workers=0`, in threads.
    """
    batches = [range(at, min(at + batch_size, len(dataset))) for at in range(0, len(dataset), batch_size)]
    return fetched(dataset, batches, num_workers)


def fetched(dataset: FaceCrops | DetectedCrops, batches: Sequence[range], num_workers: int) -> Iterator[CropBatch]:
    """Yield the given rows of the crops, batch by batch, as `crop_batches` does."""
    return iter(_Fetcher(dataset, batches, num_workers, pin_memory=False))


class _Problem(NamedTuple):
    """Carry an error out of a worker; torch would wrap its sentence in a traceback."""

    error: UserError


class _Guarded(Dataset):
    def __init__(self, dataset: IndexedFaces | FaceCrops | DetectedCrops):
        self.dataset = dataset

    def __getitems__(self, keys: Any) -> Any:
        try:
            return self.dataset.__getitems__(keys)
        except UserError as error:
            return _Problem(error)


class _Fetcher:
    """Iterate over `dataset.__getitems__(batch) for batch in batches` with processes or threads."""

    def __init__(
        self, dataset: IndexedFaces | FaceCrops | DetectedCrops, batches: Any, num_workers: int, pin_memory: bool
    ):
        self.dataset = _Guarded(dataset)
        self.batches = batches
        self.pin_memory = pin_memory and torch.cuda.is_available()
        with _more_workers_than_cores():
            self.loader = self._loader(num_workers) if num_workers else None

    def _loader(self, num_workers: int) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_sampler=self.batches,
            collate_fn=_as_is,
            num_workers=num_workers,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            pin_memory=self.pin_memory,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # its own, or every pass would advance torch's global one
            multiprocessing_context="fork" if sys.platform.startswith("linux") else None,
        )

    def __iter__(self) -> Iterator[Any]:
        for batch in self._from_threads() if self.loader is None else self._from_processes():
            if isinstance(batch, _Problem):
                raise batch.error
            yield batch

    def _from_processes(self) -> Iterator[Any]:
        try:
            yield from self._start_workers()
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "A decoding worker died, most often for want of memory; lower dataloader.*.params.num_workers."
            ) from error

    def _start_workers(self) -> Iterator[Any]:
        """Start the workers without torch's SIGCHLD handler, which raises wherever the main thread is just then.

        A dead worker is noticed by the next request for a batch instead, where it becomes one clear error.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGCHLD) if in_main_thread else None
        with _more_workers_than_cores():
            batches = iter(present(self.loader))
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)
        return batches

    def _from_threads(self) -> Iterator[Any]:
        waiting: deque[SimpleQueue] = deque()
        with _threads(self.dataset.__getitems__) as asked:
            for keys in self.batches:
                answer: SimpleQueue = SimpleQueue()
                asked.put((keys, answer))
                waiting.append(answer)
                if len(waiting) > AHEAD:
                    yield self._pinned(_taken(waiting.popleft()))
            while waiting:
                yield self._pinned(_taken(waiting.popleft()))

    def _pinned(self, batch: Any) -> Any:
        if not self.pin_memory or isinstance(batch, _Problem):
            return batch
        return type(batch)(*(value.pin_memory() if torch.is_tensor(value) else value for value in batch))


@contextlib.contextmanager
def _threads(fetch: Callable[[Any], Any]) -> Iterator[SimpleQueue]:
    """Answer what is put on the queue, (keys, queue for the answer), in threads; leave what is not begun at the end.

    Not a ThreadPoolExecutor: Ctrl-C in the moment in which the main thread has just taken the lock of a Future leaves
    it locked, and the pool then waits for ever for the thread that wants it. SimpleQueue has no such moment.
    """
    asked: SimpleQueue = SimpleQueue()
    threads = [threading.Thread(target=_answer, args=(fetch, asked), daemon=True) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        with contextlib.suppress(Empty):
            while True:
                asked.get_nowait()
        for _ in threads:
            asked.put(None)
        for thread in threads:
            thread.join()


def _answer(fetch: Callable[[Any], Any], asked: SimpleQueue) -> None:
    while (request := asked.get()) is not None:
        keys, answer = request
        try:
            answer.put((fetch(keys), None))
        except BaseException as error:  # the main thread raises it
            answer.put((None, error))


def _taken(answer: SimpleQueue) -> Any:
    batch, error = answer.get()
    if error is not None:
        raise error
    return batch


@contextlib.contextmanager
def _more_workers_than_cores() -> Iterator[None]:
    """Keep torch from warning about it: the released recipe asks for 10 anywhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def _as_is(batch: Any) -> Any:
    return batch


def _end_with_the_parent() -> None:
    """Obey SIGTERM of the parent alone: a scheduler sends it to all processes, and the parent says when to end."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _start_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_parent, daemon=True).start()
    sys.excepthook = _say_unless_left
    cv2.setNumThreads(0)
    forget_other_threads()


def _say_unless_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of a worker's thread, but not that the main process ended while it was handed a batch."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
