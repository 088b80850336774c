"""Rendered people under the names and in the forms of the paper's data: python examples/paper_standins.py FOLDER.

Then: make paper DATA=FOLDER SMALL=1. Figures on it say nothing about the paper; it shows that everything runs.
"""

import argparse
import csv
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data.samples.crops import open_crops  # noqa: E402
from data.samples.loader import crop_batches  # noqa: E402
from data.tables.landmarks import read_landmarks, write_landmarks_csv  # noqa: E402
from model.compact import CompactNet  # noqa: E402
from synthetic import render_populations  # noqa: E402
from utils.config.sections import CropInputConfig  # noqa: E402
from utils.config.synthetic import PopulationConfig, SyntheticConfig  # noqa: E402
from utils.contract import InputContract  # noqa: E402

SETS = ("LFW", "XQLFW", "CPLFW", "CALFW", "CFP-FP", "Adience")


class Face(NamedTuple):
    """One rendered image: the encoded file, its landmarks (5, 2) in px, and the number of its person."""

    content: bytes
    landmarks: np.ndarray
    person: int


def main(argv: Sequence[str] | None = None) -> None:
    """Render, train the small networks, write everything under its real name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=100, help="people to train on")
    parser.add_argument("--test-people", type=int, default=30, help="people of each test set")
    parser.add_argument("--images", type=int, default=12, help="images of each person, an even number")
    parser.add_argument("--epochs", type=int, default=8, help="of the recognition networks; 0: random weights")
    args = parser.parse_args(argv)
    rendered = args.folder / "rendered"
    train = PopulationConfig(identities=args.people, images=args.images)
    test = PopulationConfig(identities=len(SETS) * args.test_people, images=args.images, clean=0.3, single=0.5)
    for report in render_populations(SyntheticConfig(train=train, selection=None, test=test), rendered):
        sys.stdout.write(f"{report.line()}\n")
    write_training_images(args.folder, list(faces_of(rendered / "train")))
    networks = [train_network(args.folder, seed, args.epochs) for seed in (1, 2)]
    (args.folder / "weights").mkdir(exist_ok=True)
    torch.save(networks[0].state_dict(), args.folder / "weights/r100.pth")
    write_onnx(networks[1], args.folder / "weights/adaface.onnx")
    write_labels(args.folder, networks[0])
    faces = list(faces_of(rendered / "test"))
    size = args.test_people * args.images
    for place, name in enumerate(SETS):
        write_test_set(args.folder, name, faces[place * size : (place + 1) * size], args.images)


def faces_of(folder: Path) -> Iterator[Face]:
    """Yield the rendered images, person by person."""
    table = read_landmarks(folder / "landmarks.csv")
    order = sorted(range(len(table.names)), key=lambda row: table.names[row])
    for row in order:
        name = table.names[row]
        yield Face((folder / name).read_bytes(), table.points[row], int(name.split("/")[0].rpartition("_")[2]))


def write_training_images(folder: Path, faces: Sequence[Face]) -> None:
    """Write VGGFace2: train/n000001/0001_01.jpg and loose_landmark_train.csv."""
    rows, counts = [], dict[int, int]()
    for face in faces:
        counts[face.person] = counts.get(face.person, 0) + 1
        name = f"n{face.person:06d}/{counts[face.person]:04d}_01"
        write(folder / "vggface2/train" / f"{name}.jpg", face.content)
        rows.append([name, *(f"{value:.3f}" for value in face.landmarks.ravel())])
    path = folder / "vggface2/bb_landmark/loose_landmark_train.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["NAME_ID", *(f"P{point}{axis}" for point in range(1, 6) for axis in "XY")])
        writer.writerows([name, *map(float, values)] for name, *values in rows)


def train_network(folder: Path, seed: int, epochs: int) -> CompactNet:
    """Train a small CosFace network on the training people."""
    torch.manual_seed(seed)
    network = CompactNet()
    if epochs:
        target = folder / f"trained/{seed}"
        config = yaml.safe_load((ROOT / "configs/demo/teacher.yaml").read_text())
        config["base"] |= {"epochs": epochs, "save_path": str(target), "seed": seed, "resume": "auto"}
        config["dataset"] = {
            "image_location": str(folder / "vggface2/train"),
            "landms_location": str(folder / "vggface2/bb_landmark/loose_landmark_train.csv"),
            "val_percent": 0,
            "flip": 1,
        }
        config["scheduler"]["milestones"] = [0.6 * epochs, 0.85 * epochs]
        config["model"] = {"config": str(ROOT / "configs/demo/network.yaml")}
        target.mkdir(parents=True, exist_ok=True)
        (target / "teacher.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, str(ROOT / "train_main.py"), "-c", str(target / "teacher.yaml")]
        subprocess.run(command, cwd=ROOT, check=True)
        network.load_state_dict(torch.load(target / "cosface-last.pth", weights_only=True))
    return network.eval()


def write_onnx(network: CompactNet, path: Path) -> None:
    """Write a recognition network as ONNX, where the packages for it are installed."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        sys.stdout.write(f"{path.name}: left out; pip install onnx onnxscript onnxruntime\n")
        return
    shapes = ({0: torch.export.Dim("batch")},)
    crops, quiet = (torch.zeros(2, 3, 112, 112),), {"external_data": False, "verbose": False}
    torch.onnx.export(network, crops, path, dynamo=True, dynamic_shapes=shapes, **quiet)


def write_labels(folder: Path, network: CompactNet) -> None:
    """Write stand-ins of labels: the embedding's length as DifFIQA(R), its cosine to the person's mean as CR-FIQA."""
    landmarks = str(folder / "vggface2/bb_landmark/loose_landmark_train.csv")
    crops = open_crops(CropInputConfig(loc=str(folder / "vggface2/train"), input="landmarks", landmarks=landmarks))
    contract, parts = InputContract(), []
    with torch.inference_mode():
        for batch in crop_batches(crops, 128):
            pixels = batch.images.permute(0, 3, 1, 2).float() / 255
            parts.append(network((pixels - contract.mean[0]) / contract.std[0]))
    embedding = torch.cat(parts).numpy()
    names = list(crops.names)
    length = np.linalg.norm(embedding, axis=1)
    with open(folder / "diffiqar_baseline_quality.pkl", "wb") as stream:
        pickle.dump(dict(zip(names, length.astype(float).tolist(), strict=True)), stream, protocol=3)
    unit = embedding / length[:, None]
    person = np.unique([name.split("/")[0] for name in names], return_inverse=True)[1]
    means = np.stack([unit[person == one].mean(axis=0) for one in range(person.max() + 1)])
    certainty = (unit * means[person]).sum(axis=1) / np.linalg.norm(means, axis=1)[person]
    lines = (f"{name} {value:.6f}\n" for name, value in zip(names, certainty.tolist(), strict=True))
    write(folder / "labels/cr_fiqa.txt", "".join(lines).encode())


def write_test_set(folder: Path, name: str, faces: Sequence[Face], per_person: int) -> None:
    """Write one test set: images, landmarks.csv and pairs or protocol."""
    people = [faces[at : at + per_person] for at in range(0, len(faces), per_person)]
    root = folder / {"CFP-FP": "cfp-dataset", "Adience": "adience/faces"}.get(name, f"{name.lower()}/images")
    names = [[image_name(name, person, n, per_person) for n in range(per_person)] for person in range(len(people))]
    for own, images in zip(names, people, strict=True):
        for file, face in zip(own, images, strict=True):
            write(root / file, face.content)
    landmarks = root / "landmarks.csv" if name == "CFP-FP" else root.parent / "landmarks.csv"
    points = np.stack([face.landmarks for images in people for face in images])
    write_landmarks_csv(landmarks, [file for own in names for file in own], points)
    {"CFP-FP": write_cfp, "Adience": write_adience}.get(name, write_pairs)(folder, name, names)


def image_name(name: str, person: int, number: int, per_person: int) -> str:
    """Return the file of a person's image as the data set calls it."""
    who = f"Person_{name[0]}{person:03d}"
    if name in ("LFW", "XQLFW"):
        return f"{who}/{who}_{number + 1:04d}.jpg"
    if name == "CPLFW":
        return f"{who}_{number + 1}.jpg"
    if name == "CALFW":
        return f"{who}_{number + 1:04d}.jpg"
    if name == "Adience":
        return f"user{person:03d}/landmark_aligned_face.{person + 1}.{number:05d}_o.jpg"
    half = per_person // 2
    side, place = ("frontal", number) if number < half else ("profile", number - half)
    return f"Data/Images/{person + 1:03d}/{side}/{place + 1:02d}.jpg"


def drawn_pairs(names: Sequence[Sequence[str]]) -> list[tuple[int, int, int, int]]:
    """Return (person, number, person, number): a person's neighbours, then as many of two people."""
    count = len(names[0])
    mated = [(p, a, p, b) for p in range(len(names)) for a in range(count) for b in range(a + 1, min(a + 3, count))]
    rng = np.random.default_rng(len(names))
    other = []
    while len(other) < len(mated):
        p, q = rng.integers(len(names), size=2).tolist()
        if p != q:
            other.append((p, int(rng.integers(count)), q, int(rng.integers(count))))
    return mated + other


def write_pairs(folder: Path, name: str, names: Sequence[Sequence[str]]) -> None:
    """Write the pairs of LFW and XQLFW by name and number, those of CPLFW and CALFW in two lines each."""
    pairs = drawn_pairs(names)
    if name in ("LFW", "XQLFW"):
        people = [own[0].split("/")[0] for own in names]
        lines = [f"1\t{len(pairs) // 2}"]
        for p, a, q, b in pairs:
            lines.append(f"{people[p]}\t{a + 1}\t" + (f"{b + 1}" if p == q else f"{people[q]}\t{b + 1}"))
        file = "pairs.txt" if name == "LFW" else "xqlfw_pairs.txt"
    else:
        lines = [f"{names[p][a]} {int(p == q)}\n{names[q][b]} {int(p == q)}" for p, a, q, b in pairs]
        file = f"pairs_{name}.txt"
    write(folder / name.lower() / file, ("\n".join(lines) + "\n").encode())


def write_cfp(folder: Path, name: str, names: Sequence[Sequence[str]]) -> None:
    """Write CFP's Protocol: the lists of frontal and profile images, and two splits of pairs of both."""
    protocol, half = folder / "cfp-dataset/Protocol", len(names[0]) // 2
    for letter, part in (("F", slice(0, half)), ("P", slice(half, None))):
        listed = [file for own in names for file in own[part]]
        text = "".join(f"{row} ../{file}\n" for row, file in enumerate(listed, 1))
        write(protocol / f"Pair_list_{letter}.txt", text.encode())
    rng = np.random.default_rng(7)
    for split in (1, 2):
        kinds: dict[str, list[str]] = {"same": [], "diff": []}
        for person in range(split - 1, len(names), 2):
            for a in range(half):
                other = (person + 1 + int(rng.integers(len(names) - 1))) % len(names)
                kinds["same"] += [f"{person * half + a + 1},{person * half + b + 1}" for b in (a, (a + 1) % half)]
                kinds["diff"] += [f"{person * half + a + 1},{other * half + b + 1}" for b in (a, (a + 1) % half)]
        for kind, lines in kinds.items():
            write(protocol / f"Split/FP/{split:02d}/{kind}.txt", ("\n".join(lines) + "\n").encode())


def write_adience(folder: Path, name: str, names: Sequence[Sequence[str]]) -> None:
    """Write Adience's folds: tab-separated, with user, image and face_id."""
    header = ["user_id", "original_image", "face_id", "age", "gender"]
    for fold in range(2):
        lines = ["\t".join(header)]
        for person in range(fold, len(names), 2):
            for file in names[person]:
                user, image = file.split("/")
                lines.append("\t".join([user, image.split(".", 2)[2], str(person + 1), "(25, 32)", "f"]))
        write(folder / f"adience/fold_{fold}_data.txt", ("\n".join(lines) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Write a file and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    main()
