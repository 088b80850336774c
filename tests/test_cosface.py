"""A teacher trained with a margin head: data, loss, validation on pairs, what is saved."""

import json

import numpy as np
import pytest
import torch
import yaml

import train_main
from data.recognition import recognition_data
from data.samples.sampler import Shard
from evaluation.measure.verification import read_verification
from jobs.methods import load_training, recognition_with_pairs
from model.registry import NetworkBuilder
from tests.helpers.recognition import TINY, write_face_records, write_identities, write_run
from tests.helpers.training import same_bytes, tensors
from utils.config import load_config
from utils.config.sections import ModelConfig, NetworkConfig
from utils.errors import ConfigError, DataError
from utils.training.run_log import read_metrics


def make_run(config, *overrides):
    cfg = load_training(config, overrides)
    return train_main.build(cfg, load_config(ModelConfig, cfg.model.config), torch.device("cpu"))


def make_data(config, *overrides):
    cfg = load_training(config, overrides)
    return recognition_with_pairs(cfg, Shard())


def write_pairs(path, identities, images=4):
    """Write mated pairs (0, 1), (2, 3) of each identity and as many between neighbours."""
    lines = []
    for place, identity in enumerate(identities):
        other = identities[(place + 1) % len(identities)]
        for image in range(0, images, 2):
            lines.append(f"id{identity:02d}/{image}.jpg id{identity:02d}/{image + 1}.jpg 1")
            lines.append(f"id{identity:02d}/{image}.jpg id{other:02d}/{image}.jpg 0")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cosface")
    write_identities(folder / "faces", identities=6)
    pairs = write_pairs(folder / "pairs.txt", [1, 4])
    run = make_run(write_run(folder, "cosface", val_pairs=str(pairs)))
    train_main.fit(run)
    return folder, run


def test_identities_of_the_pairs_are_not_trained_on(finished):
    _, run = finished
    assert run.data.num_classes == 4 and run.objective.margin.weight.shape == (4, 8)
    seen = {}
    for batch in run.data.batches_from(0):
        for row, identity in zip(batch.row.tolist(), batch.identity.tolist(), strict=True):
            seen.setdefault(run.data.train.describe(row).split("/")[-2], set()).add(identity)
    assert seen == {"id00": {0}, "id02": {1}, "id03": {2}, "id05": {3}}


def test_validation_is_the_accuracy_on_the_pairs(finished):
    folder, run = finished
    logged = [row for row in read_metrics(folder / "run/metrics.jsonl") if "val/accuracy" in row]
    assert len(logged) == 3 and all(row["val/pairs"] == 8 for row in logged)
    path = str(folder / "run/cosface-last.pth")
    features = NetworkConfig(module="model.compact.CompactNet", params=TINY, weights=path)
    network = NetworkBuilder().pretrained(features).eval()
    batches = list(run.data.validation_batches())
    with torch.no_grad():
        e = torch.cat([network((b.images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5) for b in batches]).numpy()
    names = [run.data.validation.describe(row).split("/faces/")[1] for b in batches for row in b.row.tolist()]
    place = {name: row for row, name in enumerate(names)}
    rows = [line.split() for line in (folder / "pairs.txt").read_text().splitlines()]
    first, second = ([place[row[i]] for row in rows] for i in (0, 1))
    cosine = (e[first] * e[second]).sum(1) / np.linalg.norm(e[first], axis=1) / np.linalg.norm(e[second], axis=1)
    mated = np.array([row[2] == "1" for row in rows])
    best = max(np.mean((cosine >= t) == mated) for t in [*cosine, 2.0])
    assert logged[-1]["val/accuracy"] == pytest.approx(best)
    assert logged[-1]["val/selection"] == pytest.approx(1 - best)


def test_what_is_saved_is_a_plain_backbone_that_starts_a_student(finished):
    folder, run = finished
    saved = tensors(folder / "run/cosface-last.pth")
    assert same_bytes(saved, run.objective.student.state_dict())  # ema_alpha 0: the weights themselves
    assert next(iter(saved)) == "conv1.weight" and not any("margin" in key for key in saved)
    facts = json.loads((folder / "run/cosface-last.json").read_text())
    assert facts["method"] == "cosface" and facts["identities"] == 4 and facts["contract"]["size_px"] == 112


def test_loss_is_cross_entropy_of_cosine_minus_margin(finished):
    _, run = finished
    batch = next(run.data.batches_from(0))
    network = run.objective.student.eval()
    with torch.no_grad():
        e = network((batch.images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).double().numpy()
        loss = run.objective(batch).recognition.item()
    w = run.objective.margin.weight.detach().double().numpy()
    cosine = e @ w.T / np.linalg.norm(e, axis=1)[:, None] / np.linalg.norm(w, axis=1)
    label = batch.identity.numpy()
    cosine[np.arange(len(label)), label] -= 0.4
    logits = 16 * cosine
    wanted = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label]
    assert loss == pytest.approx(wanted.mean(), rel=1e-4)


def test_rate_drops_and_every_group_moves(finished):
    folder, run = finished
    rows = [row for row in read_metrics(folder / "run/metrics.jsonl") if "lr" in row]
    assert [row["lr"] for row in rows] == pytest.approx([0.02] * 3 + [0.002] * 3 + [0.0002] * 3)
    fresh = make_run(folder / "train.yaml", "base.resume=auto")
    assert not torch.equal(fresh.objective.margin.weight, run.objective.margin.weight)
    assert not torch.equal(fresh.objective.student.conv1.weight, run.objective.student.conv1.weight)


def test_held_out_images_without_pairs(tmp_path):
    write_identities(tmp_path / "faces", identities=4, images=5)
    run = make_run(write_run(tmp_path, "cosface"))
    train = {row for batch in run.data.batches_from(0) for row in batch.row.tolist()}
    held_out = [batch.row.tolist() for batch in run.data.validation_batches()]
    assert held_out == [[0, 5, 10, 15]]  # every fifth of the order (identity, row)
    assert train == set(range(20)) - {0, 5, 10, 15}
    run.ema.update(run.objective.student)
    metrics = train_main.validate(run)
    with torch.no_grad():
        batch = next(run.data.validation_batches())
        run.objective.student.eval()
        wanted = run.objective(batch).recognition.item()
    assert metrics["recognition"] == pytest.approx(wanted, rel=1e-5) and metrics["selection"] == metrics["recognition"]


def test_only_training_crops_are_mirrored(tmp_path):
    write_identities(tmp_path / "faces", identities=2, images=16)
    config = write_run(tmp_path, "cosface")
    plain, flipped = make_data(config, "dataset.flip=0"), make_data(config)
    crops = [{}, {}]
    for place, data in enumerate((plain, flipped)):
        for batch in data.train.starting_at((0, 0), 1):
            crops[place] |= dict(zip(batch.row.tolist(), batch.images, strict=True))
    mirrored = [torch.equal(crops[1][row], image.flip(1)) for row, image in crops[0].items()]
    same = [torch.equal(crops[1][row], image) for row, image in crops[0].items()]
    assert all(a != b for a, b in zip(mirrored, same, strict=True)) and 5 < sum(mirrored) < 20
    for a, b in zip(plain.validation_batches(), flipped.validation_batches(), strict=True):
        assert torch.equal(a.images, b.images)


def test_records_train_to_the_same_weights_as_the_folders_they_hold(tmp_path):
    images = write_identities(tmp_path / "faces", identities=3)
    write_face_records(tmp_path / "train.rec", images)
    config = write_run(tmp_path, "cosface")
    train_main.fit(make_run(config, f"base.save_path={tmp_path / 'a'}"))
    record = (f"dataset.image_location={tmp_path / 'train.rec'}", "dataset.format=recordio")
    train_main.fit(make_run(config, f"base.save_path={tmp_path / 'b'}", *record))
    assert same_bytes(tensors(tmp_path / "a/cosface-last.pth"), tensors(tmp_path / "b/cosface-last.pth"))
    workers = "dataloader.train.params.num_workers=2"
    train_main.fit(make_run(config, f"base.save_path={tmp_path / 'c'}", *record, workers))
    assert same_bytes(tensors(tmp_path / "a/cosface-last.pth"), tensors(tmp_path / "c/cosface-last.pth"))


def test_identity_numbers_with_gaps_become_contiguous(tmp_path):
    images = write_identities(tmp_path / "faces", identities=3)
    write_face_records(tmp_path / "train.rec", [(path, identity * 1000 + 7) for path, identity in images])
    config = write_run(tmp_path, "cosface")
    place = f"dataset.image_location={tmp_path / 'train.rec'}"
    data = make_run(config, f"base.save_path={tmp_path / 'a'}", place, "dataset.format=recordio").data
    assert data.num_classes == 3
    assert any("the numbers 7 to 2007 of 3 identities have gaps and became 0 to 2" in line for line in data.report)


def test_pairs_elsewhere_and_in_a_bin_file(tmp_path):
    import pickle

    write_identities(tmp_path / "faces", identities=3)
    images = write_identities(tmp_path / "lfw", identities=2, seed=1)
    pairs = write_pairs(tmp_path / "pairs.txt", [0, 1])
    config = write_run(tmp_path, "cosface", val_pairs=str(pairs), val_location=str(tmp_path / "lfw"))
    data = make_data(config)
    assert data.num_classes == 3 and {b.identity.max().item() for b in data.validation_batches()} == {-1}
    by_name = {str(path.relative_to(tmp_path / "lfw")): path for path, _ in images}
    listed = [line.split() for line in pairs.read_text().splitlines()]
    encoded = [by_name[row[i]].read_bytes() for row in listed for i in (0, 1)]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((encoded, [row[2] == "1" for row in listed])))
    other = make_data(config, f"dataset.val_pairs={tmp_path / 'lfw.bin'}")
    a = {image.numpy().tobytes() for batch in data.validation_batches() for image in batch.images}
    b = {image.numpy().tobytes() for batch in other.validation_batches() for image in batch.images}
    assert a == b and len(a) == 8


def sentence(call, *args, error=DataError):
    with pytest.raises(error) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_cannot_be_trained_is_said(tmp_path):
    images = write_identities(tmp_path / "faces", identities=3)
    write_face_records(tmp_path / "train.rec", images)
    config = write_run(tmp_path, "cosface")
    pairs = write_pairs(tmp_path / "pairs.txt", [0, 1, 2])
    use = f"dataset.val_pairs={pairs}"
    assert "no identity is left" in sentence(make_data, config, use)
    (tmp_path / "strange.txt").write_text("a/1.jpg b/2.jpg 0\nid00/0.jpg id00/1.jpg 1\n")
    message = sentence(make_data, config, f"dataset.val_pairs={tmp_path / 'strange.txt'}")
    assert "2 of 4 images are not below" in message and "'a/1.jpg'" in message
    record = (f"dataset.image_location={tmp_path / 'train.rec'}", "dataset.format=recordio")
    assert "dataset.val_location" in sentence(make_data, config, use, *record)
    assert "landms_location: template" in sentence(make_data, config, *record, f"dataset.landms_location={pairs}")
    write_identities(tmp_path / "one", identities=1)
    assert "at least 2" in sentence(make_run, config, f"dataset.image_location={tmp_path / 'one'}")
    values = yaml.safe_load(config.read_text())
    del values["optimizer"]["group_2"]
    config.write_text(yaml.safe_dump(values))
    assert "params: margin" in sentence(make_run, config, error=ConfigError)


def test_verification_reads_every_kind_and_leaves_missing_images_out(tmp_path):
    (tmp_path / "pairs.txt").write_text("2\t2\nA\t1\t2\nA\t1\t3\nA\t1\tB\t1\nA\t2\tB\t1\n")
    judge = read_verification(tmp_path / "pairs.txt")
    assert judge.names[0] == "A/A_0001.jpg" and len(judge.names) == 4
    by_name = {"A/A_0001.jpg": (1, 0), "A/A_0002.jpg": (1, 0.1), "A/A_0003.jpg": (1, -0.1), "B/B_0001.jpg": (0, 1)}
    rows = [3, 0, 2, 1]
    embedding = torch.tensor([by_name[judge.names[row]] for row in rows]) * 5.0
    assert judge({"embedding": embedding, "row": torch.tensor(rows)}) == {"accuracy": 1.0, "pairs": 4.0}
    left = {"embedding": embedding[1:], "row": torch.tensor(rows[1:])}
    gone = judge.names[3]
    whole = [p for p in range(4) if gone not in (judge.names[judge.pairs.first[p]], judge.names[judge.pairs.second[p]])]
    assert judge(left)["pairs"] == len(whole)
    (tmp_path / "mated.txt").write_text("a/1.jpg a/2.jpg 1\n")
    assert "only mated pairs" in sentence(read_verification, tmp_path / "mated.txt")
    assert "no such pairs file" in sentence(read_verification, tmp_path / "none.txt")


def test_data_reads_no_pairs_by_itself(tmp_path):
    write_identities(tmp_path / "faces", identities=3)
    cfg = load_training(write_run(tmp_path, "cosface"), ())
    assert recognition_data(cfg, Shard()).judge is None
