"""Cut a network in two at a module: what comes behind can then run again without what comes before."""

from torch import fx, nn


class _Tracer(fx.Tracer):
    """Follow a network's forward, with one module kept whole."""

    def __init__(self, whole: str):
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Stop at the layers of torch, and at the module that must stay."""
        return module_qualified_name == self.whole or super().is_leaf_module(m, module_qualified_name)


def tail(network: nn.Module, name: str) -> nn.Module | None:
    """Return what the module `name` and all behind it make of that module's input; weights are shared.

    Of several outputs of the network it gives the first. None where there is no such network: its forward cannot be
    traced, the module runs more or less than once, or a shortcut leads around it.
    """
    try:
        graph = _Tracer(name).trace(network)
    except Exception:  # a user's own forward may do what tracing cannot follow
        return None
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    entries = [node for call in calls for node in call.all_input_nodes]
    if len(entries) != 1 or sum(user.op != "output" for user in entries[0].users) != 1:
        return None
    (result,) = (node.args[0] for node in graph.nodes if node.op == "output")
    result = result[0] if isinstance(result, tuple | list) else result
    behind = fx.Graph()
    copies = {entries[0]: behind.placeholder("x")}
    constants: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or node in copies:
            continue
        if all(one in constants for one in node.all_input_nodes):
            constants.add(node)
        elif any(one in copies and one not in constants for one in node.all_input_nodes):
            if any(one not in copies and one not in constants for one in node.all_input_nodes):
                return None
            _copy(node, behind, copies)
    if result not in copies:
        return None
    behind.output(copies[result])
    return fx.GraphModule(network, behind).eval()


def _copy(node: fx.Node, graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> None:
    """Copy a node, and first the constants it needs."""
    for one in node.all_input_nodes:
        if one not in copies:
            _copy(one, graph, copies)
    copies[node] = graph.node_copy(node, copies.__getitem__)
