"""Which parameters gate a channel, read off the network's own program.

A gain between 0 and 1 on a channel must stand where the channel is produced: on the last affine map before its ReLU,
that is on scale and bias of a norm, or on kernel and bias of a convolution or dense layer that has none. (A gain on a
kernel in front of an eval-mode batch norm does not scale the channel.) In a residual stream several maps write the
same channel, so they share one gain.

Instead of a table for each network, the eval-mode program is traced, the outputs of its affine modules are
followed to their ReLU, and those that are added on the way form one group. That holds for any Linen module whose
layers are Flax's own and whose activation is ReLU, and no module needs to be edited.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from osp_jax.errors import InputError

_NORMS = (nn.BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm, nn.RMSNorm)
_LINEAR = (nn.Conv, nn.ConvTranspose, nn.Dense)

# Operations that a factor on a channel passes through unchanged, so that it may stand before or after them.
_HOMOGENEOUS = frozenset(
    "broadcast_in_dim convert_element_type copy div expand_dims gather mul name optimization_barrier pad "
    "reduce_max reduce_precision reduce_sum reduce_window_max reduce_window_sum reshape sharding_constraint slice "
    "squeeze stop_gradient transpose".split()
)


@dataclasses.dataclass(frozen=True)
class Writer:
    """An affine module that writes a group's channels.

    `leaves` are the parameters whose product with the gain gates the channel (last axis); `kernel` is the path of the
    module whose kernel makes the channel: the module itself, or the one that feeds the norm ('' if unknown).
    """

    path: str
    leaves: tuple[str, ...]
    kernel: str


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels under one mask: `name` is the path of the last module that writes them."""

    name: str
    channels: int
    writers: tuple[Writer, ...]


@dataclasses.dataclass(frozen=True)
class Channels:
    """The groups of a network from input to output, and the path of the module that gives the logits."""

    groups: tuple[ChannelGroup, ...]
    head: str


@dataclasses.dataclass
class _Flow:
    """What is known of a value: which modules wrote its channels, and whether it has passed a ReLU since."""

    writers: frozenset[str]
    active: bool = False


@dataclasses.dataclass
class _Trace:
    """What a walk through the program gathers."""

    parent: dict[str, str] = dataclasses.field(default_factory=dict)  # union-find over writers
    blocked: dict[str, str] = dataclasses.field(default_factory=dict)  # writer -> the operation in the way
    inputs: dict[str, tuple[_Flow | None, Any]] = dataclasses.field(default_factory=dict)  # module -> what it reads
    activations: list[tuple[str, Any, Any]] = dataclasses.field(default_factory=list)  # (a writer, aval, value)

    def root(self, writer: str) -> str:
        while self.parent[writer] != writer:
            writer = self.parent[writer]
        return writer

    def union(self, writers: frozenset[str]) -> None:
        roots = sorted({self.root(w) for w in writers}, key=list(self.parent).index)
        for other in roots[1:]:
            self.parent[other] = roots[0]


def find_channels(model: nn.Module, variables: dict[str, Any], images: jax.Array) -> Channels:
    """The channel groups of `model`.

    Args:
      images: normalised, `(batch, h, w, c)`; only shape and dtype count.

    Raises:
      InputError: no channel of the network can be gated.
    """
    trace, outputs = _walk_model(model, variables, images, evaluate=False)
    params = variables["params"]
    groups: dict[str, ChannelGroup] = {}
    for writer, aval, _ in trace.activations:
        root = trace.root(writer)
        paths = [path for path in trace.parent if trace.root(path) == root]
        writers = [_writer(path, params, trace) for path in paths]
        groups.pop(root, None)  # a stream is where its last activation is
        if all(w is not None and w.path not in trace.blocked for w in writers):
            groups[root] = ChannelGroup(paths[-1], aval.shape[-1], tuple(writers))
    heads = [path for flow in outputs if flow is not None for path in flow.writers]
    if not groups or not heads:
        reasons = sorted(set(trace.blocked.values())) or ["no ReLU follows a Flax layer"]
        raise InputError(
            f"no channel of {type(model).__name__} can be gated ({', '.join(reasons)} between layer and ReLU); "
            "use a network of Flax layers followed by ReLU"
        )
    return Channels(tuple(groups.values()), heads[-1])


def capture(
    model: nn.Module, variables: dict[str, Any], images: jax.Array, channels: Channels
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """One eval-mode forward pass with what it computed on the way; jittable.

    Returns:
      logits `(batch, classes)`; the post-ReLU value of each group by name, `(batch, ..., channels)`, for a residual
      stream its last; the input of the head, `(batch, ..., features)`.
    """
    trace, logits = _walk_model(model, variables, images, evaluate=True)
    values = {trace.root(writer): value for writer, _, value in trace.activations}
    activations = {group.name: values[trace.root(group.name)] for group in channels.groups}
    return logits[0], activations, trace.inputs[channels.head][1]


def _writer(path: str, params: Any, trace: _Trace) -> Writer | None:
    for name in path.split("/"):
        params = params.get(name, {})
    if "scale" in params:  # a norm; its input tells which kernel makes the channel
        source = trace.inputs[path][0]
        kernel = next(iter(source.writers)) if source and len(source.writers) == 1 and not source.active else ""
        return Writer(path, tuple(leaf for leaf in ("scale", "bias") if leaf in params), kernel)
    if "kernel" in params:
        return Writer(path, tuple(leaf for leaf in ("kernel", "bias") if leaf in params), path)
    return None  # a norm without scale cannot carry a gain


def _walk_model(model: nn.Module, variables: Any, images: jax.Array, *, evaluate: bool) -> tuple[_Trace, list[Any]]:
    """Walks the traced program; the second result is the outputs' flows, or their values if `evaluate`."""

    def mark(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name != "__call__" or not isinstance(context.module, (*_NORMS, *_LINEAR)):
            return next_fun(*args, **kwargs)
        path = "/".join(context.module.path)
        return checkpoint_name(next_fun(checkpoint_name(args[0], f"in:{path}"), *args[1:], **kwargs), f"out:{path}")

    def apply(variables: Any, images: jax.Array) -> jax.Array:
        with nn.intercept_methods(mark):
            return model.apply(variables, images, False)

    program = jax.make_jaxpr(apply)(variables, images)
    arguments = jax.tree.leaves((variables, images)) if evaluate else [None] * len(program.jaxpr.invars)
    trace = _Trace()
    pairs = _walk(program.jaxpr, program.consts, [(value, None) for value in arguments], trace, evaluate)
    return trace, [value if evaluate else flow for value, flow in pairs]


def _walk(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], trace: _Trace, evaluate: bool) -> list[Any]:
    """Interprets a jaxpr over pairs (value or None, flow or None)."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {var: (const, None) for var, const in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> tuple[Any, _Flow | None]:
        return (atom.val, None) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        inner = _called(eqn)
        if inner is not None:  # jit, custom_jvp and the like are walked through
            results = _walk(*inner, operands, trace, evaluate)
        else:
            values = [None] * len(eqn.outvars)
            if evaluate:
                bound = eqn.primitive.bind(*(value for value, _ in operands), **eqn.params)
                values = bound if eqn.primitive.multiple_results else [bound]
            flow = _flow(eqn, [flow for _, flow in operands], values[0], trace)
            results = [(value, flow) for value in values]
        known |= zip(eqn.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _called(eqn: Any) -> tuple[Any, Sequence[Any]] | None:
    """(jaxpr, consts) of an equation that only calls another program once."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    inner = next((eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params), None)
    if inner is None:
        return None
    jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
    return (jaxpr, consts) if len(jaxpr.invars) == len(eqn.invars) else None


def _flow(eqn: Any, flows: list[_Flow | None], value: Any, trace: _Trace) -> _Flow | None:
    """The flow of an equation's result; unions, inputs, activations and obstacles go into `trace`."""
    name, carried = eqn.primitive.name, [flow for flow in flows if flow is not None]
    if name == "name":
        kind, _, path = eqn.params["name"].partition(":")
        if kind == "in":
            trace.inputs[path] = (flows[0], value)
            # A linear layer starts afresh; into a norm the flow goes on, to be blocked there.
        elif kind == "out":
            trace.parent.setdefault(path, path)
            return _Flow(frozenset([path]))
        return flows[0]
    if not carried:
        return None
    writers = frozenset().union(*(flow.writers for flow in carried))
    kept = name not in ("pad", "slice") or eqn.invars[0].aval.shape[-1] == eqn.outvars[0].aval.shape[-1]
    if len(carried) == 1 and name in _HOMOGENEOUS and kept and not (name == "div" and flows[0] is None):
        return carried[0]
    if len(carried) == 2 and name in ("add", "add_any", "max") and _same_channels(eqn):
        trace.union(writers)
        return _Flow(writers, carried[0].active and carried[1].active)
    if name == "max" and any(isinstance(atom, Literal) and atom.val == 0 for atom in eqn.invars):
        if not carried[0].active:
            trace.activations.append((next(iter(writers)), eqn.outvars[0].aval, value))
        return _Flow(writers, active=True)
    if name not in ("dot_general", "conv_general_dilated"):
        trace.blocked |= {path: name for flow in carried if not flow.active for path in flow.writers}
    return None


def _same_channels(eqn: Any) -> bool:
    first, second = (atom.aval.shape for atom in eqn.invars)
    return bool(first) and bool(second) and first[-1] == second[-1]
