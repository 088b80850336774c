"""The table of published networks. A new one takes an entry here; docs/formats.md says where each fact comes from."""

from dataclasses import dataclass, field
from typing import Any

from utils.config.sections import ModelConfig, ModuleSpec, NetworkConfig
from utils.contract import InputContract, Reading
from utils.errors import ConfigError

OFFICIAL, HEAD = InputContract(), Reading()
MAGFACE = InputContract(channels="BGR", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
BGR = InputContract(channels="BGR")
LENGTH, OUTPUT = Reading(quality="length"), Reading(quality="output")
MLP, LINEAR = ModuleSpec(module="model.mlp.MLP"), ModuleSpec(module="model.mlp.LinearHead")
FLAT_LINEAR = ModuleSpec(module="model.mlp.LinearHead", params={"in_dim": 512 * 7 * 7})


@dataclass(frozen=True)
class Preset:
    """Say what a published network is."""

    about: str
    """What its number means, in one line."""
    module: str | None = None
    """Its backbone; None: the file is ONNX."""
    params: dict[str, Any] = field(default_factory=dict)
    layout: str = "CR-FIQA"
    """Layout of its keys (model/weights.py)."""
    tensors: int = 0
    """Tensors of the backbone in the file, batch counters apart."""
    head: ModuleSpec | None = None
    """Its quality head."""
    contract: InputContract = OFFICIAL
    """How crops become its input."""
    reading: Reading = HEAD
    """Which output counts, and what its quality is."""

    @property
    def scores(self) -> bool:
        """Tell whether it gives a quality."""
        return self.head is not None or self.reading.quality != "head"

    def model(self, part: str | None = None) -> ModelConfig | None:
        """Return its network; None where it has no layers of its own."""
        if self.module is None:
            return None
        features = NetworkConfig(module=self.module, params=self.params, weights=None, part=part)
        return ModelConfig(features=features, head=self.head or MLP)


def _iresnet(depth: int, about: str, layout: str = "CR-FIQA", **changes: Any) -> Preset:
    tensors = {18: 156, 34: 276, 50: 396, 100: 771, 200: 1506}[depth]
    return Preset(about, f"model.iresnet.iresnet{depth}", layout=layout, tensors=tensors, **changes)


def _magface(depth: int) -> Preset:
    changes: dict[str, Any] = {"params": {"bn_eps": 2e-5}, "contract": MAGFACE, "reading": LENGTH}
    return _iresnet(depth, "quality: length of the embedding, about 10 to 40", "MagFace", **changes)


def _adaface(depth: int, tensors: int) -> Preset:
    about = "recognition; the length of its embedding is a weak quality"
    return Preset(about, "model.published.ir.AdaFaceNet", {"depth": depth}, "Lightning", tensors, contract=BGR)


def _transface(width: int, depth: int) -> Preset:
    params, tensors = {"width": width, "depth": depth}, 18 + 11 * depth
    module, first = "model.published.transface.TransFaceNet", Reading(output=0)
    return Preset("recognition", module, params, tensors=tensors, reading=first)


PRESETS = {
    "aikd": _iresnet(100, "quality: predicted, near the range of its labels", "AI-KD", head=MLP),
    "ediffiqa_l": _iresnet(100, "quality: predicted, mostly 0 to 1", "eDifFIQA", head=MLP),
    "ediffiqa_m": _iresnet(50, "quality: predicted, mostly 0 to 1", "eDifFIQA", head=MLP),
    "ediffiqa_s": _iresnet(18, "quality: predicted, mostly 0 to 1", "eDifFIQA", head=MLP),
    "ediffiqa_t": Preset(
        "quality: predicted, mostly 0 to 1", "model.published.mobile.UnitMobileFaceNet", {}, "eDifFIQA", 283, MLP
    ),
    "diffiqa_r": _iresnet(100, "quality: predicted, mostly 0 to 1", "DifFIQA(R)", head=LINEAR),
    "cr_fiqa_s": _iresnet(50, "quality: predicted certainty ratio", head=LINEAR),
    "cr_fiqa_l": _iresnet(100, "quality: predicted certainty ratio", head=LINEAR),
    "sdd_fiqa": Preset(
        "quality: predicted, 0 to 100", "model.published.ir.SddFiqaTrunk", {}, "SDD-FIQA", 286, FLAT_LINEAR
    ),
    "magface_r18": _magface(18),
    "magface_r50": _magface(50),
    "magface_r100": _magface(100),
    "adaface_r18": _adaface(18, 149),
    "adaface_r50": _adaface(50, 389),
    "adaface_r101": _adaface(100, 764),
    "arcface_r18": _iresnet(18, "recognition (ArcFace and CosFace of arcface_torch)"),
    "arcface_r34": _iresnet(34, "recognition (ArcFace and CosFace of arcface_torch)"),
    "arcface_r50": _iresnet(50, "recognition (ArcFace and CosFace of arcface_torch)"),
    "arcface_r100": _iresnet(100, "recognition (ArcFace and CosFace of arcface_torch)"),
    "arcface_r200": _iresnet(200, "recognition (ArcFace and CosFace of arcface_torch)"),
    "transface_s": _transface(512, 12),
    "transface_b": _transface(512, 24),
    "transface_l": _transface(768, 24),
    "swinface": Preset(
        "recognition; its answers to other questions are left aside",
        "model.published.swinface.SwinFaceNet",
        layout="SwinFace",
        tensors=200,
        reading=Reading(output="Recognition"),
    ),
    "ediffiqa_onnx": Preset("ONNX of the OpenCV Zoo and of uniface; quality: predicted, mostly 0 to 1", reading=OUTPUT),
    "ofiq_magface": Preset("ONNX of OFIQ; quality: length of MagFace's embedding", contract=MAGFACE, reading=OUTPUT),
    "insightface_onnx": Preset("ONNX of InsightFace, e.g. w600k_r50; recognition"),
}
"""Name -> network. The first whose keys and shapes a file has is the one recognised."""
MODULES = tuple(dict.fromkeys(preset.module for preset in PRESETS.values() if preset.module))


def find_preset(name: str) -> Preset:
    """Return the preset of a name; ConfigError listing them where there is none."""
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is not known; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_list() -> str:
    """Return one line for each preset."""
    wide = max(map(len, PRESETS))
    lines = []
    for name, preset in PRESETS.items():
        one = preset.contract
        scale = f"mean {' '.join(f'{x:g}' for x in dict.fromkeys(one.mean))}, std {one.std[0]:g}"
        lines.append(f"{name:<{wide}}  {one.channels}, {one.size_px} px, {scale}; {preset.about}")
    return "\n".join(lines) + "\n"
