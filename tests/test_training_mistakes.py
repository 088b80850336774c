"""train_main.py on what cannot be right: one sentence before anything is written, or a line where it goes on."""

import re

import pytest

import train_main
from data.tables.landmarks import read_landmarks, write_landmarks_csv
from tests.helpers.faces import spoil_landmarks
from tests.helpers.recognition import write_run
from tests.helpers.training import make_run, write_faces, write_setup
from utils.contract import InputContract, save_contract
from utils.errors import ConfigError, ContractError, DataError, UserError
from utils.progress import progress


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    """Point 3: one inf stopped training silently. An open bar would share its line with the error's sentence."""
    bars = []
    monkeypatch.setattr(
        train_main, "progress", lambda **given: bars.append(progress(**given | {"disable": False})) or bars[0]
    )
    run = make_run(write_setup(tmp_path), "optimizer.group_2.lr=1e30", "optimizer.max_grad_norm=null")
    with pytest.raises(UserError, match=r"step \d+: the (consistency|quality) loss is (nan|inf); lower the learning"):
        train_main.fit(run)
    assert [bar.disable for bar in bars] == [True], "not closed"
    assert not (tmp_path / "run/aikd-last.pth").exists()


def test_weights_that_were_trained_on_other_pixels_are_refused(tmp_path):
    config = write_setup(tmp_path)
    save_contract(InputContract(channels="BGR"), tmp_path / "backbone.pth")
    with pytest.raises(ContractError, match=r"backbone\.json: the weights were trained with channels = BGR"):
        make_run(config)


def test_a_run_that_has_diverged_is_no_success_and_names_a_resume_point_only_if_there_is_one(tmp_path):
    run = make_run(write_setup(tmp_path), "base.max_steps=1")
    train_main.require_sane(run, {"quality loss": 1e6})
    for value in (1e23, -1e7, float("inf")):
        with pytest.raises(UserError, match=r"the quality loss is .*; lower the learning rate and start anew$"):
            train_main.require_sane(run, {"quality loss": value})
    train_main.fit(run)
    with pytest.raises(UserError, match=r"lower the learning rate and go on from .*/run/resume\.pt or start anew"):
        train_main.require_sane(run, {"quality loss": 1e23})


def test_one_image_per_step_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"^dataloader\.train\.params\.batch_size: 1 images per step for 1 process; "):
        make_run(write_setup(tmp_path), "dataloader.train.params.batch_size=1")


def test_no_matching_label_is_one_sentence(tmp_path):
    """Point 8: nothing matched, ZeroDivisionError."""
    config = write_setup(tmp_path)
    (tmp_path / "labels.csv").write_text("somebody/else.jpg,0.5\n")
    with pytest.raises(DataError, match=r"labels\.csv"):
        make_run(config)


def test_the_order_of_validation_cannot_be_chosen(tmp_path):
    run = make_run(write_setup(tmp_path, count=20), "dataloader.val.params.shuffle=1", "grad_scaler.params={}")
    said = ["dataloader.val.params.shuffle: without effect; every validation has the same order"]
    assert train_main.ignored(run.cfg, run.precision) == said


@pytest.mark.parametrize(("every", "unused"), [("step", "ema_alpha"), ("validation", "decay")])
def test_the_average_follows_one_of_two_rates(tmp_path, every, unused):
    config = write_setup(tmp_path)
    run = make_run(config, f"ema={{every: {every}, ema_alpha: 0.5, decay: 0.5}}", "grad_scaler.params={}")
    assert train_main.ignored(run.cfg, run.precision) == [f"ema.{unused}: without effect with ema.every: {every}"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("base.epoks=2", "did you mean 'epochs'"),
        ("base.device=cuda:99", "cuda:99 is not on this machine"),
        ("base.device=gpu", "'gpu' is no device"),
        ("model.config=nowhere.yaml", "nowhere.yaml: no such configuration file"),
        ("dataset.image_location=nowhere", "nowhere"),
        ("dataset.landms_location=nowhere.csv", "nowhere.csv"),
        ("loss.weights=[1]", "loss.weights"),
        ("loss.consistency.module=torch.nn.MSELoss", "CosineEmbeddingLoss"),
        ("loss.quality.module=os.system", "no loss of torch.nn"),
        ("optimizer.module=os.system", "no optimiser of torch.optim"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(tmp_path, capsys, override, sentence):
    config = write_setup(tmp_path)
    code = train_main.cli.run(lambda: train_main.main(["-c", str(config), override]))
    error = capsys.readouterr().err
    assert code == 2 and sentence in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["aikd", "cosface"])
def test_landmarks_in_a_wrong_order_are_refused_before_anything_is_written(tmp_path, capsys, method):
    config = write_setup(tmp_path) if method == "aikd" else write_run(tmp_path, method)
    if method == "cosface":
        write_faces(tmp_path, 20)
    spoil_landmarks(tmp_path / "landmarks.csv", "x and y are exchanged")
    where = [f"dataset.image_location={tmp_path}/images", f"dataset.landms_location={tmp_path}/landmarks.csv"]
    assert train_main.cli.run(lambda: train_main.main(["-c", str(config), *where])) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/landmarks.csv: 100% of the landmarks") and error.count("\n") == 1
    assert "x and y are exchanged" in error and not (tmp_path / "run").exists()


def test_misaligning_aligned_copies_is_said_with_what_they_show_outside(tmp_path):
    config = write_setup(tmp_path, count=20)
    copies = ("dataset.landms_location=template", "dataset.perturbation.radius_px=6", "dataset.accept_unusual=1")

    def said(*overrides):
        return [line for line in make_run(config, *overrides).data.report if "copies" in line or "copy" in line]

    coverage, line = said(*copies)
    assert "the images are aligned copies" in coverage
    pattern = r"of a 112x112 copy (.+) % of the pixels lie outside their image \(up to (.+) %\)"
    found = re.search(pattern, line)
    assert float(found[1]) == pytest.approx(8.6, abs=0.3) and 25 < float(found[2]) < 45
    assert "black, which a student can read as misaligned; dataset.perturbation.border" in line
    assert "filled (border: reflect)" in said(*copies, "dataset.perturbation.border=reflect")[1]
    assert said(*copies, "dataset.misalign=0") == said(*copies, "dataset.perturbation.radius_px=0") == [coverage]
    assert said() == []


def test_many_landmarks_unlike_faces_are_one_line_of_the_report(tmp_path):
    config = write_setup(tmp_path, count=20)
    table = read_landmarks(tmp_path / "landmarks.csv")
    table.points[:4] = table.points[:4, :, ::-1].copy()
    write_landmarks_csv(tmp_path / "landmarks.csv", table.names, table.points)
    report = make_run(config).data.report
    assert [line for line in report if "unlike a face" in line] == [
        f"{tmp_path}/landmarks.csv: 20% of the landmarks are unlike a face in template order, whatever its pose"
    ]
