"""Every kind of file that somebody else wrote: whole ones made here, and the public reader of each."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from onnx import TensorProto, helper
from PIL import Image

from data.images.decode import ImageError, decode_rgb, read_size
from data.index.identities import find_identities
from data.sources.registry import open_source
from data.tables.boxes import read_boxes
from data.tables.landmarks import read_landmarks
from data.tables.names import Names
from data.tables.scores import read_scores
from evaluation.pairs.comparison_files import read_comparisons, read_dasec_qualities
from evaluation.pairs.readers import read_pairs
from evaluation.protocol.embeddings import read_embeddings
from evaluation.protocol.face_set import FaceSet
from evaluation.protocol.metadata import read_metadata
from jobs.methods import load_training
from model.compact import CompactNet
from model.frozen.onnx_network import OnnxNetwork
from model.weights import load_backbone
from tests.fuzz.mutation import Mutation, mutated, of_chunks, of_lines, of_members
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig
from utils.config.inference import InferenceConfig
from utils.contract import InputContract, load_contract

NAMES = [f"id_{n % 3}/{n}.jpg" for n in range(6)]
TINY = {"num_features": 4, "width": 2}


class Kind(NamedTuple):
    """One kind of file."""

    suffix: str
    whole: list[bytes]
    """Good files, from which the mutations start."""
    read: Callable[[Path], object]
    """Raises UserError, or ImageError, where the file is not good."""
    mutate: Mutation = mutated
    share: float = 1.0
    """Of the inputs, compared with the other kinds: slow readers get fewer."""


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def _picture(form: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    return _saved(lambda stream: Image.fromarray(pixels).convert(mode).save(stream, form, **options))


def _animation(form: str) -> bytes:
    frames = [Image.new("RGB", (24, 20), colour) for colour in ("red", "blue")]
    return _saved(lambda stream: frames[0].save(stream, form, save_all=True, append_images=frames[1:]))


def _sixteen_bits() -> bytes:
    values = np.arange(24 * 20, dtype=np.uint16).reshape(24, 20) * 137
    return _saved(lambda stream: Image.fromarray(values).save(stream, "PNG"))


def _run_lengths() -> bytes:
    """Return a BMP of 8 bit with run lengths."""
    body = b"\x10\x05\x00\x00" * 16 + b"\x00\x01"
    header = b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078)
    header += struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 8, 1, len(body), 0, 0, 256, 0)
    return header + bytes(range(256)) * 4 + body


def _decoded(path: Path) -> None:
    content = path.read_bytes()
    try:
        read_size(content)
    except ImageError:
        pass
    decode_rgb(content, max_pixels=4_000_000)


def _tables(path: Path) -> None:
    read_scores(path)


def _rows(separator: str, header: str, cells: Callable[[int], list]) -> bytes:
    lines = [header] if header else []
    lines += [separator.join(map(str, [name, *cells(number)])) for number, name in enumerate(NAMES)]
    return "".join(f"{line}\n" for line in lines).encode()


def _parquet(columns: dict, **options) -> bytes:
    return _saved(lambda stream: pq.write_table(pa.table(columns), stream, **options))


def _points(number: int) -> list[float]:
    return [round(30.5 + number + k, 2) for k in range(10)]


SCORES = {name: np.float32(n / 7) for n, name in enumerate(NAMES)}
LANDMARKS = {name: np.float32(_points(n)).reshape(5, 2) for n, name in enumerate(NAMES)}
TRAINING = {
    "base": {"epochs": 2, "save_path": "run", "device": "cpu"},
    "dataset": {"image_location": "a", "quality_location": "b.csv", "landms_location": "c.csv", "val_percent": 0.2},
    "dataloader": {"train": {"params": {"batch_size": 4}}, "val": {"params": {"batch_size": 8}}},
    "model": {"config": "model_config.yaml"},
    "optimizer": {"group_1": {"params": "quality_head", "lr": 0.05}},
}
SCORING = {
    "base": {"save_path": "out", "device": "cpu"},
    "dataset": {"loc": "faces"},
    "model": {"config": "m.yaml", "weight": "w.pth"},
}
EVALUATION = {
    "base": {"save_path": "out", "device": "cpu"},
    "datasets": {"D": {"pairs": "p.txt", "format": "list"}},
    "recognition": {"R": {"embeddings": {"D": "e.npz"}}},
    "scores": {"S": {"D": "s.csv"}},
}


def _yaml(values: dict) -> bytes:
    return yaml.safe_dump(values, sort_keys=False).encode()


def _network() -> bytes:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 2], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 112, 112])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 2])
    graph = helper.make_graph(nodes, "g", [image], [out], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "contract", json.dumps(InputContract().to_dict())
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _backbone() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return CompactNet(**TINY).state_dict()


def _safetensors() -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in _backbone().items()})


def _tar() -> bytes:
    def write(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in NAMES[:3]:
                member = tarfile.TarInfo(name)
                member.size = len(JPEG)
                archive.addfile(member, io.BytesIO(JPEG))

    return _saved(write)


def _zip(method: int) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name in NAMES[:3]:
                archive.writestr(name, JPEG)

    return _saved(write)


def _record(header: bytes, content: bytes) -> bytes:
    body = header + content
    return struct.pack("<II", 0xCED7230A, len(body)) + body + bytes(-len(body) % 4)


def _records() -> bytes:
    """Return a record file and, behind a mark, its index."""
    parts = [_record(struct.pack("<IfQQ", 2, 0, 0, 0) + struct.pack("<ff", 3, 3), b"")]
    parts += [_record(struct.pack("<IfQQ", 0, n, n, 0), JPEG) for n in (1, 2)]
    places = [sum(map(len, parts[:n])) for n in range(3)]
    return b"".join(parts) + _MARK + "".join(f"{n}\t{at}\n" for n, at in enumerate(places)).encode()


_MARK = b"--index--"


def _opened(path: Path) -> None:
    """Open a place of images and read each."""
    source = open_source(path)
    for row in range(min(len(source), 8)):
        try:
            decode_rgb(source.read(row), max_pixels=1_000_000)
        except ImageError:
            continue


def _opened_records(path: Path) -> None:
    records, _, index = path.read_bytes().partition(_MARK)
    path.write_bytes(records)
    path.with_suffix(".idx").write_bytes(index)
    _opened(path)


def _opened_list(path: Path) -> None:
    (path.parent / "id_0").mkdir(exist_ok=True)
    (path.parent / "id_0/0.jpg").write_bytes(JPEG)
    _opened(path)


def _pairs(form: str) -> Callable[[Path], object]:
    return lambda path: read_pairs(path, form, path.parent)


def _cfp(path: Path) -> object:
    folder = path.parent / "Protocol"
    (folder / "Split/FP/01").mkdir(parents=True, exist_ok=True)
    parts = path.read_bytes().split(_MARK)
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


def _contract(path: Path) -> object:
    return load_contract(path.with_suffix(".pth"))


def _cfp_whole() -> bytes:
    lists = [
        "".join(f"{n} ../Data/Images/{n:03d}/{kind}/01.jpg\n" for n in range(1, 5)) for kind in ("frontal", "profile")
    ]
    return _MARK.join(part.encode() for part in (*lists, "1,1\n2,2\n", "1,2\n3,4\n"))


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


JPEG = _picture("JPEG", quality=60)
KINDS = {
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
        [_saved(lambda stream: np.savez(stream, names=np.array(NAMES), landmarks=_ALL, scores=np.ones(6)))],
        read_landmarks,
        of_members,
    ),
    "landmarks, npy": Kind(".npy", [_saved(lambda stream: np.save(stream, _ALL))], _beside_names),
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
            _parquet({"path": NAMES, "quality": list(map(float, SCORES.values()))}),
            _parquet({"path": pa.array(NAMES).dictionary_encode(), "score": list(range(6))}, compression="none"),
        ],
        read_scores,
    ),
    "training.yaml": Kind(".yaml", [_yaml(TRAINING)], load_training, of_lines, 0.5),
    "scoring.yaml": Kind(".yaml", [_yaml(SCORING)], lambda path: load_config(InferenceConfig, path), of_lines),
    "evaluation.yaml": Kind(".yaml", [_yaml(EVALUATION)], lambda path: load_config(EvaluateConfig, path), of_lines),
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
        [_saved(lambda stream: np.savez(stream, names=np.array(NAMES), embeddings=np.eye(6, 4, dtype=np.float32)))],
        read_embeddings,
        of_members,
    ),
    "metadata": Kind(".csv", [_rows(",", "path,kind,blur,yaw", lambda n: ["blur", n, n / 3])], _metadata, of_lines),
    "JPEG": Kind(
        ".jpg", [JPEG, _picture("JPEG", progressive=True), _picture("JPEG", "CMYK"), _picture("JPEG", "L")], _decoded
    ),
    "PNG": Kind(
        ".png",
        [
            _picture("PNG"),
            _picture("PNG", "RGBA"),
            _picture("PNG", "P"),
            _picture("PNG", "1"),
            _sixteen_bits(),
            _animation("PNG"),
        ],
        _decoded,
        of_chunks,
    ),
    "WebP": Kind(".webp", [_picture("WebP"), _picture("WebP", lossless=True), _animation("WebP")], _decoded),
    "BMP": Kind(".bmp", [_picture("BMP"), _picture("BMP", "P"), _picture("BMP", "1"), _run_lengths()], _decoded),
    "TIFF": Kind(
        ".tif",
        [
            _picture("TIFF"),
            _picture("TIFF", compression="tiff_lzw"),
            _picture("TIFF", "CMYK"),
            _picture("TIFF", compression="jpeg"),
        ],
        _decoded,
    ),
    "GIF": Kind(".gif", [_picture("GIF", "P"), _animation("GIF")], _decoded),
    "weights, pth": Kind(
        ".pth",
        [
            _saved(lambda stream: torch.save(_backbone(), stream)),
            _saved(lambda stream: torch.save({"state_dict": _backbone(), "epoch": 3}, stream)),
        ],
        lambda path: load_backbone(CompactNet(**TINY), path),
        of_members,
        0.5,
    ),
    "weights, old pth": Kind(
        ".pth",
        [
            _saved(lambda stream: torch.save(_backbone(), stream, _use_new_zipfile_serialization=False)),
        ],
        lambda path: load_backbone(CompactNet(**TINY), path),
        mutated,
        0.5,
    ),
    "weights, safetensors": Kind(
        ".safetensors", [_safetensors()], lambda path: load_backbone(CompactNet(**TINY), path)
    ),
    "contract": Kind(".json", [json.dumps({"contract": InputContract().to_dict(), "step": 3}).encode()], _contract),
    "ONNX": Kind(
        ".onnx",
        [_network()],
        lambda path: OnnxNetwork(path.read_bytes(), path, torch.device("cpu"), InputContract()),
        mutated,
        0.5,
    ),
    "records": Kind(".rec", [_records()], _opened_records),
    "images, list": Kind(".txt", ["".join(f"{name}\n" for name in NAMES).encode()], _opened_list, of_lines),
    "images, tar": Kind(".tar", [_tar()], _opened),
    "images, zip": Kind(".zip", [_zip(zipfile.ZIP_STORED), _zip(zipfile.ZIP_DEFLATED)], _opened),
    "images, parquet": Kind(
        ".parquet", [_parquet({"image": [{"bytes": JPEG, "path": n} for n in NAMES[:3]]})], _opened
    ),
    "images, bin": Kind(".bin", [pickle.dumps(([JPEG, JPEG], [True]), p) for p in (2, 4)], _opened),
}
