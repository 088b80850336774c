"""Refined labels (eDifFIQA) as an option of AI-KD."""

import csv

import numpy as np
import pytest
import torch
from torch.nn import functional

import train_main
from data.index.build import FaceIndex
from data.index.identity_centres import centre_images
from data.index.split import Split, split
from data.sources.folder import FolderSource
from data.tables.names import Names
from model.frozen.network import normalise
from model.objectives.refinement import CentreSums, LabelRefinement
from tests.helpers.training import observed_run, same_bytes, tensors, write_setup
from utils.config.train_aikd import RefinementConfig
from utils.errors import ConfigError, DataError
from utils.training.run_log import read_metrics

ON = ("loss.refinement.epsilon=0.4", "loss.refinement.top=0.4", "loss.refinement.min_images=2")


def make_run(config, *overrides):
    return observed_run(config, "base.epochs=2", *overrides)


def train(config, *overrides):
    run = make_run(config, *overrides)
    train_main.fit(run)
    return run


def test_refined_labels_by_hand():
    refinement = LabelRefinement(torch.tensor([0, 0, 1, -1, 2], dtype=torch.int32), dim=2, epsilon=0.5)
    assert not refinement.complete
    sums = CentreSums(refinement)
    sums.add(torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1, 2]))
    refinement.set_centres(sums.sum_CD, sums.images_C)
    assert refinement.complete and refinement.centre_CD.tolist() == [[3, 0], [0, 3], [0, 0]]
    embedding = torch.tensor([[0.6, 0.8], [10.0, 0.0], [0.0, -1.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    label = torch.tensor([0.8, 0.3, 0.9, 0.25, 0.35])
    refined = refinement(label, embedding, torch.arange(5))
    # cosines .6, 1, -1; then an image of no identity, and an identity without a centre
    assert refined.tolist() == pytest.approx([0.8 - 0.5 * 0.4, 0.3, 0.0, 0.25, 0.35], abs=1e-6)
    assert not refined.requires_grad


def index_of(names, labels):
    return FaceIndex(FolderSource("faces", Names.from_strings(names)), labels=np.array(labels, np.float32))


def test_one_threshold_for_all_chooses_the_images_of_the_centres():
    names = [f"a/{i}.jpg" for i in range(6)] + ["b/0.jpg", "b/1.jpg"] + [f"c/{i}.jpg" for i in range(2)]
    labels = [0.1, 0.9, 0.5, 0.9, 0.2, 0.95, 0.8, 0.3, 0.4, 0.45]
    parts = Split(train=np.array([0, 1, 2, 3, 4, 6, 7, 8]), val=np.array([5, 9]))
    found, kept = centre_images(index_of(names, labels), parts, RefinementConfig(top=0.4, min_images=1))
    # the best four of ten are .95, .9, .9, .8; .95 is held out; c has none among them, however good its own best is
    assert found.rows.tolist() == [1, 3, 6]
    assert found.identity.tolist() == [0] * 6 + [1] * 2 + [-1] * 2
    assert kept.train.tolist() == [0, 1, 2, 3, 4, 6, 7] and kept.val.tolist() == [5, 9]
    assert found.dropped == 1 and found.count == 2
    fewer, kept = centre_images(index_of(names, labels), parts, RefinementConfig(top=0.4, min_images=2))
    assert fewer.rows.tolist() == [1, 3] and kept.train.tolist() == [0, 1, 2, 3, 4] and fewer.dropped == 3


def test_the_published_defaults_ask_for_ten_images_among_the_best_fifth():
    names = [f"{who}/{i:02}.jpg" for who in "ab" for i in range(50)]
    labels = np.concatenate([np.linspace(0, 1, 50), np.linspace(0, 0.9, 50)])
    threshold = np.sort(labels)[-20]
    wanted = [row for row, label in enumerate(labels) if label >= threshold]
    found, kept = centre_images(index_of(names, labels), split(labels, 0), RefinementConfig())
    assert found.rows.tolist() == [row for row in wanted if row < 50] and len(found.rows) >= 10
    assert sum(row >= 50 for row in wanted) < 10 and kept.train.max() == 49 and found.dropped == 50


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refinement")
    config = write_setup(folder, count=40)  # four identities of ten images
    train(config, f"base.save_path={folder / 'whole'}", *ON)
    return config, folder


def test_the_quality_loss_is_that_of_literally_refined_labels(setup):
    config, folder = setup
    run = make_run(config, *ON, f"base.save_path={folder / 'literal'}")
    train_main.begin(run)
    run.objective.before_first_step(run)
    batch = next(run.data.batches_from(0))
    run.objective.student.eval()
    terms = run.objective(batch)

    index = run.data.train.dataset.index
    run.data.train.sampler.position, run.data.train.sampler.end_epoch = (0, 0), 1
    rows = [row for keys in run.data.train.sampler for _, row in keys]
    best = {}
    for row in sorted(rows):
        if index.labels[row] >= np.quantile(index.labels, 0.6):
            best.setdefault(index.names[row].split("/")[0], []).append(row)
    crops = run.data.train.dataset

    def embedding(network, images):
        with torch.no_grad():
            return network(normalise(images, run.contract))

    centre = {}
    for identity, taken in best.items():
        images = [embedding(run.objective.teacher, crops[0, row].aligned)[0] for row in taken]
        centre[identity] = torch.stack(images).mean(0)
    losses = []
    for i, row in enumerate(batch.row.tolist()):
        predicted, quality = embedding(run.objective.student, batch.misaligned[i : i + 1])
        cosine = functional.cosine_similarity(predicted[0], centre[index.names[row].split("/")[0]], dim=0)
        refined = min(1.0, max(0.0, float(index.labels[row]) - 0.4 * (1 - float(cosine))))
        losses.append(float(functional.smooth_l1_loss(quality, torch.tensor([refined]), beta=0.5)))
        assert refined != pytest.approx(float(index.labels[row]), abs=1e-3) or refined == 0
    assert terms.quality.item() == pytest.approx(np.mean(losses), abs=1e-5)


def test_theta_shares_the_weight(setup):
    config, folder = setup
    out = f"base.save_path={folder / 'weights'}"
    assert list(make_run(config, out).objective.factors) == [1, 1]
    assert make_run(
        config, out, "loss.refinement={theta: 0.3, top: 0.4, min_images: 2}"
    ).objective.factors == pytest.approx([0.3, 0.7])
    both = make_run(config, out, "loss.refinement={theta: 0.3, top: 0.4, min_images: 2}", "loss.weights=[2, 1]")
    assert both.objective.factors == pytest.approx([0.6, 0.7])


def test_without_refinement_strength_it_is_plain_aikd(setup):
    config, folder = setup
    train(config, f"base.save_path={folder / 'plain'}")
    off = "loss.refinement={theta: 0.5, epsilon: 0, top: 1, min_images: 1}"
    train(config, f"base.save_path={folder / 'zero'}", off, "loss.weights=[2, 2]")
    plain, zero, refined = (tensors(folder / name / "aikd-last.pth") for name in ("plain", "zero", "whole"))
    assert same_bytes(plain, zero)
    assert not same_bytes(plain, refined)


def test_a_resumed_run_has_the_centres(setup):
    config, folder = setup
    out = (f"base.save_path={folder / 'halves'}", "base.resume=auto", *ON)
    first = train(config, *out, "base.max_steps=3")
    second = train(config, *out)
    centres = len(first.data.centres.rows)
    assert centres == len(second.data.centres.rows) and 4 <= centres <= 16
    steps, validation = 3 * 4, 8
    assert sum(first.seen) == centres + steps + validation and second.seen[0] == 4
    assert torch.equal(first.objective.refinement.centre_CD, second.objective.refinement.centre_CD)
    assert same_bytes(tensors(folder / "halves/aikd-last.pth"), tensors(folder / "whole/aikd-last.pth"))
    with pytest.raises(ConfigError, match=r"loss\.refinement\.epsilon = 0\.4, this one 0\.3"):
        train(config, *out, "loss.refinement.epsilon=0.3")


def test_the_teacher_cache_serves_it_too(setup):
    config, folder = setup
    slow = ("optimizer.group_1.lr=0.001", "optimizer.group_2.lr=0.001", *ON)
    train(config, f"base.save_path={folder / 'live'}", *slow)
    train(config, f"base.save_path={folder / 'cached'}", f"model.teacher_cache={folder / 'kept'}", *slow)
    for first, second in zip(
        *(read_metrics(folder / name / "metrics.jsonl") for name in ("live", "cached")), strict=True
    ):
        for key in first:
            if "consistency" in key or "quality" in key:
                assert first[key] == pytest.approx(second[key], abs=5e-4), key


def test_mistakes_are_one_sentence(setup, tmp_path):
    config, folder = setup
    out = f"base.save_path={tmp_path / 'run'}"
    make_run(config, *ON, out)
    cases = {
        "loss.refinement.epsilo=0.3": r"unknown key 'loss\.refinement\.epsilo'; did you mean 'epsilon'",
        "loss.refinement.min_images=11": r"no identity \(folder\) has 11 training images among the best 0\.2 of all "
        r"labels, the most is \d; lower loss\.refinement\.min_images, raise loss\.refinement\.top",
        "loss.refinement.theta=1.5": r"loss\.refinement\.theta",
    }
    for override, sentence in cases.items():
        with pytest.raises((ConfigError, DataError), match=sentence):
            make_run(config, override, out)
    recognition = ("base.method=cosface", "loss.recognition={module: CosFaceHead}", "dataset.quality_location=null")
    with pytest.raises(ConfigError, match=r"unknown key 'loss\.refinement' with base\.method: cosface, .* aikd"):
        make_run(config, *recognition, "loss.refinement={}")
    rows = list(csv.reader((folder / "labels.csv").open()))
    with open(tmp_path / "raw.csv", "w", newline="") as stream:
        csv.writer(stream).writerows((name, 3 * float(label)) for name, label in rows)
    raw = (f"dataset.quality_location={tmp_path / 'raw.csv'}", *ON, f"base.save_path={tmp_path / 'r'}")
    make_run(config, *raw)
    with pytest.raises(DataError, match=r"refined labels lie in \[0, 1\].*set dataset\.label_scaling"):
        make_run(config, *raw, "dataset.label_scaling=none")


def test_flat_folders_have_no_identities():
    index = index_of(["0.jpg", "1.jpg"], [0.2, 0.4])
    with pytest.raises(DataError, match="a folder for each identity"):
        centre_images(index, split(index.labels, 0), RefinementConfig(min_images=1))
