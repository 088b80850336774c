"""Training as the paper describes it; one test for each defect of the released training code."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

import train_main
from model.compact import CompactNet
from model.registry import NetworkBuilder
from tests.helpers.training import TINY, make_run, same_bytes, tensors, write_setup
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.errors import ConfigError, UserError
from utils.training.run_log import read_metrics


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
