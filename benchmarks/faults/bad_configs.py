"""Invalid config files and settings."""

from pathlib import Path

from benchmarks.faults.malformed import Case

_GOOD = "from configs import digits\nfrom configs.benchmark import digits as comparison\n"
_FILES = {
    "raises": "def get_config():\n    raise RuntimeError('no')\n",
    "raises on import": "raise OSError(5, 'no')\n",
    "syntax error": "def get_config(:\n",
    "exits": "import sys\ndef get_config():\n    sys.exit(0)\n",
    "interrupts itself": "def get_config():\n    raise RecursionError\n",
    "endless recursion": "def get_config():\n    return get_config()\n",
    "no function": "x = 1\n",
    "no callable": "get_config = 3\n",
    "needs an argument": "def get_config(name):\n    return name\n",
    "missing import": "import no_such_module\n",
    "returns None": "def get_config():\n    return None\n",
    "returns a dict": "def get_config():\n    return {'seed': 0}\n",
    "returns a string": "def get_config():\n    return 'digits'\n",
    "returns a class": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict\n",
    "empty": "",
    "long line of raise": "def get_config():\n    raise ValueError('x' * 100000)\n",
    "message of many lines": "def get_config():\n    raise ValueError('a\\nb\\nc\\x1b[31m')\n",
}
# Values of the wrong type for a number, a text or a section.
_VALUES = {
    "array": "__import__('numpy').zeros(3)",
    "set": "{1, 2}",
    "function": "print",
    "None": "None",
    "string": "'many'",
    "nan": "float('nan')",
    "infinity": "float('inf')",
    "bytes": "b'3'",
    "complex": "1j",
    "object": "object()",
    "huge": "10 ** 400",
    "negative": "-1",
    "list of lists": "((1, 2), (3,))",
}
_FIELDS = ("training.learning_rate", "training.epochs", "seed", "data.name", "model")
_OVERRIDES = {
    "seed": ("-1", "nan", "1e30", "99999999999999999999", "x", ""),
    "training.epochs": ("0", "-1", "nan", "99999999999999999999", "1.5", ""),
    "training.batch_size": ("0", "-1", "100000", "nan", "inf"),
    "training.learning_rate": ("nan", "inf", "-inf", "-1", "fast"),
    "training.momentum": ("nan", "inf", "-0.1", "1.5"),
    "training.weight_decay": ("nan", "inf", "-1"),
    "training.warmup": ("nan", "inf", "-1", "2"),
    "training.label_smoothing": ("nan", "1", "-0.1", "inf"),
    "training.norm_bias_rate": ("nan", "inf", "-1"),
    "training.optimiser": ("adam", "", "x" * 100_000),
    "training.schedule": ("unknown", "", "x" * 100_000),
    "training.start_from": ("nowhere", "plain", "circle", "foreign"),
    "model.width": ("-1", "1000000", "100000000000", "nan"),
    "model.name": ("unknown", "", "../resnet8", "x" * 100_000, "a\nb"),
    "model.stem": ("unknown", ""),
    "model.dtype": ("float8", "", "int32"),
    "data.name": ("unknown_set", "", "a/b/c", "x" * 100_000, "\x1b[31m", "..", "digits "),
    "data.image_size": ("-1", "1000000", "100000000000", "nan"),
    "data.validation": ("nan", "1", "-0.1", "2", "inf"),
    "data.exclude": ("99", "-1", "no-class", "0,1,2,3,4,5,6,7,8,9", "x" * 100_000),
    "data.pad": ("-1", "8", "1000000000000", "nan"),
    "data.cutout": ("-1", "nan", "1e9"),
    "data.crop": ("unknown", "resized"),
    "data.stream": ("true", "maybe"),
    "data.flip": ("perhaps",),
    "data.mean": ("(nan,)", "(0.5,0.5)", "(inf,)", "('a',)", "(0.5,)"),
    "data.std": ("(0.0,)", "(-1.0,)", "(nan,)"),
    "orthogonality.penalty": ("unknown", ""),
    "orthogonality.weight": ("nan", "inf", "-1"),
    "orthogonality.schedule": ("((0,nan),)", "((0,),)", "((0,1.0,2.0),)", "3", "x"),
    "orthogonality.layers": ("(", "no_such_layer", "*"),
    "features.penalty": ("unknown", ""),
    "features.weight": ("nan", "inf", "-1"),
    "checkpoint.every": ("0", "-1", "nan"),
    "checkpoint.keep": ("0", "-1", "99999999999999999999"),
    "statistics.batch_size": ("0", "-1", "nan"),
    "statistics.features": ("-1", "nan", "99999999999999999999"),
    "statistics.cached_inputs": ("-1", "nan"),
    "unknown.setting": ("1",),
    "data.unknown": ("1",),
    "training": ("1",),
}
_COMPARISON = {
    "seed": ("-1", "nan"),
    "seeds": ("()", "(-1,)", "('a',)", "(nan,)", "(0,0)"),
    "methods": ("('unknown',)", "('osp','osp')", "(3,)"),
    "options": ("('osp',)", "('osp:amount',)", "('osp:unknown=1',)", "('osp:amount=nan',)", "('unknown:amount=1',)"),
    "forget": ("('99',)", "('',)", "('3 then 3',)", "('0,1,2,3,4,5,6,7,8,9',)", "(3,)"),
    "budget.retain": ("-2", "nan", "99999999999999999999"),
    "budget.forget": ("-2", "nan"),
    "tuning.trials": ("-1", "nan", "0"),
    "tuning.requests": ("-1", "nan"),
    "audit.train_images": ("-1", "nan"),
    "timing.limit": ("nan", "-1", "inf"),
    "original.training.epochs": ("0", "nan"),
    "original.data.validation": ("nan", "0.0"),
}


def cases() -> list[Case]:
    return [*_bad_files(), *_bad_values(), *_bad_overrides()]


def _bad_files() -> list[Case]:
    found = []
    for command in ("train", "benchmark"):
        arguments = ("--config=bad.py", "--workdir=new")
        for what, text in _FILES.items():
            found.append(Case(f"config file/{command}: {what}", command, arguments, spoil=_writes(text.encode())))
        for what, content in {
            "not UTF-8": b"x = '\xff\xfe'\n",
            "zero bytes": bytes(100),
            "binary": bytes(range(256)),
        }.items():
            found.append(Case(f"config file/{command}: {what}", command, arguments, spoil=_writes(content)))
        for what in (
            "foreign",
            "circle",
            "nowhere.py",
            "",
            "x" * 5000,
            "plain",
            "bad\udcff.py",
            "a\nb",
            "nowhere.py:x",
            "\x1b[31m",
        ):
            named = what[:20].encode("utf-8", "backslashreplace").decode()
            found.append(
                Case(f"config file/{command}: {named!r} as path", command, (f"--config={what}", "--workdir=new"))
            )
    return found


def _writes(content: bytes):
    def spoil(folder: Path) -> None:
        (folder / "bad.py").write_bytes(content)

    return spoil


def _bad_values() -> list[Case]:
    found = []
    for kind, command in (("digits", "train"), ("comparison", "benchmark")):
        for field in _FIELDS:
            place = f"original.{field}" if command == "benchmark" and field != "seed" else field
            for what, value in _VALUES.items():
                if command == "benchmark" and field != "seed":
                    continue
                # ConfigDict itself refuses a change of type on assignment, but not on construction.
                text = f"{_GOOD}\ndef get_config():\n    config = {kind}.get_config()\n    with config.ignore_type():\n"
                spoil = _writes(f"{text}        config.{place} = {value}\n    return config\n".encode())
                arguments = ("--config=bad.py", "--workdir=new")
                found.append(Case(f"config value/{command}: {place} = {what}", command, arguments, spoil=spoil))
    return found


def _bad_overrides() -> list[Case]:
    found = []
    for command, config, overrides in (
        ("train", "tiny.py", _OVERRIDES),
        ("benchmark", "comparison.py", _COMPARISON),
    ):
        spoil = write_comparison if command == "benchmark" else None
        for field, values in overrides.items():
            for value in values:
                shown = value if len(value) < 50 else f"{len(value)} characters"
                arguments = (f"--config={config}", "--workdir=new", f"--config.{field}={value}")
                found.append(Case(f"setting/{command}: {field}={shown!r}", command, arguments, spoil=spoil))
    return found


def write_study(folder: Path) -> None:
    text = "from configs.federated import flower\n\n\ndef get_config():\n    config = flower.get_config()\n"
    text += "    config.scenarios = ('class',)\n    return config\n"
    (folder / "study.py").write_text(text, encoding="utf-8")


def write_comparison(folder: Path) -> None:
    text = f"{_GOOD}\ndef get_config():\n    config = comparison.get_config()\n"
    text += "    config.original.training.epochs = 1\n    config.methods = ('logit-mask',)\n    return config\n"
    (folder / "comparison.py").write_text(text, encoding="utf-8")
