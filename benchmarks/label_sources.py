"""Cost per image of each label source, in forward passes of its network, on one core.

    python -m benchmarks.label_sources [--module model.iresnet.iresnet50] [--tap layer3] [--images 12] [--rounds 3]
        [--sources faceqan sdd_fiqa]

Random weights, default settings, dropout 0.4 before the last Linear. Times are processor time, which other programs on
the machine disturb less; forward pass and source alternate, and the median of the rounds is printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from model.ai_kd import WrapperModel
from model.embedding_dim import embedding_dim
from model.frozen.network import TorchNetwork
from model.label_sources import SOURCES, LabelSource, PopulationSource, source_class
from model.registry import NetworkBuilder, build_head
from utils.config.sections import ModuleSpec
from utils.contract import InputContract

POPULATION = 5000


def sources(network: TorchNetwork, tap: str, names: list[str]) -> dict[str, LabelSource]:
    """Build those of the named sources that label an image by itself."""
    made = {}
    for name in names:
        kind = source_class(name)
        if issubclass(kind, PopulationSource):
            continue
        behind = network
        if kind.trained:
            head = build_head(kind.head or ModuleSpec(module="model.mlp.MLP"), embedding_dim(network.backbone))
            behind = TorchNetwork(WrapperModel(network.backbone, head), network.contract, network.device)
        for title, settings in variants(tap).get(name, {name: {}}).items():
            made[title] = kind(behind, kind.config(**settings) if kind.config else None)
    return made


def variants(tap: str) -> dict[str, dict[str, dict]]:
    """Return, for sources that are measured otherwise than by default, title -> settings."""
    return {
        "ser_fiq": {"ser_fiq": {"dropout": {"rate": 0.4}}},
        "grafiqs": {"grafiqs, tap: image": {}, f"grafiqs, tap: {tap}": {"tap": tap}},
    }


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print one line per source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default="model.iresnet.iresnet50")
    parser.add_argument("--tap", default="layer3", help="a module in the network's middle")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = TorchNetwork(
        NetworkBuilder().backbone(ModuleSpec(module=options.module)), InputContract(), torch.device("cpu")
    )
    crops = torch.randint(0, 256, (options.images, 112, 112, 3), dtype=torch.uint8)
    names = [f"{i}.jpg" for i in range(options.images)]
    plain = source_class("magnitude")(network)
    plain.scores(crops, names)
    forward_s = [seconds(lambda: plain.scores(crops, names)) for _ in range(options.rounds)]
    forward_ms = 1e3 * statistics.median(forward_s) / options.images
    print(f"{options.module} | one forward pass: {forward_ms:.1f} ms per image", flush=True)
    for name, source in sources(network, options.tap, options.sources).items():
        source.scores(crops[:1], names[:1])
        ratios = []
        for _ in range(options.rounds):
            forward = seconds(lambda: plain.scores(crops, names))
            ratios.append(seconds(lambda s=source: s.scores(crops, names)) / forward)
        print(f"{options.module} | {name}: {statistics.median(ratios):.2f} forward passes", flush=True)
    if "sdd_fiqa" in options.sources:
        report_sdd_fiqa(network, forward_ms)


def report_sdd_fiqa(network: TorchNetwork, forward_ms: float) -> None:
    """Print what SDD-FIQA adds to one forward pass per image."""
    kind = source_class("sdd_fiqa")
    source = kind(network, kind.config())
    embeddings = np.random.default_rng(0).normal(size=(POPULATION, source.embedding_dim())).astype(np.float32)
    identities, names = np.arange(POPULATION) // 50, [str(i) for i in range(POPULATION)]
    added_ms = 1e3 * seconds(lambda: source.finish(embeddings, identities, names)) / POPULATION
    print(f"sdd_fiqa: {1 + added_ms / forward_ms:.2f} forward passes ({added_ms:.1f} ms added to one)", flush=True)


if __name__ == "__main__":
    main()
