"""Samples per second of one core: files -> aligned and misaligned crop, ours and the released path, alternating.

    python -m benchmarks.data_path [--images 512] [--rounds 3] [--device cuda]

Makes JPEGs of 200x240 pixels. Rates are per second of processor time: one process, one thread. A third contestant
only decodes: no data path can be faster. Then a trial: the worker only decodes, both crops are gathered from the flat
buffer of decoded bytes by `device_warp.py`, here on the same core, with --device cuda also on the GPU.
"""

import statistics
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from skimage.transform import SimilarityTransform
from torch.utils.data import default_collate
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.device_warp import FlatBatch, gather_crops
from benchmarks.measuring import Report, alternate, parser, reason
from benchmarks.pictures import write_picture
from data.alignment import TEMPLATE_112, estimate_similarity, perturb_landmarks, warp
from data.images.decode import decode_rgb
from data.index.build import FaceIndex
from data.samples.datasets import DistillationDataset
from data.sources.folder import FolderSource
from data.tables.names import Names
from utils.config.sections import DecodeConfig
from utils.config.train_aikd import StudentCropConfig

SIZE = (240, 200)
BATCH = 64


def write_faces(folder: Path, count: int) -> FaceIndex:
    """Write JPEGs, each with the landmarks of a face that fills half of it."""
    rng = np.random.default_rng(0)
    names = [f"{i:05d}.jpg" for i in range(count)]
    for name in names:
        write_picture(folder / name, SIZE, rng)
    landmarks = [TEMPLATE_112 * rng.uniform(0.9, 1.2) + rng.uniform((40, 50), (60, 80)) for _ in names]
    labels = rng.uniform(size=count).astype(np.float32)
    return FaceIndex(FolderSource(folder, Names.from_strings(names)), np.float32(landmarks), labels)


class ReleasedDataset:
    """One sample as the released code makes it: both crops as float32 tensors."""

    def __init__(self, index: FaceIndex):
        self.index = index
        self.transform = transforms.Compose(
            [transforms.Resize(112), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        )

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        image = np.array(Image.open(self.index.source.describe(row)).convert("RGB"))
        points = self.index.landmarks[row]
        moved = points + np.random.uniform(-3, 3, points.shape)
        crops = [self.transform(Image.fromarray(self._warp(image, at))) for at in (points, moved)]
        return crops[0], crops[1], float(self.index.labels[row])

    def _warp(self, image: np.ndarray, points: np.ndarray) -> np.ndarray:
        if hasattr(SimilarityTransform, "from_estimate"):  # scikit-image 0.26; `estimate` warns there
            similarity = SimilarityTransform.from_estimate(points, TEMPLATE_112)
        else:
            similarity = SimilarityTransform()
            similarity.estimate(points, TEMPLATE_112)
        return cv2.warpAffine(image, similarity.params[:2], (112, 112), borderValue=0)


def batches(count: int) -> list[range]:
    """Return the rows of each batch."""
    return [range(at, min(at + BATCH, count)) for at in range(0, count, BATCH)]


def decode_flat(index: FaceIndex, rows: range) -> FlatBatch:
    """Decode only; the crops' transforms travel with the bytes."""
    images = [decode_rgb(index.source.read(row)) for row in rows]
    matrices = np.empty((2, len(images), 2, 3))
    for place, row in enumerate(rows):
        points = index.landmarks[row].astype(np.float64)
        moved = perturb_landmarks(points, 3, "source", np.random.default_rng([0, 0, row]))
        matrices[:, place] = [estimate_similarity(at, TEMPLATE_112) for at in (points, moved)]
    return FlatBatch.of(images, matrices)


def grey_levels(index: FaceIndex) -> tuple[int, float]:
    """Return the largest difference between gathered crops and those of cv2, and the share of pixels that differ."""
    rows = range(min(BATCH, len(index)))
    flat = decode_flat(index, rows)
    wanted = [
        [warp(decode_rgb(index.source.read(row)), matrix) for row, matrix in zip(rows, matrices, strict=True)]
        for matrices in flat.matrices.numpy()
    ]
    difference = np.abs(gather_crops(flat).numpy().astype(np.int16) - np.array(wanted))
    return int(difference.max()), float((difference > 0).mean())


def report_device(report: Report, index: FaceIndex, device: torch.device, rounds: int) -> None:
    """Add how fast a GPU takes a batch: two crops of each image, or the decoded bytes and two crops made there."""
    rows = range(min(BATCH, len(index)))
    flat = FlatBatch(*(tensor.pin_memory() for tensor in decode_flat(index, rows)))
    found = gather_crops(FlatBatch(*(tensor.to(device) for tensor in flat))).cpu()
    difference = (found.int() - gather_crops(flat).int()).abs().max().item()
    report.add("GPU: largest difference from the crops gathered here", difference, "grey levels")
    crops = torch.zeros(2, len(rows), 112, 112, 3, dtype=torch.uint8).pin_memory()

    def send_crops() -> int:
        for _ in range(50):
            crops.to(device, non_blocking=True)
        return 50 * len(rows)

    def send_and_gather() -> int:
        for _ in range(50):
            gather_crops(FlatBatch(*(tensor.to(device, non_blocking=True) for tensor in flat)))
        return 50 * len(rows)

    works = {"GPU: crops arrive": send_crops, "GPU: bytes arrive, crops are gathered": send_and_gather}
    report.compare(alternate(works, rounds, device), "GPU: crops arrive")
    files = [torch.frombuffer(bytearray(index.source.read(row)), dtype=torch.uint8) for row in rows]

    def decode_there() -> int:
        for _ in range(10):
            decode_jpeg(files, ImageReadMode.RGB, device=device)
        return 10 * len(rows)

    what = "GPU: files arrive, are decoded there by torchvision"
    try:
        found = [timing.rate("wall") for timing in alternate({what: decode_there}, rounds, device)[what]]
        report.add(what, statistics.median(found), "images/s", found)
    except Exception as error:  # torchvision without nvJPEG, or nvJPEG without this card
        report.add(what, f"does not work here: {reason(error)}")


def main() -> None:
    """Measure and print."""
    options_of = parser(__doc__)
    options_of.add_argument("--images", type=int, default=512)
    options_of.add_argument("--device", default="cpu")
    options = options_of.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    report = Report("data_path", options)
    with tempfile.TemporaryDirectory() as temporary:
        index = write_faces(Path(temporary), options.images)
        size = sum(path.stat().st_size for path in Path(temporary).iterdir()) / len(index)
        report.add("mean size of a file", size / 1000, "kB")
        ours = DistillationDataset(index, 0, StudentCropConfig(), DecodeConfig())
        released = ReleasedDataset(index)

        def run_released() -> int:
            for rows in batches(len(index)):
                default_collate([released[row] for row in rows])
            return len(index)

        def run_ours() -> int:
            for rows in batches(len(index)):
                ours.__getitems__([(0, row) for row in rows])
            return len(index)

        def run_decode() -> int:
            for row in range(len(index)):
                decode_rgb(index.source.read(row))
            return len(index)

        def run_flat() -> int:
            for rows in batches(len(index)):
                decode_flat(index, rows)
            return len(index)

        def run_gather() -> int:
            for rows in batches(len(index)):
                gather_crops(decode_flat(index, rows))
            return len(index)

        works = {"released": run_released, "ours": run_ours, "decoding alone": run_decode}
        report.compare(alternate(works, options.rounds), "released", clock="cpu")
        trials = {
            "ours, again": run_ours,
            "trial: bytes and transforms, no crops": run_flat,
            "trial: crops gathered on this core": run_gather,
        }
        report.compare(alternate(trials, options.rounds), "ours, again", clock="cpu")
        largest, share = grey_levels(index)
        report.add("trial: largest difference from cv2's crops", largest, "grey levels")
        report.add("trial: bytes of the crops that differ", 100 * share, "%")
        if options.device != "cpu":
            report_device(report, index, torch.device(options.device), options.rounds)


if __name__ == "__main__":
    main()
