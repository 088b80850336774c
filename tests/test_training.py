"""Training as the paper describes it; one test for each defect of the released training code."""

import json
import math
import re

import numpy as np
import pytest
import torch
import yaml

import train_main
from data.tables.landmarks import read_landmarks, write_landmarks_csv
from jobs.methods import load_training
from model.compact import CompactNet
from model.registry import NetworkBuilder
from tests.helpers import processes
from tests.helpers.faces import spoil_landmarks
from tests.helpers.recognition import write_run
from tests.helpers.training import TINY, run_script, same_bytes, tensors, write_faces, write_setup
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.errors import ConfigError, DataError, UserError
from utils.training.run_log import read_metrics


def make_run(config, *overrides):
    cfg = load_training(config, overrides)
    return train_main.build(cfg, load_config(ModelConfig, cfg.model.config), torch.device("cpu"))


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def storages(module):
    return {tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return (folder, run, teacher state before) of a run of 16 steps that validated four times."""
    folder = tmp_path_factory.mktemp("run")
    run = make_run(write_setup(folder))
    before, student_before = snapshot(run.objective.teacher), snapshot(run.objective.student)
    seen = []
    update = run.ema.update

    def recording_update(source):
        seen.append(snapshot(source))
        update(source)

    run.ema.update = recording_update
    train_main.fit(run)
    return folder, run, before, student_before, seen


def test_teacher_is_never_trained(finished):
    """Point 1: the released code trains its 'frozen' teacher, which is the student."""
    _, run, before, _, _ = finished
    assert same_bytes(before, run.objective.teacher.state_dict())
    assert not storages(run.objective.teacher) & storages(run.objective.student)
    assert not any(p.requires_grad or p.grad is not None for p in run.objective.teacher.parameters())
    run.objective.teacher.train()
    assert not any(module.training for module in run.objective.teacher.modules())


def test_configured_weights_are_read(finished, tmp_path):
    """Point 2: teacher and student start from the weights file; a missing one is an error."""
    folder, _, before, student_before, _ = finished
    saved = tensors(folder / "backbone.pth")
    assert same_bytes(saved, {k.removeprefix("backbone."): v for k, v in before.items()})
    backbone = {k[18:]: v for k, v in student_before.items() if k.startswith("feature_extractor.")}
    assert same_bytes(saved, backbone)
    config = write_setup(tmp_path)
    model = yaml.safe_load((tmp_path / "model_config.yaml").read_text())
    model["features"]["weights"] = None
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(model))
    with pytest.raises(ConfigError, match=r"allow_random_init"):
        make_run(config)
    assert make_run(config, "base.allow_random_init=1").step == 0
    model["features"]["weights"] = str(tmp_path / "none.pth")
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(model))
    with pytest.raises(UserError, match=r"none\.pth"):
        make_run(config)


def test_only_the_optimiser_s_parameters_have_gradients_and_move(finished):
    """Point 3: 363 tensors of the released code gather gradients that shorten every step."""
    folder, run, _, before, _ = finished
    trained = {id(p) for p in run.part.trained}
    after = run.objective.student.state_dict()
    saved = tensors(folder / "run/aikd-last.pth")
    for name, parameter in run.objective.student.named_parameters():
        moved = not torch.equal(before[name], after[name])
        assert moved == (id(parameter) in trained) or name.endswith(("fc.bias", "layers.2.bn2.bias")), name
        assert (parameter.grad is not None) == (id(parameter) in trained), name
        if id(parameter) not in trained:
            assert torch.equal(before[name], saved[name]), name
    assert len(trained) == 4 + 9 - 1  # the head, the last nine, without features.weight


def test_untrained_batchnorms_keep_their_statistics(finished):
    """Point 12: BatchNorms outside the trained slice ran in train mode."""
    folder, run, _, before, _ = finished
    saved = tensors(folder / "run/aikd-last.pth")
    moved = {name for name in saved if "running_" in name and not torch.equal(saved[name], before[name])}
    modes = {name for name, module in run.objective.student.named_modules() if module.training and "bn" in name}
    assert {name.rpartition(".")[0] for name in moved} == {
        "feature_extractor.layers.2.bn2",
        "feature_extractor.layers.2.downsample.2",
        "feature_extractor.features",
    }
    assert "feature_extractor.bn1" not in modes


def test_average_is_an_average_and_what_is_validated_is_saved(finished):
    """Point 5: hand-computed from the student at each validation; the saved file gives the logged metrics."""
    folder, run, _, _, seen = finished
    assert len(seen) == 3  # 16 steps, every 4 from step 5 on: 8, 12, 16
    saved = tensors(folder / "run/aikd-last.pth")
    for name in ("quality_head.l1.weight", "feature_extractor.fc.weight", "feature_extractor.features.running_mean"):
        average = seen[0][name].double()
        for state in seen[1:]:
            average = 0.1 * average + 0.9 * state[name].double()
        torch.testing.assert_close(saved[name].double(), average, rtol=1e-6, atol=1e-7)
    model_cfg = load_config(ModelConfig, folder / "model_config.yaml")
    loaded = NetworkBuilder().trained_student(model_cfg, str(folder / "run/aikd-last.pth"))
    logged = [row for row in read_metrics(folder / "run/metrics.jsonl") if "val/selection" in row][-1]
    assert measured_by_hand(run, loaded) == {k: v for k, v in logged.items() if k != "step"}
    assert measured_by_hand(run, run.objective.student.eval()) != measured_by_hand(run, loaded)


def measured_by_hand(run, network):
    with torch.no_grad():
        batches = [run.objective.measure(network, batch) for batch in run.data.validation_batches()]
    metrics = run.objective.summarise({name: torch.cat([values[name] for values in batches]) for name in batches[0]})
    return {f"val/{name}": value for name, value in metrics.items()}


def test_both_kinds_of_crops_are_validated_and_select(finished, tmp_path):
    """Point 6: validation was on aligned crops only."""
    folder, *_ = finished
    rows = [row for row in read_metrics(folder / "run/metrics.jsonl") if "val/selection" in row]
    for row in rows:
        assert row["val/quality_aligned"] != row["val/quality_misaligned"]
        assert row["val/selection"] == (row["val/quality_aligned"] + row["val/quality_misaligned"]) / 2
    best = min(rows, key=lambda row: row["val/selection"])
    assert json.loads((folder / "run/aikd-best.json").read_text())["step"] == best["step"]
    for kind in ("aligned", "misaligned"):
        run = make_run(write_setup(tmp_path), f"base.select_on={kind}")
        run.ema.update(run.objective.student)
        metrics = train_main.validate(run)
        assert metrics["selection"] == metrics[f"quality_{kind}"]


def test_metrics_name_every_term(finished):
    folder, *_ = finished
    rows = [row for row in read_metrics(folder / "run/metrics.jsonl") if "lr" in row]
    assert [row["step"] for row in rows] == list(range(1, 17))
    warmup = round(0.5 * 0.3 * 16)
    assert rows[0]["lr"] == pytest.approx(0.05 * math.sin(math.pi / 2 / warmup)) and rows[0]["lr"] > 0  # point 13
    assert rows[-1]["lr"] == 0.05
    assert set(rows[0]) == {"step", "consistency", "quality", "lr", "grad_norm", "img_per_s", "data_share"}
    assert (folder / "run/curves.png").stat().st_size > 10_000


def test_gradient_norm_counts_trained_parameters_only(tmp_path):
    """Point 3: the norm in the log is that of the optimiser's parameters, computed here by hand."""
    run = make_run(write_setup(tmp_path), "base.max_steps=1")
    batch = next(run.data.batches_from(0))
    train_main.optim.set_train_mode(run.objective.student, run.cfg.optimizer, run.part.slice_ids)
    state = snapshot(run.objective.student)
    sum(run.objective(batch)).backward()
    by_hand = math.sqrt(sum(p.grad.double().pow(2).sum().item() for p in run.part.trained))
    run.objective.student.load_state_dict(state)
    train_main.fit(run)
    assert read_metrics(tmp_path / "run/metrics.jsonl")[0]["grad_norm"] == pytest.approx(by_hand, rel=1e-5)


def test_first_step_is_plain_sgd_with_clipping(tmp_path):
    """A step of rate lr * factor along the clipped gradient: the update is not 17 times too short."""
    run = make_run(write_setup(tmp_path), "base.max_steps=1", "optimizer.max_grad_norm=0.1")
    batch = next(run.data.batches_from(0))
    train_main.optim.set_train_mode(run.objective.student, run.cfg.optimizer, run.part.slice_ids)
    weight = run.objective.student.feature_extractor.fc.weight
    before = weight.detach().clone()
    state = snapshot(run.objective.student)
    sum(run.objective(batch)).backward()
    norm = math.sqrt(sum(p.grad.double().pow(2).sum().item() for p in run.part.trained))
    assert norm > 0.1
    wanted = before - 0.05 * run.plan.lr_factor(0, run.cfg.scheduler) * weight.grad * 0.1 / norm
    run.objective.student.load_state_dict(state)
    train_main.fit(run)
    torch.testing.assert_close(weight.detach(), wanted, rtol=1e-4, atol=1e-7)


def test_loss_terms_are_those_of_the_paper(tmp_path):
    run = make_run(write_setup(tmp_path))
    batch = next(run.data.batches_from(0))
    terms = run.objective.eval()(batch)
    reference = CompactNet(**TINY).eval()
    reference.load_state_dict(tensors(tmp_path / "backbone.pth"))
    pixels = [(x.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.5 for x in (batch.aligned, batch.misaligned)]
    e, e_hat = (reference.double()(x).detach().numpy() for x in pixels)
    cosine = (e * e_hat).sum(1) / np.linalg.norm(e, axis=1) / np.linalg.norm(e_hat, axis=1)
    assert terms.consistency.item() == pytest.approx(np.mean(1 - cosine), abs=1e-5)
    quality = run.objective.student.double()(pixels[1])[1].detach().numpy()
    d = np.abs(quality - batch.label.numpy())
    assert terms.quality.item() == pytest.approx(np.where(d < 0.5, d**2, d - 0.25).mean(), abs=1e-5)


@pytest.mark.parametrize("count", [9, 10, 13])
def test_small_and_odd_sets_train_and_are_saved(tmp_path, count):
    """Points 9 and 10: epochs under 10 batches, a last batch of one, no validation after `pretrain`."""
    run = make_run(write_setup(tmp_path, count), "base.epochs=1", "base.validate_every=0.1", "base.pretrain=1")
    train_main.fit(run)
    assert {"aikd-best.pth", "aikd-last.pth", "aikd-best.json", "config.yaml"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    assert run.step == run.plan.planned == len(range(0, count - count // 5, 4)) - ((count - count // 5) % 4 == 1)


@pytest.mark.parametrize("pretrain", [0.3, 1])
def test_the_end_is_validated_and_saved_whatever_the_schedule(tmp_path, pretrain):
    """Point 9: nothing was saved at the end, or nothing at all."""
    config = write_setup(tmp_path)
    run = make_run(config, "base.epochs=1", "base.validate_every=0.4", f"base.pretrain={pretrain}")
    train_main.fit(run)
    steps = [row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "val/selection" in row]
    assert steps == ([3, 6, 8] if pretrain < 1 else [8])
    assert json.loads((tmp_path / "run/aikd-last.json").read_text())["step"] == 8


def test_validation_can_be_left_out(tmp_path):
    run = make_run(write_setup(tmp_path), "dataset.val_percent=0")
    train_main.fit(run)
    assert same_bytes(tensors(tmp_path / "run/aikd-best.pth"), tensors(tmp_path / "run/aikd-last.pth"))


def test_average_at_every_step(tmp_path):
    run = make_run(write_setup(tmp_path), "ema.every=step", "ema.decay=0.5", "base.max_steps=3")
    seen = []
    update = run.ema.update
    run.ema.update = lambda source: (seen.append(snapshot(source)), update(source))
    train_main.fit(run)
    name = "quality_head.l1.weight"
    wanted = 0.25 * seen[0][name] + 0.25 * seen[1][name] + 0.5 * seen[2][name]
    torch.testing.assert_close(tensors(tmp_path / "run/aikd-last.pth")[name], wanted)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    """Point 3: one inf stopped training silently."""
    run = make_run(write_setup(tmp_path), "optimizer.group_2.lr=1e30", "optimizer.max_grad_norm=null")
    with pytest.raises(UserError, match=r"step \d+: the (consistency|quality) loss is (nan|inf); lower the learning"):
        train_main.fit(run)
    assert not (tmp_path / "run/aikd-last.pth").exists()


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


def test_quality_labels_are_scaled(tmp_path):
    """Point 11: labels were used raw."""
    config = write_setup(tmp_path)
    text = (tmp_path / "labels.csv").read_text().splitlines()
    values = [float(line.rpartition(",")[2]) for line in text]
    raw = [f"{line.rpartition(',')[0]},{2 + 0.1 * value}" for line, value in zip(text, values)]
    (tmp_path / "labels.csv").write_text("\n".join(raw) + "\n")
    batch = next(make_run(config).data.batches_from(0))
    wanted = (np.array(values) - min(values)) / (max(values) - min(values))
    names = sorted(line.rpartition(",")[0] for line in text)
    by_name = {line.rpartition(",")[0]: value for line, value in zip(text, wanted)}
    got = batch.label.numpy()
    np.testing.assert_allclose(got, [by_name[names[row]] for row in batch.row], atol=1e-5)


def test_no_matching_label_is_one_sentence(tmp_path):
    """Point 8: nothing matched, ZeroDivisionError."""
    config = write_setup(tmp_path)
    (tmp_path / "labels.csv").write_text("somebody/else.jpg,0.5\n")
    with pytest.raises(DataError, match=r"labels\.csv"):
        make_run(config)


def test_official_yaml_trains_and_scores(tmp_path):
    """A YAML with exactly the official keys and names, paths and device apart."""
    write_setup(tmp_path)
    model = {
        "features": {
            "module": "model.iresnet.iresnet18",
            "weights": str(tmp_path / "r18.pth"),
            "params": {},
        },
        "head": {"module": "model.mlp.MLP", "params": {"in_dim": 512}},
        "wrapper": {"module": "model.ai_kd.WrapperModel"},
        "transform": {
            "trans_1": {"module": "torchvision.transforms.Resize", "params": {"size": [112, 112]}},
            "trans_2": {"module": "torchvision.transforms.ToTensor"},
            "trans_3": {
                "module": "torchvision.transforms.Normalize",
                "params": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
            },
        },
    }
    from model.iresnet import iresnet18

    torch.save(iresnet18().state_dict(), tmp_path / "r18.pth")
    train = {
        "base": {"epochs": 1, "verbose": 1, "save_path": str(tmp_path / "run"), "seed": 42069, "device": "cpu",
                 "amp": 1, "validate_every": 0.1, "pretrain": 0.3, "warmup": 0.5},
        "dataset": {"image_location": str(tmp_path / "images"), "quality_location": str(tmp_path / "labels.csv"),
                    "landms_location": str(tmp_path / "landmarks.csv"), "misalign": 1, "val_percent": 0.01},
        "dataloader": {
            "train": {"params": {"batch_size": 16, "shuffle": 1, "pin_memory": 1, "num_workers": 2}},
            "val": {"params": {"batch_size": 16, "shuffle": 0, "pin_memory": 1, "num_workers": 1}},
        },
        "model": {"config": str(tmp_path / "model.yaml")},
        "ema": {"module": "torch.optim.swa_utils.SWALR",
                "params": {"anneal_strategy": "linear", "anneal_epochs": 5, "swa_lr": 0.05}, "ema_alpha": 0.1},
        "scheduler": {"module": "torch.optim.lr_scheduler.LambdaLR"},
        "grad_scaler": {"module": "torch.cuda.amp.GradScaler", "params": {"init_scale": 128}},
        "optimizer": {
            "module": "torch.optim.SGD",
            "group_1": {"params": "quality_head", "lr": 0.05, "weight_decay": 0.0005, "momentum": 0.9},
            "group_2": {"params": "feature_extractor", "lr": 0.05, "limit": 20, "momentum": 0.1},
        },
        "loss": {"quality": {"module": "torch.nn.SmoothL1Loss", "params": {"beta": 0.5}},
                 "consistency": {"module": "torch.nn.CosineEmbeddingLoss"}},
        "wandb": {"use": 0, "project": "ai-kd"},
    }  # fmt: skip
    inference = {
        "base": {"verbose": 1, "save_path": str(tmp_path / "scores"), "seed": 42069, "device": "cpu"},
        "dataset": {"loc": str(tmp_path / "images")},
        "dataloader": {"params": {"batch_size": 16}},
        "model": {"config": str(tmp_path / "model.yaml"), "weight": str(tmp_path / "run/aikd-best.pth")},
    }
    for name, values in (("model", model), ("train", train), ("inference", inference)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    done = run_script("train_main.py", "-c", tmp_path / "train.yaml")
    assert done.returncode == 0, done.stderr
    for line in ("base.amp: mixed precision acts on CUDA only", "ema.params: without effect", "grad_scaler.params"):
        assert line in done.stderr
    code, said = processes.finished("inference.py", "-c", tmp_path / "inference.yaml", "dataset.accept_unusual=1")
    assert code == 0, said
    assert len((tmp_path / "scores/quality-scores.csv").read_text().splitlines()) == 41


def test_paths_begin_at_the_home_folder(tmp_path, monkeypatch):
    write_setup(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "images").rename(home / "images")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    arguments = ["base.save_path=~/runs/x", "dataset.image_location=~/images", "base.max_steps=1"]
    assert train_main.main(["-c", str(tmp_path / "train_config.yaml"), *arguments]) == 0
    assert (home / "runs/x/aikd-last.pth").is_file() and not (tmp_path / "~").exists()


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
