"""Invalid flags: every flag of every command."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.bad_configs import write_comparison, write_study
from benchmarks.faults.malformed import Case

# A valid call of each command, except for the flag that a case changes; None: its value must be given.
_CALLS = {
    "train": {"config": "tiny.py", "workdir": "new"},
    "import_model": {
        "network": "given/net.py:build",
        "weights": "given/weights.npz",
        "data": "digits",
        "mean": "0",
        "std": "1",
        "workdir": "new",
    },
    "unlearn": {"workdir": "model", "forget": "3", "accept": "true", "out": "new"},
    "eval": {"workdir": "unlearned", "audit": "none"},
    "export": {"workdir": "model", "out": "new.npz"},
    "sweep": {"workdir": "model", "methods": "logit-mask", "out": "new"},
    "shadows": {"workdir": "model", "forget": "3", "number": "4", "epochs": "1", "out": "new"},
    "audits": {"evaluations": "audits", "out": "new"},
    "orthogonality": {"models": "models", "out": "new"},
    "benchmark": {"config": "comparison.py", "workdir": "new"},
    "paper": {"workdir": "new", "minutes": "0.1"},
    "federated": {"config": "study.py", "workdir": "new"},
    "flower": {"config": "study.py", "workdir": "new"},
    "tables": {},
}
_NEEDS = {
    "import_model": ("given",),
    "unlearn": ("model",),
    "export": ("model",),
    "eval": ("model", "unlearned", "retrained", "shadows"),
    "sweep": ("model",),
    "shadows": ("model",),
    "audits": ("audits",),
}
_LONG = "x" * 100_000
_PATHS = ("", "plain", "circle", "plain/below", "x" * 5000, "new\udcff", "a\nb", "\x1b[31mred", _LONG)
_READ = (*_PATHS, "nowhere", "foreign", " ")
_CLASSES = ("", "99", "-1", "no-class", "0,1,2,3,4,5,6,7,8,9", ",", _LONG, "3.5", "nan", "\x07", "9" * 5000)
_NUMBERS = ("-1", "nan", "1.5", "x", "99999999999999999999", "", _LONG)
_LIMITS = ("-1", "101", "nan", "inf", "x", "", _LONG)
_METHODS = ("unknown", "", _LONG, "\x1b[31m", "osp\udcff")
_LISTS = ("", "unknown", "osp,osp", "osp,,osp-fit", ",", _LONG)
_OPTIONS = ("", "amount", "amount=", "unknown=1", "amount=nan", "amount=-1", "amount=inf", "amount=x", "=1", _LONG)

_FLAGS = {
    "train": {"workdir": _PATHS},
    "import_model": {
        "network": (
            *_READ,
            "given/net.py",
            "given/net.py:",
            "given/net.py:absent",
            "given/weights.npz:build",
            ":build",
        ),
        "weights": (*_READ, "given/net.py", "given"),
        "data": ("", "unknown_set", "folder:", "folder:nowhere", "folder:plain", "folder:foreign", "npz:", "npz:plain"),
        "mean": ("", "x", "nan", "125", "0,0", _LONG),
        "std": ("", "x", "nan", "0", "-1", "1,1"),
        "class_names": ("cat", "0,1,2", "0,0,1,2,3,4,5,6,7,8", _LONG),
        "exclude": tuple(text for text in _CLASSES if text.strip(",")),
        "image_size": ("-1", "x", "99999999999999999999"),
        "channels": ("2", "x"),
        "validation": ("-1", "1", "nan", "x"),
        "recipe": _READ[1:],
        "workdir": _PATHS,
    },
    "unlearn": {
        "workdir": _READ,
        "out": _PATHS,
        "forget": _CLASSES,
        "method": _METHODS,
        "option": (*_OPTIONS, "select=unknown", "erase=perhaps"),
        "seed": _NUMBERS,
        "retain_per_class": _NUMBERS,
        "forget_per_class": _NUMBERS,
        "max_retained_drop": _LIMITS,
        "max_forgotten": _LIMITS,
    },
    "eval": {
        "workdir": _READ,
        "reference": _READ,
        "original": _READ,
        "audit": ("", "half", "full", _LONG),
        "draws": (*_NUMBERS, "0"),
    },
    "export": {
        "workdir": _READ,
        "out": ("", "plain", "circle", "plain/below", "x" * 5000, "new\udcff", "a\nb", "foreign", _LONG),
        "format": ("unknown", "torch,npz", _LONG, "\x1b[31m"),
    },
    "sweep": {
        "workdir": _READ,
        "out": _PATHS,
        "methods": _LISTS,
        "option": ("", "amount=1", "osp:amount=1", "logit-mask:unknown=1", "unknown:amount=1", "logit-mask:", _LONG),
        "split": ("", "train", "validation"),
        "seed": _NUMBERS,
        "probes": ("perhaps",),
    },
    "shadows": {
        "workdir": _READ,
        "out": _PATHS,
        "forget": _CLASSES,
        "number": (*_NUMBERS, "0", "2", "5", "1000000000000"),
        "epochs": ("-1", "nan", "99999999999999999999", ""),
    },
    "audits": {"evaluations": _READ, "out": _PATHS},
    "orthogonality": {"models": _READ, "out": ("", "plain", "circle", "a\nb")},
    "benchmark": {"workdir": _PATHS, "seeds": ("", "x"), "methods": ("",)},
    "paper": {
        "workdir": _PATHS,
        "minutes": ("nan", "inf", "-1", "0", "x", ""),
        "entries": ("", "unknown", ",", _LONG),
    },
    "federated": {"workdir": _PATHS},
    "flower": {
        "workdir": _PATHS,
        "split": ("", "unknown", _LONG),
        "scenario": ("", "unknown", _LONG),
        "method": ("", "unknown", "fedortho:unknown=1", "fedortho:amount=nan", _LONG),
        "seed": _NUMBERS,
        "minutes": ("nan", "-1", "0", "x", ""),
    },
    "tables": {"check": ("perhaps",)},
}


def cases() -> list[Case]:
    return [*_bad_flags(), *_of_every_command(), *_full_audits(), *_of_prepare()]


def _bad_flags() -> list[Case]:
    found = []
    for command, flags in _FLAGS.items():
        for flag, values in flags.items():
            for value in values:
                arguments = _arguments(_CALLS[command] | {flag: value})
                name = f"flag/{command} --{flag}={_shown(value)}"
                found.append(Case(name, command, arguments, _NEEDS.get(command, ()), _spoil(command)))
    return found


def _of_every_command() -> list[Case]:
    found = []
    for command, given in _CALLS.items():
        extra = {
            "unknown flag": (*_arguments(given), "--unknown=1"),
            "unknown flag of a control character": (*_arguments(given), "--\x1b[31m=1"),
            "an argument": (*_arguments(given), "digits"),
            "an empty argument": (*_arguments(given), ""),
            "an argument of 100,000 characters": (*_arguments(given), _LONG),
            "an argument that is not UTF-8": (*_arguments(given), "\udcff"),
            "several processes": (*_arguments(given), "--coordinator=nowhere", "--num_processes=0", "--process_id=-1"),
            "patience": (*_arguments(given), "--patience=-1"),
        }
        extra |= {f"no --{flag}": _arguments(given, without=flag) for flag in given if flag in _REQUIRED[command]}
        found += [
            Case(f"flag/{command}: {what}", command, a, _NEEDS.get(command, ()), _spoil(command))
            for what, a in extra.items()
        ]
    return found


_REQUIRED = {
    "train": ("config", "workdir"),
    "import_model": ("network", "weights", "data", "mean", "std", "workdir"),
    "unlearn": ("workdir", "forget", "out"),
    "export": ("workdir", "out"),
    "eval": ("workdir",),
    "sweep": ("workdir", "out"),
    "shadows": ("workdir", "forget", "out"),
    "audits": ("evaluations", "out"),
    "orthogonality": ("models", "out"),
    "benchmark": ("config", "workdir"),
    "paper": ("workdir",),
    "federated": ("config", "workdir"),
    "flower": ("config", "workdir"),
    "tables": (),
}


def _full_audits() -> list[Case]:
    start, given = _NEEDS["eval"], ("--workdir=unlearned", "--audit=full")
    calls = {
        "no reference": given,
        "no shadows": (*given, "--reference=retrained"),
        "shadows nowhere": (*given, "--reference=retrained", "--shadows=nowhere"),
        "shadows foreign": (*given, "--reference=retrained", "--shadows=foreign"),
        "shadows a file": (*given, "--reference=retrained", "--shadows=plain"),
        "shadows of another recipe": (*given, "--reference=retrained", "--shadows=model"),
        "reference that saw the class": ("--workdir=unlearned", "--audit=none", "--reference=model"),
        "two requests": ("--workdir=unlearned", "--workdir=other", "--audit=none"),
        "a trained and an unlearned": ("--workdir=unlearned", "--workdir=retrained", "--audit=none"),
    }
    return [Case(f"flag/eval: {what}", "eval", call, (*start, "other")) for what, call in calls.items()]


def _of_prepare() -> list[Case]:
    names = (
        "",
        "unknown_set",
        "digits",
        "..",
        "a/b",
        "\x1b[31m",
        "cifar10:3.0.2",
        "cifar10/x",
        _LONG,
        "cifar\udcff",
        "CIFAR10",
    )
    found = [
        Case(
            f"flag/prepare {_shown(name)}", "prepare", (name, "--dir=new", *(("--archive=plain",) if not name else ()))
        )
        for name in names
    ]
    for path in ("", "nowhere", "foreign", "circle", "plain", "x" * 5000, "a\nb", "new\udcff"):
        arguments = ("cifar10", "--dir=new", f"--archive={path}")
        found.append(Case(f"flag/prepare --archive={_shown(path)}", "prepare", arguments))
    for path in _PATHS:
        arguments = ("cifar10", f"--dir={path}", "--archive=plain")
        found.append(Case(f"flag/prepare --dir={_shown(path)}", "prepare", arguments))
    for what, arguments in {
        "no name": ("--dir=new",),
        "two names": ("cifar10", "cifar100", "--dir=new"),
        "unknown flag": ("cifar10", "--dir=new", "--unknown=1"),
        "archive of a set of TFDS": ("mnist", "--dir=new", "--archive=plain"),
    }.items():
        found.append(Case(f"flag/prepare: {what}", "prepare", arguments))
    return found


def _arguments(given: dict[str, str], without: str = "") -> tuple[str, ...]:
    return tuple(f"--{name}={value}" for name, value in given.items() if name != without)


def _spoil(command: str) -> Callable[[Path], None] | None:
    return {"benchmark": write_comparison, "federated": write_study, "flower": write_study}.get(command)


def _shown(value: str) -> str:
    if len(value) > 50:
        return f"{len(value)} characters"
    return repr(value.encode("utf-8", "backslashreplace").decode())
