"""The same encoded images in every container that people keep them in."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.recognition import packed, write_records


def write_tar(path: Path, images: dict[str, bytes]) -> Path:
    """Write members in the given order."""
    with tarfile.open(path, "w") as archive:
        for name, content in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, images: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write members in the given order."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in images.items():
            archive.writestr(name, content)
    return path


def write_bin(path: Path, images: dict[str, bytes], protocol: int = 4) -> Path:
    """Write an even number of images as InsightFace does, without their names."""
    path.write_bytes(pickle.dumps((list(images.values()), [True] * (len(images) // 2)), protocol))
    return path


def write_parquet(path: Path, images: dict[str, bytes], group: int = 3) -> Path:
    """Write a column of structs of bytes and path, and a label, as the Hugging Face hub has them."""
    column = [{"bytes": content, "path": name} for name, content in images.items()]
    table = pa.table({"image": pa.array(column), "label": list(range(len(column)))})
    pq.write_table(table, path, row_group_size=group)
    return path


def write_all(folder: Path, images: dict[str, bytes]) -> dict[str, list[str]]:
    """Write the images in every way; return for each the overrides that name it."""
    folder.mkdir(exist_ok=True)
    for name, content in images.items():
        (folder / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "plain" / name).write_bytes(content)
    order = list(images)[::-1]
    turned = {name: images[name] for name in order}
    (folder / "plain/list.txt").write_text("".join(f"{name}\n" for name in order), encoding="utf-8")
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in order), encoding="utf-8")
    for part in range(3):
        write_tar(folder / f"part-{part:03d}.tar", {name: images[name] for name in order[part::3]})
    write_zip(folder / "all.zip", turned)
    write_parquet(folder / "all.parquet", turned)
    write_bin(folder / "all.bin", turned)
    records = [packed([len(images) + 1, len(images) + 1], b"")]
    records += [packed(0.0, content, key) for key, content in enumerate(turned.values(), 1)]
    write_records(folder / "train.rec", records)
    named = f"dataset.names={folder}/names.txt"
    return {
        "folder": [f"dataset.loc={folder}/plain"],
        "list": [f"dataset.loc={folder}/plain/list.txt"],
        "tar": [f"dataset.loc={folder}/part-{{000..002}}.tar"],
        "zip": [f"dataset.loc={folder}/all.zip"],
        "parquet": [f"dataset.loc={folder}/all.parquet"],
        "bin": [f"dataset.loc={folder}/all.bin", named],
        "rec": [f"dataset.loc={folder}/train.rec", named],
    }
