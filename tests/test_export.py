"""export.py: what leaves the repository scores as the trained student does, and says what it is."""

import csv
import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

import export
import train_main
from data.images.decode import decode_rgb
from model.frozen.network import TorchNetwork
from model.registry import NetworkBuilder
from model.sharing.files import recorded_model
from tests.helpers import inference as helpers_inference
from tests.helpers import training as helpers_training
from tests.helpers.images import (
    ORIENTATION,
    crop_pixels,
    jpeg_bytes,
    write_broken,
    write_bytes,
    write_crops,
    write_image,
    write_twins,
)
from tests.helpers.inference import STUDENT, assert_scores, expected_of, infer, scores_of, tiny_student
from utils import cli
from utils.contract import InputContract, load_contract, save_contract
from utils.errors import UserError
from utils.files import sha256_file

ROOT = Path(__file__).resolve().parent.parent
CARD_PATHS = ("images", "labels.csv", "backbone.pth")

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def write_export(folder, weight, **sections):
    values = {"base": {"save_path": str(folder / "export"), "verbose": 0}, "model": {"weight": str(weight)}, **sections}
    (folder / "export_config.yaml").write_text(yaml.safe_dump(values))
    return folder / "export_config.yaml"


def run_export(config, *overrides):
    return cli.run(lambda: export.main(["-c", str(config), *overrides]))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Export the tiny student of the inference tests once."""
    folder = tmp_path_factory.mktemp("export")
    helpers_inference.write_setup(folder)
    config = write_export(folder, folder / "student.pth", check={"count": 100})
    assert run_export(config, f"model.config={folder / 'model_config.yaml'}") == 0
    return folder


@pytest.fixture
def setup(shared, tmp_path):
    """Set up a scoring run that finds nothing of the training but the exported files."""
    helpers_inference.write_setup(tmp_path)
    (tmp_path / "student.pth").unlink()
    (tmp_path / "model_config.yaml").unlink()
    shutil.copytree(shared / "export", tmp_path / "export")
    return tmp_path


# ---- scoring with exported files


def test_the_onnx_file_scores_as_torch_does_for_any_batch_size(setup):
    names = write_crops(setup / "faces", 7)
    assert infer(setup, f"model.weight={setup / 'export/student.onnx'}", "dataloader.params.batch_size=3") == 0
    assert_scores(scores_of(setup / "out"), expected_of(names))
    run = json.loads((setup / "out/run.json").read_text())
    assert run["request"]["network"] == {"format": "onnx"}
    assert run["request"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


def test_safetensors_load_back_with_nothing_else(setup):
    names = write_crops(setup / "faces", 5)
    only = setup / "only.safetensors"
    shutil.move(setup / "export/student.safetensors", only)
    assert infer(setup, "model.config=null", f"model.weight={only}") == 0
    assert_scores(scores_of(setup / "out"), expected_of(names))
    student = NetworkBuilder().trained_student(recorded_model(only), only)
    assert all(torch.equal(value, STUDENT.state_dict()[key]) for key, value in student.state_dict().items())


def test_the_example_scores_without_torch(setup):
    names = write_crops(setup / "faces", 5)
    blocked = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
    blocked += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", blocked, ROOT / "examples/score_onnx.py", setup / "export/student.onnx"]
    done = subprocess.run([*command, setup / "faces"], capture_output=True, text=True, cwd=setup)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert_scores({row["path"]: np.float32(row["quality"]) for row in rows}, expected_of(names))
    assert len((ROOT / "examples/score_onnx.py").read_text().splitlines()) < 66


def test_the_example_scores_every_kind_of_file_as_inference_does(setup):
    faces = setup / "faces"
    write_twins(faces, crop_pixels(3, 150))
    write_image(faces / "wide.png", crop_pixels(4, 128)[:100])
    write_bytes(faces / "photo.jpe", jpeg_bytes(crop_pixels(5, 140)))
    turned = Image.Exif()
    turned[ORIENTATION] = 8
    write_image(faces / "a/turned.JPG", crop_pixels(6), exif=turned, quality=95)
    write_image(faces / "a.b/turned.tif", crop_pixels(6), tiffinfo={ORIENTATION: 6})
    grey16 = crop_pixels(7)[:, :, 0].astype(np.uint16) * 250 + 99
    write_bytes(faces / "grey16.png", cv2.imencode(".png", grey16)[1].tobytes())
    write_image(faces / "grey16.tiff", grey16)
    write_image(faces / "float.tiff", np.ones((112, 112), np.float32))
    broken = write_broken(faces)
    (faces / "folder.png").mkdir()
    weight = f"model.weight={setup}/export/student.onnx"
    assert infer(setup, weight, "dataset.accept_unusual=1") == 0
    command = [sys.executable, ROOT / "examples/score_onnx.py", setup / "export/student.onnx", faces]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {row["path"]: float(row["quality"]) for row in csv.DictReader(io.StringIO(done.stdout))}
    wanted = scores_of(setup / "out")
    assert list(found) == list(wanted) and len(found) == 13
    assert [found[name] for name in wanted] == pytest.approx(list(wanted.values()), abs=1e-5)
    assert max(found.values()) - min(found.values()) > 0.01
    *failures, warning = done.stderr.splitlines()
    assert sorted(line.split(": ")[0] for line in failures) == sorted([*broken, "float.tiff"])
    other = sum(decode_rgb((faces / name).read_bytes()).shape != (112, 112, 3) for name in wanted)
    assert warning.startswith(f"warning: {other} of {len(broken) + 14} images are no 112x112 crops") and other > 1


def test_quality_and_embedding_of_100_images_are_those_of_torch_in_batches_of_any_size(setup):
    session = onnxruntime.InferenceSession(str(setup / "export/student.onnx"), providers=["CPUExecutionProvider"])
    crops = np.random.default_rng(0).integers(0, 256, (100, 112, 112, 3), dtype=np.uint8)
    parts = np.split(crops, [1, 38])
    quality, embedding = (
        np.concatenate(outputs)
        for outputs in zip(*(session.run(["quality", "embedding"], {"crops": p}) for p in parts))
    )
    x = torch.from_numpy((crops.astype(np.float32) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted_embedding, wanted_quality = STUDENT(x)
    np.testing.assert_allclose(quality, wanted_quality.numpy(), atol=1e-5)
    np.testing.assert_allclose(embedding, wanted_embedding.numpy(), atol=1e-5)
    assert wanted_quality.std() > 1e-3


def test_metadata_names_contract_network_and_weights(shared):
    session = onnxruntime.InferenceSession(str(shared / "export/student.onnx"), providers=["CPUExecutionProvider"])
    record = json.loads(session.get_modelmeta().custom_metadata_map["ai_kd"])
    with safe_open(shared / "export/student.safetensors", framework="pt") as stream:
        assert json.loads(stream.metadata()["ai_kd"]) == record
    assert record["contract"] == InputContract().to_dict()
    assert record["weights_sha256"] == sha256_file(shared / "student.pth")
    assert record["model"]["features"] == {
        "module": "model.compact.CompactNet", "params": helpers_inference.TINY, "weights": None,
    }  # fmt: skip
    assert load_contract(shared / "export/student.onnx") == InputContract()


def test_mistakes_are_one_sentence(setup, shared, capsys, monkeypatch):
    write_crops(setup / "faces", 2)
    (setup / "broken.onnx").write_bytes(b"nothing")
    onnx = pytest.importorskip("onnx")
    plain = onnx.load(setup / "export/student.onnx")
    del plain.metadata_props[:]
    onnx.save(plain, setup / "plain.onnx")
    shutil.copy(shared / "student.pth", setup / "student.pth")
    cases = {
        ("model.weight=no.onnx",): "no.onnx: no such weights file",
        (f"model.weight={setup / 'broken.onnx'}",): "not a readable ONNX file",
        (f"model.weight={setup / 'plain.onnx'}",): "carries no preprocessing contract",
        (f"model.weight={setup / 'export/student.onnx'}", "base.precision=bf16"): "base.precision",
        ("model.config=null",): "name a model_config.yaml in model.config",
    }
    for overrides, words in cases.items():
        assert infer(setup, *overrides) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert infer(setup, f"model.weight={setup / 'export/student.onnx'}") == 2
    assert "pip install onnxruntime" in capsys.readouterr().err


# ---- the export itself


def test_another_contract_goes_into_the_graph(tmp_path, shared):
    contract = InputContract(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    model = yaml.safe_load((shared / "model_config.yaml").read_text())
    model["transform"] = {
        "trans_1": {"module": "torchvision.transforms.Resize", "params": {"size": 112}},
        "trans_2": {"module": "torchvision.transforms.ToTensor"},
        "trans_3": {
            "module": "torchvision.transforms.Normalize", "params": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        },
    }  # fmt: skip
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(model))
    shutil.copy(shared / "student.pth", tmp_path / "student.pth")
    save_contract(contract, tmp_path / "student.pth")
    config = write_export(tmp_path, tmp_path / "student.pth", check={"count": 3}, output={"formats": ["onnx"]})
    assert run_export(config, f"model.config={tmp_path / 'model_config.yaml'}") == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "export/student.onnx"), providers=["CPUExecutionProvider"])
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    x = (crops / 255.0 - contract.mean) / contract.std
    with torch.no_grad():
        wanted = STUDENT(torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2))[1]
    np.testing.assert_allclose(session.run(["quality"], {"crops": crops})[0], wanted.numpy(), atol=1e-5)


def test_nothing_is_written_when_the_files_differ():
    class Off(TorchNetwork):
        def run(self, images_BHW3):
            answer = super().run(images_BHW3)
            return answer._replace(quality=answer.quality + 2e-4)

    network, off = (kind(tiny_student(), InputContract(), export.CPU) for kind in (TorchNetwork, Off))
    crops = np.zeros((3, 112, 112, 3), np.uint8)
    with pytest.raises(UserError, match=r"differs from torch by 2\.0e-04 in quality, 1\.0e-04 is allowed"):
        export.compare(network, off, crops, 1e-4)


def test_comparison_crops_come_from_the_folder_or_from_the_seed(tmp_path):
    check = export.CheckConfig(count=40)
    first, second = (export.comparison_crops(check, 112, 5) for _ in range(2))
    assert first.shape == (40, 112, 112, 3) and (first == second).all() and len(np.unique(first)) == 256
    write_crops(tmp_path, 5)
    assert export.comparison_crops(export.CheckConfig(crops=str(tmp_path), count=3), 112, 0).shape == (3, 112, 112, 3)


def test_a_trained_run_is_exported_by_its_weights_alone(tmp_path, capsys):
    config = helpers_training.write_setup(tmp_path, count=24, epochs=1)
    labelled = {"request": {"source": {"name": "ser_fiq"}, "weights_sha256": "ab" * 32}}
    (tmp_path / "run.json").write_text(json.dumps(labelled))
    assert cli.run(lambda: train_main.main(["-c", str(config)])) == 0
    weight = tmp_path / "run/aikd-best.pth"
    settings = write_export(tmp_path, weight, check={"count": 3}, card={"licence": "CC BY-NC 4.0", "notes": "A trial."})
    assert run_export(settings) == 0
    files = {path.name for path in (tmp_path / "export").iterdir()}
    assert files == {"aikd-best.onnx", "aikd-best.safetensors", "aikd-best.json", "model_config.yaml", "README.md"}
    card = (tmp_path / "export/README.md").read_text()
    for words in (
        "by AI-KD", "model.compact.CompactNet", sha256_file(weight), sha256_file(tmp_path / "export/aikd-best.onnx"),
        "| label source | ser_fiq |", "| label file | labels.csv |", "CC BY-NC 4.0", "A trial.",
        "| images per step | 4 |", "radius_px 3", "arcface_112", "| images | 24 |", "min",
    ):  # fmt: skip
        assert words in card, words
    assert str(tmp_path) not in card
    assert str(tmp_path) not in (tmp_path / "export/model_config.yaml").read_text()
    write_crops(tmp_path / "faces", 4)
    scores = {}
    for name in ("aikd-best.onnx", "aikd-best.safetensors", ""):
        model = "null" if name else tmp_path / "model_config.yaml"
        values = {
            "base": {"verbose": 0, "save_path": str(tmp_path / "out"), "device": "cpu"},
            "dataset": {"loc": str(tmp_path / "faces")},
            "model": {"weight": str(tmp_path / "export" / name) if name else str(weight), "config": None},
        }
        (tmp_path / "inference_config.yaml").write_text(yaml.safe_dump(values))
        assert infer(tmp_path, f"model.config={model}") == 0, capsys.readouterr().err
        scores[name] = pickle.loads((tmp_path / "out/quality-scores.pkl").read_bytes())
    assert len(scores[""]) == 4
    for name, found in scores.items():
        np.testing.assert_allclose(list(found.values()), list(scores[""].values()), atol=1e-5, err_msg=name)


def test_export_mistakes_are_one_sentence(tmp_path, capsys, shared):
    shutil.copy(shared / "student.pth", tmp_path / "student.pth")
    (tmp_path / "config.yaml").write_text("a: [")
    given = (f"model.weight={shared / 'student.pth'}", f"model.config={shared / 'model_config.yaml'}")
    cases = {
        (f"model.weight={tmp_path / 'none.pth'}",): "none.pth is no file",
        (f"model.weight={shared / 'student.pth'}",): "no config.yaml lies beside",
        (f"model.weight={tmp_path / 'student.pth'}",): "cannot be read for the model card",
        ("output.formats=[]",): "output.formats",
        ("check.crops=nowhere", *given): "nowhere",
    }
    config = write_export(tmp_path, "x.pth")
    (tmp_path / "export").mkdir()
    for overrides, words in cases.items():
        if "none.pth" in overrides[0]:
            (tmp_path / "config.yaml").rename(tmp_path / "aside.yaml")
        assert run_export(config, *overrides) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
        if "none.pth" in overrides[0]:
            (tmp_path / "aside.yaml").rename(tmp_path / "config.yaml")
    assert not list((tmp_path / "export").iterdir())


def test_shipped_configuration_is_valid():
    cfg = export.load_config(export.ExportConfig, ROOT / "configs/export_config.yaml")
    assert cfg.check == export.CheckConfig() and cfg.output.formats == ["onnx", "safetensors"]
