"""`make bench-gpu-faces`, its commands only written down: another machine goes on where the first one was cut."""

import contextlib
import os
import shutil
import signal
import subprocess
import tarfile
import time

import pytest

from tests.helpers.training import ROOT

PYTHON = """#!/bin/bash
case "$*" in
    "-c import timm") exit 1 ;;
    "-c import os, sys"*) printf '%s\\n\\n' "$0"; exit ;;
    "-c "*) exit ;;
esac
echo "$*" >>log
folder=runs/faces/detected
for word; do
    case $word in
        base.save_path=*) folder=${word#*=} ;;
        configs/faces/label_*) folder=${word#*label_} folder=runs/faces/${folder%.yaml}/labels ;;
    esac
done
mkdir -p "$folder"
case $1 in
    prepare.py) echo 'reference/B/1.jpg probe/B/2.jpg 1' >"$folder/pairs.txt" ;;
    label.py) touch "$folder/labels.pkl" ;;
    evaluate.py) touch "$folder/summary.md" ;;
    train_main.py)
        echo session >>"$folder/resume.pt"
        touch "$folder"/{config.yaml,metrics.jsonl}
        case $folder in
            */aikd-1) echo step >"$folder/metrics.jsonl" ;;
            */plain-1) other=${folder/plain/augmented} ;;
            */augmented-1) other=${folder/augmented/plain} ;;
        esac
        while [ -e beside ] && [ -n "$other" ] && [ ! -e "$other/resume.pt" ]; do sleep 0.05; done
        if [ "$folder" = "$(cat cut_in)" ]; then
            trap 'exit 143' TERM
            cut -d' ' -f5 /proc/$$/stat >group.new && mv group.new group
            while sleep 0.05; do :; done
        fi
        cp "$folder/resume.pt" "$folder/aikd-last.pth"
        touch "$folder/aikd-last.json"
        ;;
esac
"""
CUT = "runs/faces/recommended/ser_fiq/plain-1"


@pytest.fixture
def archive(tmp_path):
    """Return the archive of two people to train on and one to test on."""
    faces = tmp_path / "given"
    for person in ("A", "B"):
        (faces / "images" / person).mkdir(parents=True)
        for number in (1, 2):
            (faces / f"images/{person}/{number}.jpg").touch()
    for name in ("landmarks.csv", "labels_lightqnet.csv", "mobilefacenet_y1.pth", "edgeface_xxs.pth", "net.onnx"):
        (faces / name).touch()
    (faces / "folds.csv").write_text("identity,fold\nA,0\nB,4\n")
    path = tmp_path / "faces.tar"
    given = {"FACES": str(faces), "YUNET": str(faces / "net.onnx"), "ARCHIVE": str(path)}
    subprocess.run([ROOT / "examples/faces_gpu.sh", "pack"], env={**os.environ, **given}, check=True)
    return path


def start(folder, archive, cut_in="", jobs="1"):
    """Start the script in `folder`, in a session of its own."""
    folder.mkdir(exist_ok=True)
    for name in ("examples", "benchmarks"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    (folder / "cut_in").write_text(cut_in)
    (folder / "log").write_text("")
    given = {"PYTHON": "./python", "ARCHIVE": str(archive), "SOURCES": "ser_fiq", "SEEDS": "1", "SAVE_S": "0.1"}
    given["JOBS"] = jobs
    return subprocess.Popen(
        ["examples/faces_gpu.sh", "run"],
        cwd=folder,
        env={**os.environ, **given},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for(what):
    for _ in range(600):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("not within a minute")


def saved(state):
    """Return the names in what another machine goes on with; nothing is written by halves."""
    names = set()
    for path in [*state.glob("go-on.tar"), *state.glob("resume-*.tar")]:
        with contextlib.suppress(FileNotFoundError), tarfile.open(path) as stream:  # its run has ended
            names |= set(stream.getnames())
    return names


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_another_machine_goes_on_where_the_first_was_cut(tmp_path, archive, number):
    first, second = tmp_path / "first", tmp_path / "second"
    whole = {f"runs/faces/ser_fiq/labels/{name}" for name in (".done", "labels.pkl")}
    whole.add("runs/faces/recommended/ser_fiq/aikd-1/.done")
    whole |= {f"{CUT}/{name}" for name in ("resume.pt", "config.yaml", "metrics.jsonl")}
    names = {"go-on.tar", "resume-ser_fiq-plain-1.tar", "ser_fiq-aikd-1.tar"}
    running, state = start(first, archive, cut_in=CUT), first / "runs/faces-state"
    wait_for((first / "group").exists)
    if number == signal.SIGKILL:
        wait_for(lambda: whole <= saved(state) and {path.name for path in state.glob("*.tar")} == names)
        for group in (running.pid, int((first / "group").read_text())):  # what `timeout` runs is a group of its own
            os.killpg(group, number)
    else:
        running.send_signal(number)
    assert running.wait(timeout=60) in (143, -signal.SIGKILL)
    assert saved(state) == whole
    assert {path.name for path in state.glob("*.tar")} == names

    (second / "runs/faces-state").mkdir(parents=True)
    for name in ("go-on.tar", "resume-ser_fiq-plain-1.tar"):
        shutil.copy(state / name, second / "runs/faces-state")
    assert start(second, archive).wait(timeout=60) == 0
    log = (second / "log").read_text()
    assert "label_ser_fiq" not in log and "/aikd-1 " not in log.partition("evaluate.py")[0]
    assert (second / CUT / "aikd-last.pth").read_text() == 2 * "session\n"
    assert not list((second / "runs/faces-state").glob("resume-*"))
    compared = log.splitlines()[-1]
    assert [f"scores.{name}" in compared for name in ("plain-1", "augmented-1", "aikd-1")] == [True, True, False]

    shutil.copy(state / "ser_fiq-aikd-1.tar", second / "runs/faces-state")
    shutil.rmtree(second / "runs/faces")
    assert start(second, archive).wait(timeout=60) == 0
    assert "train_main.py" not in (second / "log").read_text()
    assert "scores.aikd-1(ser_fiq)" in (second / "log").read_text().splitlines()[-1]


def test_students_are_trained_beside_one_another(tmp_path, archive):
    """Plain and augmented each wait until the other one has begun."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "beside").touch()
    assert start(folder, archive, jobs="3").wait(timeout=60) == 0
    trained = [line for line in (folder / "log").read_text().splitlines() if line.startswith("train_main.py")]
    assert len(trained) == 3 and "/aikd-1 " in trained[0]
    assert len(list((folder / "runs/faces/recommended").glob("ser_fiq/*/.done"))) == 3


def test_all_students_that_are_trained_are_saved_at_sigterm(tmp_path, archive):
    folder = tmp_path / "work"
    running = start(folder, archive, cut_in=CUT, jobs="3")
    wait_for((folder / "group").exists)
    wait_for((folder / "runs/faces/recommended/ser_fiq/augmented-1/.done").exists)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 143
    assert {f"{CUT}/resume.pt", "runs/faces/recommended/ser_fiq/augmented-1/.done"} <= saved(
        folder / "runs/faces-state"
    )
    assert not (folder / CUT / ".done").exists()
    assert "evaluate.py" not in (folder / "log").read_text()


def test_a_part_that_was_copied_by_half_is_named(tmp_path, archive, capfd):
    state = tmp_path / "work/runs/faces-state"
    state.mkdir(parents=True)
    labels = tmp_path / "labels.pkl"
    labels.write_bytes(bytes(100_000))
    with tarfile.open(state / "go-on.tar", "w") as stream:
        stream.add(labels, "runs/faces/ser_fiq/labels/labels.pkl")
    os.truncate(state / "go-on.tar", 50_000)
    assert start(tmp_path / "work", archive).wait(timeout=60) == 2
    assert "error: runs/faces-state/go-on.tar: cannot be read whole; copy it again" in capfd.readouterr().err
    assert not (tmp_path / "work/log").read_text()
