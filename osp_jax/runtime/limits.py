"""System limits that a command needs, checked at its start."""

from osp_jax.runtime.errors import InputError

_NEEDED = 128  # open files: Orbax and TensorStore use up to 45 for ResNet-18, array_record one per shard
_WANTED = 4096  # enough for the 1,024 shards of ImageNet, four times


def require_open_files() -> None:
    """Raises the soft limit on open files as far as the system allows, up to a few thousand.

    Raises:
      InputError: the limit is too low to train or to read a data set.
    """
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _WANTED:
        return
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # some systems have a lower limit than they report
        wanted = soft
    if max(wanted, soft) < _NEEDED:
        raise InputError(
            f"at most {wanted} files may be open at once and {_NEEDED} are needed; raise the limit: ulimit -n {_WANTED}"
        )
