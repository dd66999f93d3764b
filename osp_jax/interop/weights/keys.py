"""Matches the keys of a weight file with those of a network: one prefix may differ, other differences are errors."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from osp_jax.runtime.errors import InputError, shown

_Parts = tuple[str, ...]
_Shapes = Mapping[str, Sequence[int]]

# Counters that PyTorch, or a profiler for it, keeps in layers and that no network reads.
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
# Collections that Flax users store next to the variables of a network, as the first part of a key.
_BESIDE = re.compile(r"step|epoch|opt|opt_\w+|optim\w*|key|dropout\w*|ema\w*|metrics\w*|loss\w*|dynamic_scale|config")
_RANDOM = re.compile(r"rngs?|\w+_rngs?|rng_\w+")  # random state, anywhere in a key
# Parts of keys from PyTorch wrappers: DataParallel, torch.compile, FSDP, activation checkpoints, DeepSpeed.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# If a file holds the network under several prefixes, the one that consists of these parts only is used.
_USUAL = (*_WRAPPERS, "model", "net", "network", "params", "variables", "state")
_COLLECTIONS = ("params", "batch_stats")


@dataclass(frozen=True)
class _Match:
    """One interpretation of the keys: the file's keys by parts, the network's paths by parts.

    `copies` lists the prefixes under which the file holds the network, if none of them is preferred.
    """

    found: dict[_Parts, str]
    asked: dict[_Parts, str]
    copies: tuple[str, ...] = ()

    @property
    def hits(self) -> int:
        return len(self.found.keys() & self.asked.keys())

    @property
    def missing(self) -> list[_Parts]:
        return [parts for parts in self.asked if parts not in self.found and parts[-1] not in _COUNTERS]


def matched(keys_in_file: _Shapes, wanted: _Shapes, where: str) -> dict[str, str]:
    """Finds the key in a file for each variable of a network.

    Keys are compared part by part ('layer1.0.conv1.weight', 'params/Dense_0/kernel'). All keys of the file may have a
    prefix that those of the network lack ('module.', 'model.'), or the reverse ('params/'). Parts from wrappers
    ('_orig_mod', 'module') may be anywhere, 'value' (NNX) at the end. Counters such as `num_batches_tracked`, random
    state, and keys without the prefix are not compared.

    Args:
      keys_in_file: shape by key in the file.
      wanted: shape by path of each variable of the network.
      where: name of the file, for messages.

    Returns:
      Key in the file by path, in the order of `wanted`. A counter that the file lacks is left out.

    Raises:
      InputError: a variable is missing or has another shape, or the file has variables that the network lacks. The
        message names the first one, their number, and the remedy.
    """
    match = _best(keys_in_file, wanted)
    if match.copies and not match.missing:
        raise InputError(
            f"{where} holds the network {len(match.copies)} times, under {' and '.join(map(shown, match.copies[:2]))}; "
            "save one of them alone"
        )
    keys = {path: match.found[parts] for parts, path in match.asked.items() if parts in match.found}
    extra = [key for parts, key in match.found.items() if parts not in match.asked and not _is_beside(parts, key)]
    other = [path for path, key in keys.items() if tuple(keys_in_file[key]) != tuple(wanted[path])]
    if missing := [match.asked[parts] for parts in match.missing]:
        raise _missing(where, missing, extra, keys_in_file, wanted)
    if other:
        raise _misshapen(where, other, keys, keys_in_file, wanted)
    if extra:
        raise InputError(
            f"{where} has {_many(len(extra), 'key')} that the network does not have, {shown(extra[0])} first; "
            "the network of --network is another one, or remove these keys from the file"
        )
    return keys


def outside(keys_in_file: Collection[str], used: Collection[str]) -> list[str]:
    """The shortest prefixes of the file's other keys that no used key has; counters are left out."""
    known = {key[: end.start()] for key in used for end in re.finditer(r"[./]|$", key)}
    found = []
    for key in keys_in_file:
        if key not in used and _last(key) not in _COUNTERS:
            beginnings = [key[: end.start()] for end in re.finditer(r"[./]|$", key)]
            found.append(next((beginning for beginning in beginnings if beginning not in known), key))
    return found


def _best(keys_in_file: _Shapes, wanted: _Shapes) -> _Match:
    """The first interpretation of the keys in which nothing is missing, else the one with the most matching keys."""
    best = None
    for read_file in (_as_it_is, _without_value, _unwrapped):
        for read_network in (_as_it_is, _merged, _unwrapped):
            file, network = _readings(keys_in_file, read_file), _readings(wanted, read_network)
            if file is None or network is None:
                continue
            match = _aligned(file, network, keys_in_file, wanted)
            if not match.missing:
                return match
            if best is None or match.hits > best.hits:
                best = match
    return best or _Match({(key,): key for key in keys_in_file}, {(path,): path for path in wanted})


def _as_it_is(parts: _Parts) -> _Parts:
    return parts


def _without_value(parts: _Parts) -> _Parts:
    """Drops the 'value' at the end of NNX variables."""
    return parts[:-1] if parts[-1] in ("value", "raw_value") and len(parts) > 1 else parts


def _merged(parts: _Parts) -> _Parts:
    """Drops the collection, since the state of an NNX module holds all collections together."""
    return parts[1:] if parts[0] in _COLLECTIONS and len(parts) > 1 else parts


def _unwrapped(parts: _Parts) -> _Parts:
    return tuple(part for part in parts if part not in _WRAPPERS) or parts


def _readings(keys: _Shapes, read: Callable[[_Parts], _Parts]) -> dict[_Parts, str] | None:
    """Keys by their parts; None if two of them coincide."""
    readings = {read(tuple(re.split(r"[./]", key))): key for key in keys}
    return readings if len(readings) == len(keys) else None


def _aligned(file: dict[_Parts, str], network: dict[_Parts, str], keys_in_file: _Shapes, wanted: _Shapes) -> _Match:
    """The match after removing the prefixes, of the file's keys and of the network's, that match the most keys."""
    best = None
    for inner in _beginnings(network):
        asked = {
            parts[len(inner) :] if parts[: len(inner)] == inner else parts: path for parts, path in network.items()
        }
        if len(asked) < len(network):
            continue
        prefix, copies = _prefix(file, asked, keys_in_file, wanted)
        found = {parts[len(prefix) :]: key for parts, key in file.items() if parts[: len(prefix)] == prefix}
        match = _Match(found, asked, copies)
        if best is None or match.hits > best.hits:
            best = match
    return best


def _prefix(
    file: dict[_Parts, str], asked: dict[_Parts, str], keys_in_file: _Shapes, wanted: _Shapes
) -> tuple[_Parts, tuple[str, ...]]:
    """The prefix of the file's keys at which the network's keys begin, and all such prefixes if none is preferred."""
    votes, fitting = Counter(), Counter()
    for parts, key in file.items():
        for at in range(len(parts)):
            path = asked.get(parts[at:])
            if path is not None and parts[-1] not in _COUNTERS:
                votes[parts[:at]] += 1
                fitting[parts[:at]] += tuple(keys_in_file[key]) == tuple(wanted[path])
    if not votes:
        return (), ()
    best = max((votes[prefix], fitting[prefix]) for prefix in votes)
    leaders = sorted((prefix for prefix in votes if (votes[prefix], fitting[prefix]) == best), key=_rank)
    alike = len(leaders) > 1 and not all(part in _USUAL for part in leaders[0])
    return leaders[0], tuple(".".join(prefix) for prefix in leaders) if alike else ()


def _rank(prefix: _Parts) -> tuple[bool, int, _Parts]:
    return not all(part in _USUAL for part in prefix), len(prefix), prefix


def _beginnings(network: dict[_Parts, str]) -> list[_Parts]:
    """Every common prefix of a network's keys, the empty one first, and 'params' of Flax."""
    first, last = min(network, default=()), max(network, default=())
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    beginnings = [first[:length] for length in range(shared + 1)]
    return beginnings if ("params",) in beginnings else [*beginnings, ("params",)]


def _is_beside(parts: _Parts, key: str) -> bool:
    """Whether a key of the file is not a variable: a counter, random state, or training state in Flax."""
    return (
        parts[-1] in _COUNTERS
        or any(_RANDOM.fullmatch(part) for part in parts)
        or ("." not in key and _BESIDE.fullmatch(parts[0]) is not None)
    )


def _missing(where: str, missing: list[str], extra: list[str], keys_in_file: _Shapes, wanted: _Shapes) -> InputError:
    first, another = missing[0], "the network of --network is another one"
    if re.search(r"-\d+-of-\d+", where):
        return InputError(f"{where} is one of several parts, and lacks {shown(first)}; join all parts to one file")
    if len(missing) == sum(_last(path) not in _COUNTERS for path in wanted):
        held = f"it begins with {shown(next(iter(keys_in_file)))}" if keys_in_file else "it is empty"
        return InputError(f"{where} has no key of the network, as {shown(first)}: {held}; {another}")
    if all(path.startswith("batch_stats") for path in missing):
        return InputError(
            f"{where} lacks {len(missing)} of the network's {len(wanted)} keys, {shown(first)} first; save the "
            "statistics of the normalisations, too: {'params': ..., 'batch_stats': ...}"
        )
    if any(key.endswith((f"{first}_orig", f"{first}_mask")) for key in extra):
        remedy = "end the pruning before you save: torch.nn.utils.prune.remove(module, 'weight')"
    elif near := _near(first, extra, keys_in_file, wanted[first]):
        remedy = f"the file has {shown(near)}: rename it, or {another}"
    else:
        remedy = f"{another}, or the file is not complete"
    return InputError(
        f"{where} lacks {len(missing)} of the network's {len(wanted)} keys, {shown(first)} first; {remedy}"
    )


def _near(path: str, extra: list[str], keys_in_file: _Shapes, shape: Sequence[int]) -> str | None:
    """The key of the file that is most similar to a path, among those of its shape if there are any."""
    fitting = [key for key in extra if tuple(keys_in_file[key]) == tuple(shape)]
    near = difflib.get_close_matches(path, fitting, 1, 0.5) or difflib.get_close_matches(path, extra, 1, 0.8)
    return near[0] if near else None


def _misshapen(
    where: str, other: list[str], keys: Mapping[str, str], keys_in_file: _Shapes, wanted: _Shapes
) -> InputError:
    first = other[0]
    in_file, in_network = tuple(keys_in_file[keys[first]]), tuple(wanted[first])
    if len(other) <= 2 and len({path[: -len(_last(path))] for path in other}) == 1 and _one_axis(in_file, in_network):
        remedy = _other_size(first, in_file, in_network)
    elif len(in_file) > 1 and in_file == in_network[::-1]:
        remedy = "its axes are the other way round: transpose it, or give the network that the file is of"
    else:
        remedy = "the network of --network is another one"
    return InputError(
        f"{where} has {_many(len(other), 'key')} of another shape, {shown(keys[first])} first: {in_file} in the file, "
        f"{in_network} in the network; {remedy}"
    )


def _one_axis(in_file: tuple[int, ...], in_network: tuple[int, ...]) -> bool:
    return len(in_file) == len(in_network) and sum(a != b for a, b in zip(in_file, in_network, strict=True)) == 1


def _other_size(path: str, in_file: tuple[int, ...], in_network: tuple[int, ...]) -> str:
    """The remedy if one layer differs in one axis."""
    axis = next(at for at, (a, b) in enumerate(zip(in_file, in_network, strict=True)) if a != b)
    if "pos" in path.lower():
        return "is the network for images of another size? build it for the size that the file is for"
    if len(in_file) == 4 and {in_file[axis], in_network[axis]} <= {1, 2, 3, 4}:
        return "do the images have another number of channels? build the network for as many as the file has"
    return "is the head of another size? build the network for as many classes as the file has"


def _last(path: str) -> str:
    return re.split(r"[./]", path)[-1]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
