"""The configuration: every mistake is one sentence that names file, key and way out."""

import pytest
import yaml

from jobs.methods import METHODS, load_training
from model.label_sources import label_schema
from tests.helpers.training import ROOT
from utils.cli import parse_command
from utils.config import dump_config
from utils.config.evaluate import EvaluateConfig, ScoresConfig
from utils.config.export import ExportConfig
from utils.config.inference import InferenceConfig
from utils.config.loading import validate
from utils.config.prepare import PrepareConfig
from utils.config.refusals import models_of
from utils.config.sections import ModelConfig
from utils.config.train_aikd import AIKDConfig
from utils.contract import InputContract
from utils.errors import ConfigError, ContractError

MINIMAL = {
    "base": {"save_path": "out"},
    "dataset": {"image_location": "i", "quality_location": "q", "landms_location": "l"},
    "model": {"config": "m.yaml"},
    "optimizer": {"group_1": {"params": "quality_head", "lr": 0.05}},
}


@pytest.fixture
def yaml_file(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


@pytest.mark.parametrize(
    "name",
    ["train_config", "aikd_recommended", "diffiqar_config", "ediffiqa_config", "cosface_config", "crfiqa_config"],
)
def test_shipped_training_configurations_load(name):
    assert load_training(ROOT / f"configs/{name}.yaml").base.save_path.startswith("runs/")


def test_released_recipe_is_the_shipped_one():
    cfg = load_training(ROOT / "configs/train_config.yaml")
    assert (cfg.base.epochs, cfg.base.seed, cfg.base.validate_every) == (1, 42069, 0.1)
    assert (cfg.base.pretrain, cfg.base.warmup, cfg.base.amp) == (0.3, 0.5, True)
    assert cfg.dataloader.train.params.batch_size == 64 and cfg.dataloader.train.params.num_workers == 10
    head, backbone = cfg.optimizer.group_1, cfg.optimizer.group_2
    assert (head.lr, head.model_extra) == (0.05, {"weight_decay": 0.0005, "momentum": 0.9})
    assert (backbone.lr, backbone.limit, backbone.model_extra) == (0.05, 100, {"momentum": 0.1})
    assert cfg.ema.alpha == 0.1 and cfg.grad_scaler.params == {"init_scale": 128}
    assert (cfg.dataset.val_percent, cfg.dataset.perturbation.radius_px) == (0.01, 3)
    assert cfg.loss.quality.params == {"beta": 0.5}


def test_recommended_recipe_is_the_one_the_search_on_photographs_chose():
    changes = ["base.epochs=10", "scheduler.milestones=[6.5, 9]", "loss.ranking=1", "dataset.label_scaling=minmax"]
    changes += ["dataset.perturbation.family=mixed", "optimizer.module=torch.optim.AdamW"]
    for number, part, rate in ((1, "quality_head", 1e-3), (2, "feature_extractor", 3e-4)):
        changes.append(f"optimizer.group_{number}={{params: {part}, lr: {rate}, weight_decay: 0.01}}")
    recommended = load_training(ROOT / "configs/aikd_recommended.yaml")
    for name in ("demo", "faces"):  # the demo differs in these settings alone, the photographs' recipe too
        chosen = load_training(ROOT / f"configs/{name}/aikd.yaml", changes)
        for section in ("ema", "scheduler", "optimizer", "loss"):
            assert getattr(recommended, section) == getattr(chosen, section)
        for key in ("epochs", "pretrain", "warmup"):
            assert getattr(recommended.base, key) == getattr(chosen.base, key)
        for key in ("perturbation", "label_scaling", "misalign", "val_percent"):
            assert getattr(recommended.dataset, key) == getattr(chosen.dataset, key)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("base.epoch=2", "unknown key 'base.epoch'; did you mean 'epochs'?"),
        ("dataset.perturbation.radius=2", "unknown key 'dataset.perturbation.radius'; did you mean 'radius_px'?"),
        ("optimizer.gruop_2={params: quality_head, lr: 1}", "unknown key 'optimizer.gruop_2'; did you mean 'group_2'?"),
        ("loss.qualty={module: torch.nn.L1Loss}", "unknown key 'loss.qualty'; did you mean 'quality'?"),
        ("batch_size=4", "unknown key 'batch_size'; did you mean 'dataloader.train.params.batch_size'?"),
        ("dataset.resume=auto", "unknown key 'dataset.resume'; did you mean 'base.resume'?"),
        ("base.lr=0.1", "unknown key 'base.lr'; did you mean 'optimizer.group_1.lr'?"),
        ("dataset.landmarks=x.csv", "unknown key 'dataset.landmarks'; did you mean 'landms_location'?"),
        ("dataset.columns=quality", "dataset.columns: expected {KEY: VALUE, ...}, found 'quality'"),
        ("scheduler.milestones=1", "scheduler.milestones: expected [VALUE, ...], found 1"),
        ("dataset.image_location=2024", "dataset.image_location: expected text (in quotes where it looks like"),
        ("base.device=0", "base.device: expected cpu, cuda or cuda:N, found 0"),
        ("base.epochs=two", "base.epochs: input should be a valid integer"),
        ("base.epochs=0", "base.epochs: input should be greater than 0, found 0"),
        ("optimizer.group_1.lr=.inf", "optimizer.group_1.lr: input should be a finite number"),
        ("optimizer.group_1.momentum=.nan", "optimizer.group_1: momentum should be a finite number"),
        ("base.amp=2", "base.amp: expected 0 or 1, found 2"),
        ("base.method=foo", "base.method: input should be 'aikd', 'cosface' or 'crfiqa', found 'foo'"),
        ("dataset.val_percent=1.5", "dataset.val_percent: input should be less than 1"),
        ("dataset.quality_location=null", "dataset.quality_location is needed by method aikd"),
        ("optimizer.group_1=null", "optimizer has no group_1"),
        ("optimizer.group_1.params=feature_extractor", "optimizer: no group trains quality_head; add one with params"),
        ("optimizer.group_1.params=margin", "optimizer.group_1.params: method aikd has no part 'margin'; known: qual"),
        ("scheduler.module=torch.optim.lr_scheduler.StepLR", "scheduler.module: input should be"),
        ("scheduler.milestones=[1]", "scheduler: milestones and gamma need module: torch.optim.lr_scheduler.Mul"),
        ("scheduler.gamma=0.5", "scheduler: milestones and gamma need module: torch.optim.lr_scheduler.Mul"),
        ("ema.module=os.system", "ema.module: input should be 'torch.optim.swa_utils.SWALR'"),
    ],
)
def test_mistakes_are_named(yaml_file, override, sentence):
    with pytest.raises(ConfigError) as error:
        load_training(yaml_file, [override])
    assert str(error.value).startswith(f"{yaml_file}: {sentence}")


MARGIN = {"module": "model.margins.CosFaceHead", "params": {}}
RECOGNITION = {
    "base": {"save_path": "out"},
    "dataset": {"image_location": "i"},
    "model": {"config": "m.yaml"},
    "optimizer": {
        f"group_{i}": {"params": params, "lr": 0.1} for i, params in enumerate(("margin", "quality_head"), start=1)
    },
    "loss": {"recognition": MARGIN},
}


@pytest.fixture
def recognition_file(tmp_path):
    def written(method):
        values = {**RECOGNITION, "base": {**RECOGNITION["base"], "method": method}}
        if method == "cosface":
            values["optimizer"] = {"group_1": RECOGNITION["optimizer"]["group_1"]}
        (tmp_path / f"{method}.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / f"{method}.yaml"

    return written


FOREIGN = {
    "aikd": {
        "dataset.format=recordio": "cosface and crfiqa; ",
        "dataset.flip=1": "cosface and crfiqa; known here: ",
        "dataset.val_pairs=pairs.txt": "cosface and crfiqa; did you mean 'val_percent'?",
        "dataset.val_location=x": "cosface and crfiqa",
        "dataset.val_landms_location=y": "cosface and crfiqa; did you mean 'landms_location'?",
        "loss.recognition={module: model.margins.CosFaceHead}": "cosface and crfiqa",
        "loss.ratio=released": "crfiqa",
    },
    "cosface": {
        "base.select_on=aligned": "aikd",
        "dataset.quality_location=q.csv": "aikd",
        "dataset.misalign=0": "aikd",
        "dataset.perturbation.radius_px=5": "aikd",
        "dataset.label_scaling=rank": "aikd",
        "dataset.higher_is_better=0": "aikd",
        "loss.consistency={module: torch.nn.L1Loss}": "aikd",
        "loss.quality={module: torch.nn.L1Loss}": "aikd and crfiqa",
        "loss.ratio=released": "crfiqa",
        "loss.refinement={}": "aikd",
        "model.teacher_cache=folder": "aikd",
        "model.fold_teacher=1": "aikd",
    },
    "crfiqa": {
        "base.select_on=misaligned": "aikd",
        "dataset.perturbation.unit=template": "aikd",
        "dataset.perturbation={radius: 3}": "aikd",
    },
}


@pytest.mark.parametrize(
    ("method", "override"), [(method, override) for method, keys in FOREIGN.items() for override in keys]
)
def test_keys_of_another_method_are_refused(yaml_file, recognition_file, method, override):
    path = yaml_file if method == "aikd" else recognition_file(method)
    assert load_training(path).base.method == method
    with pytest.raises(ConfigError) as error:
        load_training(path, [override])
    key = override.partition("=")[0]
    shown = key if key.count(".") == 1 else key.rpartition(".")[0]
    wanted = f"{path}: unknown key '{shown}' with base.method: {method}, it belongs to {FOREIGN[method][override]}"
    assert str(error.value).startswith(wanted)
    assert "; did you mean '" in str(error.value) or "; known here: " in str(error.value)


def test_several_foreign_keys_are_counted(yaml_file):
    with pytest.raises(ConfigError, match=r"unknown key 'dataset\.flip' .* \(and 2 more\)$"):
        load_training(yaml_file, ["dataset.flip=1", "dataset.val_pairs=x", "loss.ratio=released"])


def test_foreign_keys_without_a_value_of_their_own_are_left_out(yaml_file, recognition_file):
    idle = ["dataset.flip=0", "dataset.format=folders", "dataset.val_pairs=null", "loss.recognition=null"]
    assert load_training(yaml_file, idle) == load_training(yaml_file)
    path = recognition_file("cosface")
    idle = [
        "dataset.perturbation={radius_px: 3}", "dataset.quality_location=null", "loss.refinement=null",
        "loss.quality={module: torch.nn.SmoothL1Loss, params: {beta: 0.5}}", "base.select_on=mean",
    ]  # fmt: skip
    assert load_training(path, idle) == load_training(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("base: {epochs: 1\n", "line 2: not valid YAML"),
        ("base: {epochs: 1, epochs: 2}", "line 1: not valid YAML (key 'epochs' appears twice)"),
        ("- a\n- b\n", "expected a mapping of sections"),
        ("", "expected a mapping of sections"),
    ],
)
def test_broken_files_are_named(tmp_path, text, sentence):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml") as error:
        load_training(path)
    assert sentence in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such configuration file"):
        load_training(tmp_path / "none.yaml")


def test_overrides_reach_deep_and_parse_yaml(yaml_file):
    cfg = load_training(
        yaml_file, ["dataset.perturbation.radius_px=1e0", "optimizer.group_1.lr=1e-3", "base.resume=auto"]
    )
    assert cfg.dataset.perturbation.radius_px == 1.0
    assert cfg.optimizer.group_1.lr == 0.001
    assert cfg.base.resume == "auto"
    assert yaml.safe_load(dump_config(cfg))["optimizer"]["group_1"]["lr"] == 0.001


@pytest.mark.parametrize("override", ["base.seed", "=3", "base..seed=3", "base.seed.x=1"])
def test_malformed_overrides_are_named(yaml_file, override):
    with pytest.raises(ConfigError, match="override"):
        load_training(yaml_file, [override])


def transform(*steps):
    spec = {
        f"trans_{i}": {"module": f"torchvision.transforms.{name}", "params": p} for i, (name, p) in enumerate(steps)
    }
    features = {"module": "model.iresnet.iresnet100", "weights": None}
    return ModelConfig.model_validate({"features": features, "transform": spec}).transform


def test_options_with_dashes_are_answered_by_the_form_of_settings(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_command("doc", ["-c", "x.yaml", "--epochs", "3"])
    assert "--epochs; settings are written key=value without dashes, e.g. base.device=cpu" in capsys.readouterr().err


def test_contract_is_read_off_the_transform():
    block = transform(
        ("Resize", {"size": 112}), ("ToTensor", {}), ("Normalize", {"mean": [0.5], "std": [0.5, 0.5, 0.5]})
    )
    assert InputContract.from_transform(block) == InputContract()
    block = transform(("Resize", {"size": [96, 96]}), ("ToTensor", {}), ("Normalize", {"mean": 0, "std": 1}))
    assert InputContract.from_transform(block) == InputContract(size_px=96, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([("Resize", {"size": 112}), ("ToTensor", {})], "expected Resize, ToTensor, Normalize"),
        (
            [("Resize", {"size": 112}), ("RandomCrop", {"size": 9})],
            "torchvision.transforms.RandomCrop is not understood",
        ),
        ([("Resize", {"size": [112, 96]})], "expected one side in pixels or two equal ones"),
        ([("Normalize", {"mean": [0, 0], "std": 1})], "expected three numbers"),
        ([("Normalize", {"mean": 0, "std": 0})], "expected three positive numbers"),
    ],
)
def test_other_transforms_are_refused(steps, sentence):
    with pytest.raises(ConfigError, match=sentence):
        InputContract.from_transform(transform(*steps))


def test_another_contract_is_refused():
    with pytest.raises(ContractError, match=r"a\.pth: the weights were trained with size_px = 96, .* size_px = 112"):
        InputContract().require(InputContract(size_px=96), "a.pth")
    InputContract().require(InputContract.from_dict(InputContract().to_dict()), "a.pth")


PATHS_BY_NAME = {"files", "embeddings", "comparisons", "second_landmarks"}
NO_PATHS = {"kind", "device", "project", "module", "method", "params", "key_root", "before", "tap", "licence", "notes"}
NO_PATHS |= {"part", "preset", "output", "identity", "threshold_from"}


@pytest.mark.parametrize(
    "schema",
    [
        *(method.config for method in METHODS.values()),
        *(ModelConfig, InferenceConfig, label_schema(), EvaluateConfig, ExportConfig, PrepareConfig),
    ],
)
def test_every_path_knows_the_home_folder(schema):
    """A key that holds text is a path, or is listed as none."""
    models = [schema]
    for model in models:
        for name, field in model.model_fields.items():
            models += [inner for inner in models_of(field.annotation) if inner not in models]
            text = field.annotation in (str, str | None) and name not in NO_PATHS
            assert not (text or name in PATHS_BY_NAME) or "AfterValidator" in repr(field), f"{model.__name__}.{name}"


def test_the_home_folder_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    values = {
        **MINIMAL,
        "base": {"save_path": "~/runs/x"},
        "dataset": {"image_location": "~", "quality_location": "a~b", "landms_location": "template", "key_root": "~/k"},
    }
    cfg = validate(AIKDConfig, values, "here")
    assert cfg.base.save_path == f"{tmp_path}/runs/x" and cfg.dataset.image_location == str(tmp_path)
    assert (cfg.dataset.quality_location, cfg.dataset.landms_location) == ("a~b", "template")
    assert cfg.dataset.key_root == "~/k"  # begins names in a file
    scores = validate(ScoresConfig, {"LFW": "~/lfw.csv", "XQLFW": "/xqlfw.csv"}, "here")
    assert scores.files == {"LFW": {"aligned": f"{tmp_path}/lfw.csv"}, "XQLFW": {"aligned": "/xqlfw.csv"}}
    features = {"module": "model.iresnet.iresnet18", "weights": "~/r18.pth"}
    assert validate(ModelConfig, {"features": features}, "here").features.weights == f"{tmp_path}/r18.pth"
