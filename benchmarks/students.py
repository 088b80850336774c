"""Size, work and scoring rate of student networks, on one core, with random weights.

    python -m benchmarks.students [--images 16] [--rounds 5]

Rates are those of the scorer behind inference.py (fp32, BatchNorm folded), images per second of processor time, which
other programs on the machine disturb less; the networks alternate, and the median of the rounds is printed.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from model.ai_kd import WrapperModel
from model.embedding_dim import embedding_dim
from model.frozen.network import TorchNetwork
from model.registry import NetworkBuilder, build_head
from utils.config.sections import ModuleSpec
from utils.contract import InputContract

NETWORKS = (
    "model.compact.CompactNet",
    "model.mobilefacenet.MobileFaceNet",
    "model.iresnet.iresnet18",
    "model.iresnet.iresnet50",
    "model.iresnet.iresnet100",
)


def student(name: str) -> WrapperModel:
    """Build a student with its quality head."""
    backbone = NetworkBuilder().backbone(ModuleSpec(module=name))
    return WrapperModel(backbone, build_head(ModuleSpec(module="model.mlp.MLP"), embedding_dim(backbone))).eval()


def multiplications(network: nn.Module) -> int:
    """Return the multiply-adds of convolutions and linear layers for one crop."""
    counts = []

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        counts.append(output[0].numel() * module.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network(torch.zeros(1, 3, 112, 112))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def seconds(scorer: TorchNetwork, crops: Tensor) -> float:
    """Return the processor time of one pass."""
    start = time.process_time()
    scorer.qualities(crops)
    return time.process_time() - start


def main() -> None:
    """Measure and print one line per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="crops in one pass")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    crops = torch.randint(0, 256, (options.images, 112, 112, 3), dtype=torch.uint8)
    sizes, scorers = {}, {}
    for name in NETWORKS:
        network = student(name)
        numbers = sum(p.numel() for p in network.parameters()) / 1e6
        megabytes = sum(value.numel() * value.element_size() for value in network.state_dict().values()) / 1e6
        sizes[name] = f"{numbers:.2f} M parameters, {megabytes:.1f} MB, {multiplications(network) / 1e9:.2f} GMACs"
        scorers[name] = TorchNetwork(network, InputContract(), torch.device("cpu"), folded=True)
        scorers[name].qualities(crops)
    rounds = [{name: seconds(scorer, crops) for name, scorer in scorers.items()} for _ in range(options.rounds)]
    for name in NETWORKS:
        rate = options.images / statistics.median(times[name] for times in rounds)
        print(f"{name}: {sizes[name]}, {rate:.1f} images/s")


if __name__ == "__main__":
    main()
