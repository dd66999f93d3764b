"""Keys of a weight file against those of a network: one prefix may differ, any other difference is named."""

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from osp_jax.runtime.errors import InputError, shown

_Key = tuple[str, ...]

# Counters that PyTorch keeps beside a normalisation, and no network reads.
_COUNTERS = "num_batches_tracked"
# What Flax keeps beside the variables of a network, as the first part of a key.
_BESIDE = re.compile(r"step|epoch|opt|opt_\w+|optim\w*|rng\w*|key|dropout\w*|ema\w*|metrics\w*|loss\w*|dynamic_scale")
# Parts of keys that wrappers of PyTorch put in: DataParallel, torch.compile, FSDP, activation checkpoints, Lightning.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# Where a file holds the network several times, under these prefixes, the first is taken.
_USUAL = ("", "module", "_orig_mod", "model", "net", "network", "params", "variables", "state")


def matched(
    keys_in_file: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]], where: str
) -> dict[str, str]:
    """Finds the key in a file of each variable of a network.

    Keys are compared part by part ('layer1.0.conv1.weight', 'params/Dense_0/kernel'). One prefix of the file's keys may
    be missing in the network's ('module.', 'model.'), and the other way round ('params/'); parts that wrappers put
    in ('_orig_mod', 'module') may stand anywhere. Of what lies outside the prefix, and of the state of an optimiser,
    nothing is asked, nor of the counters `num_batches_tracked`.

    Args:
      keys_in_file: shape by key in the file.
      wanted: shape by path of each variable of the network.
      where: the file, for messages.

    Returns:
      Key in the file by path, in the order of `wanted`. A counter that the file lacks is left out.

    Raises:
      InputError: a variable is missing or has another shape, or the file has variables that the network has not. The
        message names the first one, how many there are, and the remedy.
    """
    file, network = {_parts(key): key for key in keys_in_file}, {_parts(path): path for path in wanted}
    prefix, inner = _prefixes(file, network, where)
    found = _under(file, prefix)
    if not _needed(network, inner) <= found.keys():
        # Wrappers inside: 'features.module.0.weight'.
        bare_file, bare_network = _unwrapped(file), _unwrapped(network)
        if bare_file and bare_network:
            bare_prefix, bare_inner = _prefixes(bare_file, bare_network, where)
            bare = _under(bare_file, bare_prefix)
            if _hits(bare, bare_network, bare_inner) > _hits(found, network, inner):
                file, network, prefix, inner, found = bare_file, bare_network, bare_prefix, bare_inner, bare
    asked = {parts[len(inner) :] if parts[: len(inner)] == inner else parts: path for parts, path in network.items()}
    missing = [parts for parts in asked if parts not in found and parts[-1:] != (_COUNTERS,)]
    extra = [
        parts
        for parts in found
        if parts not in asked and parts[-1:] != (_COUNTERS,) and (prefix or inner or not _BESIDE.fullmatch(parts[0]))
    ]
    keys = {path: found[parts] for parts, path in asked.items() if parts in found}
    other = [path for path, key in keys.items() if tuple(keys_in_file[key]) != tuple(wanted[path])]
    if missing:
        raise _missing(where, [asked[parts] for parts in missing], [found[parts] for parts in extra], len(asked))
    if other:
        raise _misshapen(where, other, keys, keys_in_file, wanted)
    if extra:
        raise InputError(
            f"{where} has {_many(len(extra), 'key')} that the network does not have, {shown(found[extra[0]])} first; "
            "the network of --network is another one, or remove these keys from the file"
        )
    return keys


def _parts(key: str) -> _Key:
    return tuple(re.split(r"[./]", key))


def _prefixes(file: Mapping[_Key, str], network: Mapping[_Key, str], where: str) -> tuple[_Key, _Key]:
    """(what the file's keys begin with, what the network's begin with), to be taken off: what lets most keys agree."""
    best: tuple[int, _Key, _Key] = (-1, (), ())
    for inner in _common(network):
        asked = {parts[len(inner) :] for parts in network if parts[: len(inner)] == inner}
        votes = Counter(
            parts[:at] for parts in file for at in range(len(parts)) if parts[at:] in asked and parts[-1] != _COUNTERS
        )
        if not votes:
            continue
        most = max(votes.values())
        leaders = sorted((prefix for prefix, count in votes.items() if count == most), key=_rank)
        if most > best[0]:
            if len(leaders) > 1 and _rank(leaders[0])[0] == len(_USUAL) and most > 1:
                names = " and ".join(shown(".".join(prefix)) for prefix in leaders[:2])
                raise InputError(
                    f"{where} holds the network {len(leaders)} times, under {names}; save one of them alone"
                )
            best = (most, leaders[0], inner)
    return best[1:]


def _rank(prefix: _Key) -> tuple[int, int, _Key]:
    name = ".".join(prefix)
    usual = [number for number, word in enumerate(_USUAL) if name == word or prefix[-1:] == (word,)]
    return (min(usual, default=len(_USUAL)), len(prefix), prefix)


def _common(network: Mapping[_Key, str]) -> list[_Key]:
    """The beginnings that all keys of a network share, the empty one first, and 'params' of Flax."""
    first, last = min(network, default=()), max(network, default=())
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    beginnings = [first[:length] for length in range(shared + 1)]
    if ("params",) not in beginnings and any(parts[0] == "params" for parts in network):
        beginnings.append(("params",))
    return beginnings


def _under(file: Mapping[_Key, str], prefix: _Key) -> dict[_Key, str]:
    return {parts[len(prefix) :]: key for parts, key in file.items() if parts[: len(prefix)] == prefix}


def _needed(network: Mapping[_Key, str], inner: _Key) -> set[_Key]:
    return {
        parts[len(inner) :] if parts[: len(inner)] == inner else parts
        for parts in network
        if parts[-1:] != (_COUNTERS,)
    }


def _hits(found: Mapping[_Key, str], network: Mapping[_Key, str], inner: _Key) -> int:
    return len(_needed(network, inner) & found.keys())


def _unwrapped(keys: Mapping[_Key, str]) -> dict[_Key, str]:
    """The keys without the parts that wrappers put in; nothing where two keys become one."""
    bare = {tuple(part for part in parts if part not in _WRAPPERS): key for parts, key in keys.items()}
    return bare if len(bare) == len(keys) else {}


def _missing(where: str, missing: list[str], extra: list[str], count: int) -> InputError:
    first = missing[0]
    if len(missing) == count:
        held = f"it has {shown(extra[0])}" if extra else "it has none of its keys"
        return InputError(
            f"{where} has no key of the network, whose first is {shown(first)}, and {held}; "
            "the network of --network is another one"
        )
    if all(_parts(path)[0] == "batch_stats" for path in missing):
        return InputError(
            f"{where} lacks the {_many(len(missing), 'array')} of batch_stats, {shown(first)} first; "
            "save {'params': ..., 'batch_stats': ...}"
        )
    near = difflib.get_close_matches(first, extra, 1, 0.8)
    hint = f" (it has {shown(near[0])})" if near else ""
    pruned = {f"{first}_orig", f"{first}_mask"} & set(extra) or [key for key in extra if key.endswith(f"{first}_orig")]
    remedy = (
        "remove the pruning before you save: torch.nn.utils.prune.remove(module, 'weight')"
        if pruned
        else "the network of --network is another one, or the file is not whole"
    )
    return InputError(
        f"{where} lacks {_many(len(missing), 'key')} of the network, {shown(first)} first{hint}; {remedy}"
    )


def _misshapen(
    where: str,
    other: list[str],
    keys: Mapping[str, str],
    keys_in_file: Mapping[str, Sequence[int]],
    wanted: Mapping[str, Sequence[int]],
) -> InputError:
    first = other[0]
    in_file, in_network = tuple(keys_in_file[keys[first]]), tuple(wanted[first])
    owners = {_parts(path)[:-1] for path in other}
    if len(owners) == 1 and owners <= {_parts(path)[:-1] for path in list(wanted)[-3:]}:
        remedy = "is the head of another size? build the network with as many classes as the file has"
    elif len(in_file) > 1 and in_file == in_network[::-1]:
        remedy = "its axes are the other way round; transpose it, or give the network that the file is of"
    else:
        remedy = "the network of --network is another one"
    return InputError(
        f"{where} has {_many(len(other), 'key')} of another shape, {shown(keys[first])} first: {in_file} in the file, "
        f"{in_network} in the network; {remedy}"
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
