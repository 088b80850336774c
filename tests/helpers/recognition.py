"""Identity folders of crops, records of them by a writer of its own, and the YAML of a tiny recognition run."""

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml

MAGIC = b"\x0a\x23\xd7\xce"
TINY = {"num_features": 8, "width": 4, "features_grad": True, "dropout": 0.1}


def write_identities(root: Path, identities: int = 4, images: int = 6, seed: int = 0) -> list[tuple[Path, int]]:
    """Write JPEG crops of 112x112, alike within an identity; return (path, class) in the order of the names."""
    rng = np.random.default_rng(seed)
    found = []
    for identity in range(identities):
        face = cv2.resize(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
        for image in range(images):
            path = root / f"id{identity:02d}" / f"{image}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            noisy = face.astype(float) + rng.normal(0, 20, face.shape)
            cv2.imwrite(str(path), np.clip(noisy, 0, 255).astype(np.uint8))
            found.append((path, identity))
    return found


def frame(data: bytes) -> bytes:
    """Return `data` as RecordIO bytes: cut at every aligned magic, each part with flag and length, padded."""
    cuts = [at for at in range(0, len(data) // 4 * 4, 4) if data[at : at + 4] == MAGIC]
    parts, start = [], 0
    for cut in cuts:
        parts.append(data[start:cut])
        start = cut + 4
    parts.append(data[start:])
    out = b""
    for number, part in enumerate(parts):
        if len(parts) == 1:
            flag = 0
        else:
            flag = 1 if number == 0 else 3 if number == len(parts) - 1 else 2
        out += MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
    return out


def packed(labels: float | Sequence[float], payload: bytes, key: int = 0) -> bytes:
    """Return header, labels and payload of one record."""
    if isinstance(labels, int | float):
        return struct.pack("<IfQQ", 0, labels, key, 0) + payload
    return struct.pack("<IfQQ", len(labels), 0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + payload


def write_records(rec: Path, records: Sequence[bytes], keys: Sequence[int] | None = None) -> list[int]:
    """Write train.rec and train.idx; return the offsets."""
    keys = range(len(records)) if keys is None else keys
    offsets, out = [], b""
    for record in records:
        offsets.append(len(out))
        out += frame(record)
    rec.write_bytes(out)
    rec.with_suffix(".idx").write_text("".join(f"{key}\t{at}\n" for key, at in zip(keys, offsets, strict=True)))
    return offsets


def write_face_records(rec: Path, images: Sequence[tuple[Path, int]]) -> None:
    """Write a set as InsightFace does: header, images 1.., one record per identity with its range of images."""
    count, classes = len(images), sorted({identity for _, identity in images})
    records = [packed([count + 1, count + 1 + len(classes)], b"")]
    records += [packed(float(identity), path.read_bytes(), key) for key, (path, identity) in enumerate(images, 1)]
    for identity in classes:
        keys = [key for key, (_, own) in enumerate(images, 1) if own == identity]
        records.append(packed([keys[0], keys[-1] + 1], b""))
    write_records(rec, records)


def write_run(folder: Path, method: str, **dataset) -> Path:
    """Write the two YAML files of a tiny run on folder/faces; return the training YAML."""
    groups = {"group_1": {"params": "feature_extractor"}, "group_2": {"params": "margin", "clip": 0}}
    if method == "crfiqa":
        groups["group_3"] = {"params": "quality_head"}
    for group in groups.values():
        group.update(lr=0.02, momentum=0.9, weight_decay=5e-4)
    head = "ArcFaceHead" if method == "crfiqa" else "CosFaceHead"
    train = {
        "base": {
            "method": method, "epochs": 3, "save_path": str(folder / "run"), "seed": 3, "device": "cpu", "amp": 0,
            "validate_every": 1, "pretrain": 0, "warmup": 0, "verbose": 0, "save_every": 2, "log_every": 1,
            "allow_random_init": 1,
        },
        "dataset": {"image_location": str(folder / "faces"), "val_percent": 0.2, "flip": 1, **dataset},
        "dataloader": {
            "train": {"params": {"batch_size": 8, "shuffle": 1, "num_workers": 0, "pin_memory": 0}},
            "val": {"params": {"batch_size": 8}},
        },
        "model": {"config": str(folder / "model.yaml")},
        "ema": {"ema_alpha": 0},
        "scheduler": {"module": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [1, 2], "gamma": 0.1},
        "optimizer": {**groups, "max_grad_norm": 5},
        "loss": {"recognition": {"module": f"model.margins.{head}", "params": {"scale": 16}}},
    }  # fmt: skip
    features = {"module": "model.compact.CompactNet", "weights": None, "params": TINY}
    model = {"features": features, "head": {"module": "model.mlp.LinearHead"}}
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    (folder / "train.yaml").write_text(yaml.safe_dump(train))
    return folder / "train.yaml"
