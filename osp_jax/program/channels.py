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
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from osp_jax.networks import variable_shapes
from osp_jax.runtime.errors import InputError

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

    `leaves` are the parameters whose product with the gain gates the channel (last axis). `kernel` is the path of the
    module whose kernel makes this channel and nothing else, so that it may be erased with it: the module itself, or the
    one that feeds the norm; '' where something else reads it too, or the norm mixes channels.
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
    """The groups of a network from input to output, the path of the module that gives the logits, and the name of the
    group it reads ('' where it reads something that is none)."""

    groups: tuple[ChannelGroup, ...]
    head: str
    features: str

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Once: every call of a program in which these are static asks for it, and there are many names in it."""
        return hash((self.groups, self.head, self.features))

    @property
    def last(self) -> ChannelGroup:
        """The group that the head reads.

        Raises:
          InputError: it reads none.
        """
        for group in self.groups:
            if group.name == self.features:
                return group
        raise InputError(f"{self.head}, which gives the logits, does not read a ReLU's channels; name layers instead")


@dataclasses.dataclass
class _Flow:
    """What is known of a value: which modules wrote its channels, whether it has passed a ReLU since, and whether its
    last axis is the channels still."""

    writers: frozenset[str]
    active: bool = False
    aligned: bool = True


@dataclasses.dataclass
class _Trace:
    """What a walk through the program gathers."""

    parent: dict[str, str] = dataclasses.field(default_factory=dict)  # union-find over writers
    blocked: dict[str, str] = dataclasses.field(default_factory=dict)  # writer -> the first operation in the way
    uses: Counter[str] = dataclasses.field(default_factory=Counter)  # of a writer's own output, before any ReLU
    by_channel: set[str] = dataclasses.field(default_factory=set)  # norms that treat each channel by itself
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
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (variables, images))
    leaves, structure = jax.tree.flatten(shapes)
    return _find_channels(model, tuple(leaves), structure)


@lru_cache(maxsize=32)
def _find_channels(model: nn.Module, leaves: tuple[jax.ShapeDtypeStruct, ...], structure: Any) -> Channels:
    """Once a network: tracing it takes longer than a batch of a small one."""
    variables, images = jax.tree.unflatten(structure, leaves)
    trace, outputs = _walk_model(model, variables, images, evaluate=False)
    params = variables["params"]
    groups: dict[str, ChannelGroup] = {}
    for writer, aval, _ in trace.activations:
        root = trace.root(writer)
        paths = [path for path in trace.parent if trace.root(path) == root]
        writers = [_writer(path, aval.shape[-1], params, trace) for path in paths]
        groups.pop(root, None)  # a stream is where its last activation is
        if all(w is not None and w.path not in trace.blocked for w in writers):
            groups[root] = ChannelGroup(paths[-1], aval.shape[-1], tuple(writers))
    heads = [path for path in trace.parent if any(flow and path in flow.writers for flow in outputs)]
    if not groups or not heads:
        reasons = sorted(set(trace.blocked.values())) or ["no ReLU follows a Flax layer"]
        raise InputError(
            f"no channel of {type(model).__name__} can be gated ({', '.join(reasons)} between layer and ReLU); "
            "use a network of Flax layers followed by ReLU"
        )
    read = trace.inputs[heads[-1]][0]
    roots = {trace.root(path) for path in read.writers} if read and read.active else set()
    features = [group.name for root, group in groups.items() if root in roots]
    return Channels(tuple(groups.values()), heads[-1], features[0] if features else "")


@lru_cache(maxsize=8)
def channels_of(model: nn.Module, image_shape: tuple[int, int, int]) -> Channels:
    """`find_channels`, once a network: they follow from its shapes."""
    variables = variable_shapes(model, image_shape)
    return find_channels(model, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def capture(
    model: nn.Module, variables: dict[str, Any], images: jax.Array, channels: Channels
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """One eval-mode forward pass with what it computed on the way; jittable.

    Returns:
      logits `(batch, classes)`; the post-ReLU value of each group by name, `(batch, ..., channels)`, for a residual
      stream its last; the input of the head, `(batch, ..., features)`.
    """
    trace, logits = _walk_model(model, variables, images, evaluate=True)
    return logits[0], _activations(trace, channels), trace.inputs[channels.head][1]


def capture_inputs(
    model: nn.Module, variables: dict[str, Any], images: jax.Array, channels: Channels, paths: Sequence[str]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The post-ReLU value of the last group, and what each of the Flax layers `paths` reads; as `capture`."""
    trace, _ = _walk_model(model, variables, images, evaluate=True)
    return _activations(trace, channels)[channels.last.name], {path: trace.inputs[path][1] for path in paths}


def _activations(trace: _Trace, channels: Channels) -> dict[str, jax.Array]:
    values = {trace.root(writer): value for writer, _, value in trace.activations}
    return {group.name: values[trace.root(group.name)] for group in channels.groups}


def _writer(path: str, channels: int, params: Any, trace: _Trace) -> Writer | None:
    """None where no parameter can carry the gains, one for each of `channels`."""
    for name in path.split("/"):
        params = params.get(name, {})
    if "scale" in params:  # a norm; its input tells which kernel makes the channel
        source = trace.inputs[path][0]
        alone = source and not source.active and len(source.writers) == 1 and path in trace.by_channel
        kernel = next(iter(source.writers)) if alone else ""
        leaves, kernel = ("scale", "bias"), kernel if trace.uses[kernel] == 1 else ""
    elif "kernel" in params:
        leaves, kernel = ("kernel", "bias"), path
    else:
        return None
    leaves = tuple(leaf for leaf in leaves if leaf in params)
    return Writer(path, leaves, kernel) if all(params[leaf].shape[-1] == channels for leaf in leaves) else None


def _walk_model(model: nn.Module, variables: Any, images: jax.Array, *, evaluate: bool) -> tuple[_Trace, list[Any]]:
    """Walks the traced program; the second result is the outputs' flows, or their values if `evaluate`."""

    trace = _Trace()

    def mark(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        known = isinstance(module, (*_NORMS, *_LINEAR)) and getattr(module, "axis", -1) in (-1, (-1,), args[0].ndim - 1)
        if context.method_name != "__call__" or not known:
            return next_fun(*args, **kwargs)
        path = "/".join(module.path)
        if isinstance(module, (nn.BatchNorm, nn.InstanceNorm)):
            trace.by_channel.add(path)
        return checkpoint_name(next_fun(checkpoint_name(args[0], f"in:{path}"), *args[1:], **kwargs), f"out:{path}")

    def apply(variables: Any, images: jax.Array) -> jax.Array:
        with nn.intercept_methods(mark):
            return model.apply(variables, images, False)

    program = jax.make_jaxpr(apply)(variables, images)
    arguments = jax.tree.leaves((variables, images)) if evaluate else [None] * len(program.jaxpr.invars)
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
    kind, _, path = eqn.params["name"].partition(":") if name == "name" else ("", "", "")
    if kind == "out":
        trace.parent.setdefault(path, path)
        return _Flow(frozenset([path]))
    if kind == "in":
        trace.inputs[path] = (flows[0], value)
        _count_use(carried, trace)
        return None  # what the layer makes of it is its own
    if not carried:
        return None
    if len(carried) == 1 and name in _HOMOGENEOUS and not (name == "div" and flows[0] is None):
        aligned = carried[0].aligned and _keeps_last_axis(eqn)
        if aligned or carried[0].active:  # behind the ReLU a rearranged value may still be read, though not added to
            return dataclasses.replace(carried[0], aligned=aligned)
    _count_use(carried, trace)
    writers = frozenset().union(*(flow.writers for flow in carried))
    aligned = all(flow.aligned for flow in carried)
    if len(carried) == 2 and name in ("add", "add_any", "max") and aligned and _same_channels(eqn):
        trace.union(writers)
        return _Flow(writers, carried[0].active and carried[1].active)
    if name == "max" and any(isinstance(atom, Literal) and atom.val == 0 for atom in eqn.invars):
        if not carried[0].active:
            trace.activations.append((next(iter(writers)), eqn.outvars[0].aval, value))
        return _Flow(writers, active=True, aligned=aligned)
    if name not in ("dot_general", "conv_general_dilated"):
        for writer in (writer for flow in carried if not flow.active for writer in flow.writers):
            trace.blocked.setdefault(writer, name)
    return None


def _count_use(flows: list[_Flow], trace: _Trace) -> None:
    trace.uses.update(writer for flow in flows if not flow.active for writer in flow.writers)


def _same_channels(eqn: Any) -> bool:
    first, second = (atom.aval.shape for atom in eqn.invars)
    return bool(first) and bool(second) and first[-1] == second[-1]


def _keeps_last_axis(eqn: Any) -> bool:
    """Whether the last axis of the result is the last axis of the operand, as it was."""
    name, params = eqn.primitive.name, eqn.params
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if name in ("mul", "div"):
        return max(len(atom.aval.shape) for atom in eqn.invars) == len(after)
    if not before or not after or before[-1] != after[-1]:
        return False
    last = len(before) - 1
    if name == "transpose":
        return params["permutation"][-1] == last
    if name == "broadcast_in_dim":
        return params["broadcast_dimensions"][-1] == len(after) - 1
    if name in ("reduce_sum", "reduce_max"):
        return last not in params["axes"]
    if name == "squeeze":
        return last not in params["dimensions"]
    if name.startswith("reduce_window"):
        return params["window_dimensions"][-1] == 1
    if name == "pad":
        return tuple(params["padding_config"][-1]) == (0, 0, 0)
    return name != "gather"
