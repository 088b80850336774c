"""The largest batch of a training step on cards of 8, 24 and 80 GB, in bf16, without and with the teacher's cache.

    python -m benchmarks.memory [--device cuda] [--network iresnet100] [--cards 8 24 80]

On CUDA the process is held to a card's memory (less what the driver takes) and batches are tried: doubled until one
does not fit, then between. On any device what a step keeps for its backward pass is counted, which is what grows with
the batch; from it and the weights follows a bound that no step can pass.
"""

import gc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.measuring import Report, network_option, parser, reason
from benchmarks.training_step import Batch, Ours, make_batches, read_recipe
from utils.training.precision import pick_device, to_device

GB = 2**30
FINEST = 16
"""The largest batch is sought to within a sixteenth of it."""
MOST = 8192
"""No larger batch is tried."""


def largest(fits: Callable[[int], bool], most: int, first: int = 2) -> int:
    """Return the largest batch up to `most` that fits, to within a sixteenth; 0 where not even two images do.

    It is sought from `first` on, which a smaller card or a step that needs more was seen to take.
    """
    good, size = 0, first
    while size <= most and fits(size):
        good, size = size, 2 * size
    bad = min(size, most + 1)
    while bad - good > max(1, good // FINEST):
        middle = (good + bad) // 2
        if middle >= 2 and fits(middle):
            good = middle
        elif middle < 2:
            break
        else:
            bad = middle
    return good


def kept_for_backward(ours: Ours, batch: Batch) -> int:
    """Return the bytes that a step keeps for its backward pass, weights not counted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in ours.objective.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # an address that is freed may come again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), ours.precision.autocast():
        terms = ours.objective(batch)
    del terms
    return sum(kept.values())


def fixed_bytes(ours: Ours) -> int:
    """Return the bytes of weights, statistics, gradients and what the optimiser remembers, whatever the batch."""
    tensors = [*ours.objective.parameters(), *ours.objective.buffers()]
    trained = sum(p.numel() * p.element_size() for p in ours.part.trained)
    return sum(t.numel() * t.element_size() for t in tensors) + 2 * trained


def fits_on(ours: Ours, cached: bool, device: torch.device, failures: list[str]) -> Callable[[int], bool]:
    """Return what tries a batch size, within the memory that the process may take.

    A size that fails for another reason, as where a library knows no kernel for so many numbers, does not fit either;
    the reason is added to `failures`.
    """

    def fits(size: int) -> bool:
        try:
            gc.collect()
            torch.cuda.empty_cache()
            batch = to_device(make_batches(2, device)[0], device)
            batch = Batch(*(part.repeat_interleave((size + 1) // 2, 0)[:size] for part in batch[:3]))
            if cached:
                reference = torch.randn(size, reference_dim(ours, device), device=device)
                batch = batch._replace(reference=reference)
            for _ in range(2):
                ours.step(batch)
            torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            return False
        except RuntimeError as error:
            failures.append(f"batch {size}: {reason(error)}")
            return False
        finally:
            ours.optimizer.zero_grad(set_to_none=True)
        return True

    return fits


def reference_dim(ours: Ours, device: torch.device) -> int:
    """Return the length of the teacher's embeddings."""
    with torch.no_grad(), ours.precision.autocast():
        return ours.objective.reference(to_device(make_batches(2, device)[0], device)).shape[1]


def report_cards(report: Report, ours: Ours, cards: list[int], device: torch.device) -> None:
    """Try batches within the memory of each card."""
    free, total = torch.cuda.mem_get_info(device)
    elsewhere = total - free - torch.cuda.memory_reserved(device)  # the driver's part lies outside the allocator
    found = 0
    for card in cards:
        room = min(card * GB, total) - elsewhere
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), device)
        for cached in (False, True):
            failures: list[str] = []
            found = largest(fits_on(ours, cached, device, failures), MOST, max(2, found))
            what = f"{card} GB: largest batch{', cached' * cached}"
            report.add(what, found, "images, the most that is tried" if found == MOST else "images")
            if failures:
                report.add(f"{what}: a larger one failed in another way", failures[0])
    torch.cuda.set_per_process_memory_fraction(1.0, device)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options_of = parser(__doc__ or "", rounds=1)
    options_of.add_argument("--device", default="cpu")
    network_option(options_of)
    options_of.add_argument("--cards", type=int, nargs="+", default=[8, 24, 80], metavar="GB")
    options = options_of.parse_args(argv)
    report = Report("memory", options)
    device = pick_device(options.device)
    ours = Ours(*read_recipe(options, "base.precision=bf16", "model.fold_teacher=1"), device)
    two, four = (kept_for_backward(ours, to_device(make_batches(size, device)[0], device)) for size in (2, 4))
    each, fixed = (four - two) / 2, fixed_bytes(ours)
    report.add("weights, gradients and momentum", fixed / GB, "GiB")
    report.add("kept for the backward pass", each / 2**20, "MiB per image")
    for card in options.cards:
        report.add(f"{card} GB: no batch can be larger than", max(0, int((card * GB - fixed) / each)), "images")
    if device.type == "cuda":
        report_cards(report, ours, options.cards, device)
    else:
        report.add("largest batch by trying", "not measured: it needs a CUDA device")


if __name__ == "__main__":
    main()
