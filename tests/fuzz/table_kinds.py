"""Tables that somebody else wrote: scores, landmarks, pairs, embeddings, each with its reader."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.index.identities import find_identities
from data.tables.boxes import read_boxes
from data.tables.landmarks import read_landmarks
from data.tables.names import Names
from data.tables.scores import read_scores
from evaluation.pairs.comparison_files import read_comparisons, read_dasec_qualities
from evaluation.pairs.readers import read_pairs
from evaluation.protocol.embeddings import read_embeddings
from evaluation.protocol.face_set import FaceSet
from evaluation.protocol.metadata import read_metadata
from tests.fuzz.kind import JPEG, MARK, NAMES, Kind, parquet, saved
from tests.fuzz.mutation import of_lines, of_members


def _tables(path: Path) -> None:
    read_scores(path)


def _rows(separator: str, header: str, cells: Callable[[int], list]) -> bytes:
    lines = [header] if header else []
    lines += [separator.join(map(str, [name, *cells(number)])) for number, name in enumerate(NAMES)]
    return "".join(f"{line}\n" for line in lines).encode()


def _points(number: int) -> list[float]:
    return [round(30.5 + number + k, 2) for k in range(10)]


SCORES = {name: np.float32(n / 7) for n, name in enumerate(NAMES)}


LANDMARKS = {name: np.float32(_points(n)).reshape(5, 2) for n, name in enumerate(NAMES)}


def _pairs(form: str) -> Callable[[Path], object]:
    return lambda path: read_pairs(path, form, path.parent)


def _cfp(path: Path) -> object:
    folder = path.parent / "Protocol"
    (folder / "Split/FP/01").mkdir(parents=True, exist_ok=True)
    parts = path.read_bytes().split(MARK)
    names = ("Pair_list_F.txt", "Pair_list_P.txt", "Split/FP/01/same.txt", "Split/FP/01/diff.txt")
    for number, name in enumerate(names):
        (folder / name).write_bytes(parts[number] if number < len(parts) else b"")
    try:
        return read_pairs(folder, "cfp_fp")
    finally:
        path.write_bytes(b"")


def _metadata(path: Path) -> object:
    (path.parent / "pairs.txt").write_text(f"{NAMES[0]} {NAMES[3]} 1\n{NAMES[0]} {NAMES[1]} 0\n")
    pairs = read_pairs(path.parent / "pairs.txt", "list")
    return read_metadata(path, FaceSet("x", pairs, None), pairs.names)


def _cfp_whole() -> bytes:
    lists = [
        "".join(f"{n} ../Data/Images/{n:03d}/{kind}/01.jpg\n" for n in range(1, 5)) for kind in ("frontal", "profile")
    ]
    return MARK.join(part.encode() for part in (*lists, "1,1\n2,2\n", "1,2\n3,4\n"))


_ALL = np.stack(list(LANDMARKS.values()))


def _faces_in_json() -> list:
    """Return faces by name, records, several faces an image, and COCO keypoints."""
    points = {name: value.tolist() for name, value in LANDMARKS.items()}
    records = [{"path": name, "landmarks": value, "score": 0.5} for name, value in points.items()]
    images = [{"id": n, "file_name": name} for n, name in enumerate(points)]
    flat = [[cell for point in value for cell in (*point, 2)] for value in points.values()]
    annotations = [{"image_id": n, "keypoints": one, "score": 0.5} for n, one in enumerate(flat)]
    several = {name: [{"landmarks": value, "score": 0.1}] for name, value in points.items()}
    return [points, records, several, {"images": images, "annotations": annotations}]


def _beside_names(path: Path) -> object:
    path.with_suffix(".txt").write_text("".join(f"{name}\n" for name in NAMES))
    return read_landmarks(path)


def _retinaface() -> bytes:
    numbers = [" ".join(f"{x} {y} 0.0" for x, y in value) for value in LANDMARKS.values()]
    return "".join(f"# {n}\n10 10 50 60 {v} 0.8\n" for n, v in zip(NAMES, numbers, strict=True)).encode()


def _wider() -> bytes:
    numbers = [" ".join(f"{x} {y}" for x, y in value) for value in LANDMARKS.values()]
    return "".join(f"{n}\n1\n10 10 50 60 0.9 {v}\n" for n, v in zip(NAMES, numbers, strict=True)).encode()


def _dasec() -> bytes:
    scores = {f"{n}.jpg-{n + 1}.jpg": 0.1 * n for n in range(4)}
    similarity = {"type": "mated", "scores_by_pair_ids": scores}
    content = {
        "similarity_scores": similarity,
        "quality_scores_by_sample_id_per_algorithm": {"q": {f"{n}.jpg": n / 7 for n in range(6)}},
    }
    return json.dumps(content, indent=1).encode()


def _comparisons(path: Path) -> object:
    return list(read_comparisons(path))


TABLES = {
    "scores, pickle": Kind(
        ".pkl",
        [
            pickle.dumps(v, p)
            for v in (
                SCORES,
                list(SCORES.items()),
                [[n, float(v)] for n, v in SCORES.items()],
                {n.encode(): v for n, v in SCORES.items()},
            )
            for p in (0, 2, 4)
        ],
        read_scores,
    ),
    "landmarks, pickle": Kind(
        ".pkl",
        [
            pickle.dumps(v, p)
            for v in (
                LANDMARKS,
                {n: v.ravel().tolist() for n, v in LANDMARKS.items()},
                {n: np.array(v, object) for n, v in LANDMARKS.items()},
            )
            for p in (2, 4)
        ],
        read_landmarks,
    ),
    "scores, text": Kind(
        ".csv",
        [
            _rows(",", "path,score", lambda n: [n / 7]),
            _rows(" ", "", lambda n: [n / 7]),
            b"sep=;\n" + _rows(";", "path;score", lambda n: [f"{n},5"]),
            _rows("\t", "", lambda n: [n / 3]),
            _rows(",", "path,quality", lambda n: [n / 7]).decode().encode("utf-16"),
        ],
        _tables,
        of_lines,
        2.0,
    ),
    "landmarks, text": Kind(
        ".txt",
        [
            _rows(",", "", _points),
            _rows(" ", "", _points),
            _rows("\t", "path\t" + "\t".join("abcdefghij"), _points),
        ],
        read_landmarks,
        of_lines,
        2.0,
    ),
    "landmarks, JSON": Kind(".json", [json.dumps(one).encode() for one in _faces_in_json()], read_landmarks, of_lines),
    "landmarks, arrays": Kind(
        ".npz",
        [saved(lambda stream: np.savez(stream, names=np.array(NAMES), landmarks=_ALL, scores=np.ones(6)))],
        read_landmarks,
        of_members,
    ),
    "landmarks, npy": Kind(".npy", [saved(lambda stream: np.save(stream, _ALL))], _beside_names),
    "landmarks, lists": Kind(".txt", [_retinaface(), _wider()], read_landmarks, of_lines),
    "comparisons": Kind(".csv", [_rows(",", "a,b,score", lambda n: [NAMES[n // 2], n / 7])], _comparisons, of_lines),
    "comparisons, JSON": Kind(".json", [_dasec()], _comparisons, of_lines),
    "qualities, JSON": Kind(".json", [_dasec()], lambda path: read_dasec_qualities(path, "q"), of_lines),
    "pairs, dasec": Kind(".json", [_dasec()], _pairs("dasec"), of_lines),
    "pairs, two lines": Kind(".txt", [b"a_1.jpg 1\na_2.jpg 1\nb_1.jpg 0\nc_1.jpg 0\n"], _pairs("cplfw"), of_lines),
    "boxes": Kind(".csv", [_rows(",", "path,x,y,width,height", lambda n: [n, 1, 30, 40])], read_boxes, of_lines),
    "identities": Kind(
        ".csv",
        [_rows(",", "path,identity", lambda n: [f"p{n % 3}"])],
        lambda path: find_identities(Names.from_strings(NAMES), str(path)),
        of_lines,
    ),
    "scores, parquet": Kind(
        ".parquet",
        [
            parquet({"path": NAMES, "quality": list(map(float, SCORES.values()))}),
            parquet({"path": pa.array(NAMES).dictionary_encode(), "score": list(range(6))}, compression="none"),
        ],
        read_scores,
    ),
    "pairs, list": Kind(".txt", [_rows(" ", "", lambda n: [NAMES[n // 2], n % 2])], _pairs("list"), of_lines),
    "pairs, LFW": Kind(".txt", [b"2\t3\nA\t1\t2\nB\t1\t3\nA\t1\tB\t2\nC\t1\tA\t1\n"], _pairs("lfw"), of_lines),
    "pairs, CFP": Kind(".cfp", [_cfp_whole()], _cfp, of_lines),
    "pairs, Adience": Kind(
        ".txt",
        [
            b"user_id\toriginal_image\tface_id\tage\n"
            + b"".join(b"u%d\t%d.jpg\t%d\t3\n" % (n % 2, n, n % 2) for n in range(5)),
        ],
        _pairs("adience"),
        of_lines,
    ),
    "pairs, bin": Kind(
        ".bin", [pickle.dumps(([JPEG, JPEG, b"x" * 40, JPEG], [True, False]), p) for p in (2, 4)], _pairs("bin")
    ),
    "embeddings": Kind(
        ".npz",
        [saved(lambda stream: np.savez(stream, names=np.array(NAMES), embeddings=np.eye(6, 4, dtype=np.float32)))],
        read_embeddings,
        of_members,
    ),
    "metadata": Kind(".csv", [_rows(",", "path,kind,blur,yaw", lambda n: ["blur", n, n / 3])], _metadata, of_lines),
}
