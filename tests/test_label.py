"""label.py: labels of every source, ready for training, the same after a kill, each failure named."""

import csv
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import label
import train_main
from data.alignment import align
from data.images.decode import decode_rgb
from data.tables.landmarks import read_landmarks
from data.tables.scores import read_scores
from jobs import labelling
from model.ai_kd import WrapperModel
from model.compact import CompactNet
from model.label_sources import label_schema
from model.mlp import MLP, LinearHead
from tests.helpers.faces import spoil_landmarks
from tests.helpers.processes import APPEND, finished_in_two, killed, last_killed
from tests.helpers.tiny_networks import randomised
from tests.helpers.training import ROOT, TINY, write_faces, write_setup
from utils import cli
from utils.config import load_config
from utils.contract import InputContract, save_contract
from utils.errors import DataError

COUNT = 13
FAST = ("source.ser_fiq.passes=5", "source.faceqan.copies=2", "source.faceqan.iterations=2", "source.sdd_fiqa.rounds=3")


@pytest.fixture
def setup(tmp_path) -> Path:
    """Write 13 faces of 4 identities, network weights and both YAML files; return the folder."""
    write_faces(tmp_path, COUNT)
    torch.save(network().state_dict(), tmp_path / "backbone.pth")
    features = {"module": "model.compact.CompactNet", "weights": str(tmp_path / "backbone.pth"), "params": TINY}
    model = {"features": features, "head": {"module": "model.mlp.MLP", "params": {"hidden_dim": 16}}}
    config = {
        "base": {"save_path": str(tmp_path / "out"), "device": "cpu", "verbose": 0, "seed": 3},
        "dataset": {
            "loc": str(tmp_path / "images"),
            "input": "landmarks",
            "landmarks": str(tmp_path / "landmarks.csv"),
        },
        "dataloader": {"params": {"batch_size": 4}},
        "model": {"config": "model_config.yaml"},
        "source": {"ser_fiq": {"dropout": {"rate": 0.3}}},
    }
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(model))
    (tmp_path / "label_config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def network() -> CompactNet:
    return randomised(CompactNet(**TINY), seed=1)


def run(folder: Path, source: str, *overrides: str, allow: str | None = None) -> int:
    argv = ["-c", str(folder / "label_config.yaml"), f"source.name={source}", *FAST, *overrides]
    return label.main([*argv, *(("--allow-module", allow) if allow else ())])


def labels_of(folder: Path, run_name: str = "out") -> dict[str, float]:
    with open(folder / run_name / "labels.pkl", "rb") as stream:
        return pickle.load(stream)


def crops(folder: Path) -> tuple[list[str], torch.Tensor]:
    """The aligned crops in the order of their names, cut here."""
    table = read_landmarks(folder / "landmarks.csv")
    points = {table.names[i]: table.points[i] for i in range(len(table.names))}
    names = sorted(points)
    images = [align(decode_rgb((folder / "images" / name).read_bytes()), points[name]) for name in names]
    return names, torch.from_numpy(np.stack(images))


def failures(folder: Path) -> dict[str, str]:
    with open(folder / "out" / "failures.csv", newline="") as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


def write_student(folder: Path, head: torch.nn.Module, prefixes: tuple[str, str]) -> WrapperModel:
    """Save a trained student in one of the published layouts."""
    student = WrapperModel(network(), randomised(head, seed=2)).eval()
    state = {}
    for name, tensor in student.state_dict().items():
        part, _, rest = name.partition(".")
        state[prefixes[part == "quality_head"] + rest] = tensor
    torch.save(state, folder / "student.pth")
    return student


SOURCES = ("ser_fiq", "faceqan", "magnitude", "sdd_fiqa", "grafiqs", "cr_fiqa", "student")


@pytest.mark.parametrize("source", SOURCES)
def test_labels_of_every_source_train_aikd_as_they_are(tmp_path, source):
    config = write_setup(tmp_path, count=COUNT, max_steps=2)
    head = LinearHead(8) if source == "cr_fiqa" else MLP(8, 16)
    write_student(tmp_path, head, ("", "qs.") if source == "cr_fiqa" else ("feature_extractor.", "quality_head."))
    settings = {
        "base": {"save_path": str(tmp_path / "out"), "device": "cpu", "verbose": 0},
        "dataset": {
            "loc": str(tmp_path / "images"),
            "input": "landmarks",
            "landmarks": str(tmp_path / "landmarks.csv"),
        },
        "model": {"config": str(tmp_path / "model_config.yaml")},
        "source": {"ser_fiq": {"dropout": {"rate": 0.3}}},
    }
    if source in ("cr_fiqa", "student"):
        settings["model"]["weight"] = str(tmp_path / "student.pth")
    (tmp_path / "label_config.yaml").write_text(yaml.safe_dump(settings))
    assert run(tmp_path, source) == 0
    labels = labels_of(tmp_path)
    assert len(labels) == COUNT and len(set(labels.values())) > COUNT / 2
    trained = []
    for kind in ("pkl", "csv"):
        overrides = [f"dataset.quality_location={tmp_path / 'out' / f'labels.{kind}'}", "base.validate_every=1"]
        assert train_main.main(["-c", str(config), *overrides]) == 0
        trained.append((tmp_path / "run" / "aikd-last.pth").read_bytes())
    assert trained[0] == trained[1]


def test_both_files_hold_the_same_numbers_under_relative_names(setup):
    assert run(setup, "magnitude") == 0
    names, images = crops(setup)
    x = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        wanted = network()(x).norm(dim=1).numpy()
    labels = labels_of(setup)
    assert list(labels) == names and all(type(value) is float for value in labels.values())
    np.testing.assert_allclose(list(labels.values()), wanted, rtol=1e-5)
    assert any(round(value, 3) != value for value in labels.values())  # all digits of a float32 are kept
    for kind in ("pkl", "csv"):
        table = read_scores(setup / "out" / f"labels.{kind}")
        assert list(table.names) == names
        assert table.values.tolist() == list(labels.values())


@pytest.mark.parametrize(
    ("source", "head", "prefixes"),
    [
        ("cr_fiqa", LinearHead(8), ("", "qs.")),
        ("student", LinearHead(8), ("base.", "linear.")),
        ("student", MLP(8, 16), ("base_model.", "mlp.")),
        ("student", MLP(8, 16), ("feature_extractor.", "quality_head.")),
    ],
)
def test_published_layouts_label(setup, source, head, prefixes):
    student = write_student(setup, head, prefixes)
    model = yaml.safe_load((setup / "model_config.yaml").read_text())
    model["features"]["weights"] = None  # only model.weight is read
    if isinstance(head, LinearHead) and source == "student":
        model["head"] = {"module": "model.mlp.LinearHead"}
    (setup / "model_config.yaml").write_text(yaml.safe_dump(model))
    assert run(setup, source, f"model.weight={setup / 'student.pth'}") == 0
    names, images = crops(setup)
    with torch.no_grad():
        features = student.feature_extractor((images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
        wanted = head(features).flatten().numpy()
    labels = labels_of(setup)
    np.testing.assert_allclose([labels[name] for name in names], wanted, rtol=1e-5, atol=1e-5)


def test_weights_for_another_preprocessing_are_refused(setup, capsys):
    contract = InputContract(channels="BGR")
    save_contract(contract, setup / "backbone.pth")
    argv = ["-c", str(setup / "label_config.yaml"), "source.name=magnitude"]
    assert cli.run(lambda: label.main(argv)) == 2
    assert "trained with channels = BGR" in capsys.readouterr().err


@pytest.mark.parametrize("source", SOURCES)
def test_batch_size_does_not_change_labels(setup, source):
    (setup / "images" / "id_1" / "0001.jpg").write_bytes(b"no image")  # shifts the others within their batch
    head = LinearHead(8) if source == "cr_fiqa" else MLP(8, 16)
    write_student(setup, head, ("", "qs.") if source == "cr_fiqa" else ("feature_extractor.", "quality_head."))
    weight = [f"model.weight={setup / 'student.pth'}"] if source in ("cr_fiqa", "student") else []
    assert run(setup, source, *weight) == 0
    four = labels_of(setup)
    spread = np.ptp(list(four.values()))  # random heads give labels in the hundreds
    for size in (1, 7, 64):
        assert run(setup, source, f"dataloader.params.batch_size={size}", *weight) == 0
        again = labels_of(setup)
        assert list(again) == list(four)
        np.testing.assert_allclose(list(again.values()), list(four.values()), rtol=0, atol=1e-5 * max(1, spread))


def test_failures_are_named_and_strict_exits_with_3(setup):
    (setup / "images" / "id_0" / "0004.jpg").write_bytes(b"")
    assert run(setup, "magnitude") == 0
    assert list(failures(setup)) == ["id_0/0004.jpg"]
    assert len(labels_of(setup)) == COUNT - 1
    counts = json.loads((setup / "out" / "run.json").read_text())["counts"]
    assert (counts["images"], counts["labelled"], counts["failed"]) == (COUNT, COUNT - 1, 1)
    assert run(setup, "magnitude", "base.strict=1") == 3


def test_sdd_fiqa_lists_images_that_are_alone_with_their_identity(setup):
    (setup / "images" / "id_0" / "0004.jpg").unlink()
    for number in (0, 8):
        (setup / "images" / "id_0" / f"{number:04d}.jpg").write_bytes(b"no image")
    assert run(setup, "sdd_fiqa") == 0  # id_0 keeps 0012 alone
    assert failures(setup).pop("id_0/0012.jpg") == "its identity has no other image"
    assert len(failures(setup)) == 3 and len(labels_of(setup)) == COUNT - 4
    assert not (setup / "out" / "partial").exists()


def test_a_sample_is_seeded_and_gets_the_labels_of_the_whole(setup):
    assert run(setup, "ser_fiq") == 0
    whole = labels_of(setup)
    samples = []
    for overrides in (["base.seed=3"], ["base.seed=3"], ["base.seed=4"]):
        assert run(setup, "ser_fiq", "dataset.sample=6", *overrides) == 0
        samples.append(labels_of(setup))
    assert samples[0] == samples[1] and list(samples[0]) != list(samples[2])
    assert [len(sample) for sample in samples] == [6, 6, 6]
    for name, value in samples[0].items():
        assert value == pytest.approx(whole[name], abs=1e-5)


def command(folder: Path, source: str, out: str, *overrides: str) -> list[str]:
    return [
        *("label.py", "-c", str(folder / "label_config.yaml"), f"source.name={source}", *FAST),
        *(f"base.save_path={folder / out}", "dataloader.params.batch_size=1", "source.rows_per_pass=2", *overrides),
    ]


@pytest.mark.parametrize("source", ["faceqan", "sdd_fiqa"])
def test_killed_and_resumed_gives_the_same_files(setup, source):
    write_faces(setup, 60)
    assert label.main(command(setup, source, "whole")[1:]) == 0
    killed(3, APPEND, *command(setup, source, "halves"))
    assert (setup / "halves/partial/0.jsonl").read_bytes().count(b"\n") == 3
    assert not (setup / "halves" / "labels.csv").exists()
    assert label.main(command(setup, source, "halves")[1:]) == 0
    for name in ("labels.csv", "labels.pkl", "failures.csv"):
        assert (setup / "halves" / name).read_bytes() == (setup / "whole" / name).read_bytes()
    session = json.loads((setup / "halves" / "run.json").read_text())["last_session"]
    assert 0 < session["images"] <= 60 - 3


@pytest.mark.slow
def test_two_processes_share_the_work(setup):
    assert label.main(command(setup, "sdd_fiqa", "one")[1:]) == 0
    codes, said = finished_in_two(*command(setup, "sdd_fiqa", "two"))
    assert codes == [0, 0], said
    assert (setup / "two" / "labels.csv").read_bytes() == (setup / "one" / "labels.csv").read_bytes()
    assert json.loads((setup / "two" / "run.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_a_dead_process_leaves_a_run_that_goes_on(setup):
    """SDD-FIQA compares all images in the end: the embeddings of the dead process have to be there too."""
    write_faces(setup, 60)
    assert label.main(command(setup, "sdd_fiqa", "whole")[1:]) == 0
    last_killed(3, APPEND, *command(setup, "sdd_fiqa", "halves"), threads=torch.get_num_threads())
    assert not (setup / "halves/labels.csv").exists()
    assert label.main(command(setup, "sdd_fiqa", "halves")[1:]) == 0
    assert (setup / "halves/labels.csv").read_bytes() == (setup / "whole/labels.csv").read_bytes()
    assert 0 < json.loads((setup / "halves/run.json").read_text())["last_session"]["images"] < 60


def test_another_request_starts_anew(setup):
    assert run(setup, "ser_fiq") == 0
    first = labels_of(setup)
    assert run(setup, "ser_fiq", "base.seed=4") == 0
    assert labels_of(setup) != first
    requests = json.loads((setup / "out" / "run.json").read_text())["request"]
    assert requests["source"]["dropout"] == {"rate": 0.3, "before": None} and requests["source"]["passes"] == 5


@pytest.mark.parametrize(("source", "kind"), [("ser_fiq", "cpu"), ("faceqan", "cpu"), ("sdd_fiqa", None)])
def test_a_run_goes_on_only_on_a_device_that_draws_the_same_numbers(setup, source, kind):
    assert run(setup, source) == 0
    assert json.loads((setup / "out" / "run.json").read_text())["request"]["draws"] == kind


def test_a_network_of_the_users_own_labels(setup):
    features = {"module": "tests.helpers.tiny_networks.tiny_net", "weights": None, "params": {"size_px": 112}}
    model = {"features": features}
    (setup / "model_config.yaml").write_text(yaml.safe_dump(model))
    overrides = ("base.allow_random_init=1", "source.grafiqs.tap=bn1")
    assert run(setup, "grafiqs", *overrides, allow="tests") == 0
    assert len(labels_of(setup)) == COUNT and max(labels_of(setup).values()) < 0


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["source.name=serfiq"], "source.name: input should be 'ser_fiq'"),
        (["source.ser_fiq.pases=3"], "unknown key 'source.ser_fiq.pases'; did you mean 'passes'?"),
        (["source.name=cr_fiqa"], "model.weight is needed by source cr_fiqa"),
        (["source.ser_fiq.dropout.rate=null"], "CompactNet has no active dropout layer"),
        (["source.ser_fiq.dropout.rate=1.0"], "source.ser_fiq.dropout.rate: input should be less than 1"),
        (["source.ser_fiq.dropout.before=neck"], "CompactNet has no module 'neck'"),
        (["source.name=grafiqs", "source.grafiqs.tap=fc"], "no BatchNorm2d of CompactNet follows fc"),
        (["dataset.landmarks=null"], "dataset.landmarks is needed with dataset.input: landmarks"),
        (["model.weight=nowhere.pth"], "nowhere.pth: no such weights file"),
        (["dataset.loc=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence_with_exit_code_2(setup, capsys, overrides, sentence):
    argv = ["-c", str(setup / "label_config.yaml"), *overrides]
    assert cli.run(lambda: label.main(argv)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and "Traceback" not in error


def test_the_same_label_for_every_image_is_an_error(setup, capsys):
    state = torch.load(setup / "backbone.pth", weights_only=True)
    torch.save({k: v if "running_var" in k else torch.zeros_like(v) for k, v in state.items()}, setup / "dead.pth")
    argv = ["-c", str(setup / "label_config.yaml"), "source.name=ser_fiq", f"model.weight={setup}/dead.pth", *FAST]
    assert cli.run(lambda: label.main(argv)) == 2
    error = capsys.readouterr().err
    assert "source ser_fiq gives all 13 images the label " in error and "so no label is written" in error
    assert not (setup / "out/labels.csv").exists()


def test_labels_differ_by_more_than_rounding():
    where = "faces", "magnitude"
    with pytest.raises(DataError, match=r"faces: source magnitude gives all 3 images the label 1"):
        labelling.require_spread(np.array([1, 1 + 1e-7, 1 - 1e-7]), *where)
    labelling.require_spread(np.array([1, 1 + 1e-5]), *where)
    labelling.require_spread(np.array([5.0]), *where)


def test_photographs_labelled_whole_are_counted(setup, caplog):
    for path in sorted((setup / "images").rglob("*.jpg"))[:2]:
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (150, 150)))
    whole = ("dataset.input=aligned", "dataset.landmarks=null", "dataset.accept_unusual=1", "base.verbose=1")
    with caplog.at_level("INFO"):
        assert run(setup, "magnitude", *whole) == 0
    assert "11 images were not square and have been squeezed" in caplog.text
    assert caplog.text.count("2 images were not 112x112 and were resized; if they are photographs") == 1
    counts = json.loads((setup / "out/run.json").read_text())["counts"]
    assert (counts["not_square"], counts["resized"]) == (11, 2)


def test_landmarks_in_a_wrong_order_are_refused_before_anything_is_written(setup, capsys):
    spoil_landmarks(setup / "landmarks.csv", "left and right are exchanged")
    assert cli.run(lambda: label.main(["-c", str(setup / "label_config.yaml")])) == 2
    error = capsys.readouterr().err
    assert f"{setup}/landmarks.csv: 100% of the landmarks" in error and "left and right are exchanged" in error
    assert error.count("\n") == 1 and not (setup / "out").exists()


def test_a_folder_without_one_good_image_is_an_error_that_keeps_the_reasons(setup, capsys):
    for path in (setup / "images").rglob("*.jpg"):
        path.write_bytes(b"no image")
    argv = ["-c", str(setup / "label_config.yaml"), "source.name=magnitude"]
    assert cli.run(lambda: label.main(argv)) == 2
    assert "none of 13 images could be labelled" in capsys.readouterr().err
    assert len(failures(setup)) == COUNT


def test_the_imposed_dropout_is_said_once(setup, caplog):
    with caplog.at_level("INFO"):
        assert run(setup, "ser_fiq", "base.verbose=1") == 0
    said = [record for record in caplog.records if "dropout 0.3 is imposed before fc of CompactNet" in record.message]
    assert len(said) == 1


def test_the_shipped_configuration_is_valid():
    schema = label_schema()
    cfg = load_config(schema, ROOT / "configs" / "label_config.yaml")
    least = {"base": {"save_path": "x"}, "dataset": {"loc": "x"}, "model": {"config": "x"}}
    assert cfg.source == schema.model_validate(least).source


class OneNumber(torch.nn.Module):
    """A user's method: the mean of the first channel."""

    def forward(self, x):
        return x[:, 0].mean((1, 2))


@pytest.mark.parametrize("higher", [1, 0])
def test_any_network_whose_output_is_the_quality_labels(setup, higher):
    model = {"features": {"module": "tests.test_label.OneNumber", "weights": None}, "channels": "BGR"}
    (setup / "model_config.yaml").write_text(yaml.safe_dump(model))
    assert run(setup, "module", f"source.module.higher_is_better={higher}", allow="tests") == 0
    names, images = crops(setup)
    wanted = ((images.double() / 255 - 0.5) / 0.5)[..., 2].mean((1, 2)).numpy() * (1 if higher else -1)
    labels = labels_of(setup)
    np.testing.assert_allclose([labels[name] for name in names], wanted, atol=1e-5)
