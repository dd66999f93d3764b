"""Every setting of a config with its type, range and default; `validated` checks and completes a config.

The files in `configs/` document each setting. The rest of the code reads settings from the `ConfigDict`. The default of
a new setting keeps the behaviour before it existed, because configs and workdirs that lack it are completed with it.
"""

import json
import sys
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from ml_collections import ConfigDict
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic import ConfigDict as Rules
from pydantic.fields import FieldInfo

from osp_jax.runtime.errors import InputError, printable, shown

_BOUNDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "up to", "min_length": "", "max_length": ""}
MOST_SEED = 2**31 - 1
MOST_PIXELS = 16384  # per side of an image


def tuples(value: Any) -> Any:
    """Converts lists to tuples, recursively; JSON has lists only."""
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


def clean(text: str) -> str:
    if printable(text) != text:
        raise ValueError("control characters")
    return text


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("twice")
    return values


def _shares(values: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("out of range")
    return values


def positive(values: tuple[float, ...]) -> tuple[float, ...]:
    if not all(value > 0 for value in values):
        raise ValueError("out of range")
    return values


def _channels(number: int) -> int:
    if number == 2:
        raise ValueError("out of range")
    return number


Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(clean)]
Source = Annotated[str, Field(min_length=1, max_length=4200), AfterValidator(clean)]
Text = Annotated[str, Field(max_length=100_000), AfterValidator(clean)]
Place = Annotated[str, Field(max_length=4096), AfterValidator(clean)]
Share = Annotated[float, Field(ge=0, lt=1)]
Pairs = Annotated[tuple[tuple[float, float], ...], BeforeValidator(tuples)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(tuples)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(tuples), AfterValidator(_distinct)]
Names = Annotated[tuple[Name, ...], BeforeValidator(tuples), AfterValidator(_distinct)]


class Section(BaseModel):
    """A group of settings; numbers are finite, and no type is converted to another."""

    model_config = Rules(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)
    former_names: ClassVar[Mapping[str, str]] = {}  # current name by former name


class Data(Section):
    name: Source = Field(
        "digits",
        description="'digits', the name of a TFDS set, 'folder:PATH', 'npz:FILE' or 'text:FILE', in printable text",
    )
    dir: Place = ""
    image_size: int = Field(0, ge=0, le=MOST_PIXELS)
    channels: Annotated[int, AfterValidator(_channels)] = Field(0, ge=0, le=3, description="0, 1 or 3")
    class_names: Text = ""
    stream: bool = False
    crop: Text = ""
    mean: Annotated[Numbers, AfterValidator(_shares)] = Field(
        (), description="numbers from 0 to 1, one for each channel, or ()"
    )
    std: Annotated[Numbers, AfterValidator(positive)] = Field(
        (), description="numbers above 0, one for each channel, or ()"
    )
    validation: Share = 0.0
    exclude: Text = ""
    pad: int = Field(1, ge=0, le=16384)
    pad_mode: Literal["reflect", "zeros"] = Field("reflect", description="'reflect' or 'zeros'")
    flip: bool = False
    cutout: int = Field(0, ge=0, le=16384)
    test: Share = 0.0
    strip: Literal["", "newsgroups"] = Field("", description="'newsgroups' or ''")
    vocabulary: int = Field(20_000, ge=16, le=2**16)
    length: int = Field(128, ge=1, le=MOST_PIXELS)
    word_dropout: Share = 0.0


class Model(Section):
    name: Name = "resnet8"
    width: int = Field(0, ge=0, le=65536)
    stem: Name = "auto"
    dtype: Name = "float32"
    convolution: Name = "xla"
    layers: int = Field(0, ge=0, le=10**3)


class Training(Section):
    start_from: Place = ""
    head: Literal["trained", "ridge"] = Field("trained", description="'trained' or 'ridge'")
    epochs: int = Field(15, ge=1, le=10**6)
    batch_size: int = Field(64, ge=1, le=10**6)
    last_batch: Literal["drop", "keep"] = Field("drop", description="'drop' or 'keep'")
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="'sgd' or 'adamw'")
    learning_rate: float = Field(0.2, ge=0)
    schedule: Name = "one-cycle"
    warmup: float = Field(0.2, gt=0, lt=1)
    momentum: Share = 0.9
    weight_decay: float = Field(5e-4, ge=0)
    norm_bias_rate: float = Field(1.0, ge=0)
    label_smoothing: Share = 0.0
    gradient: Literal["jax", "torch", "torch-bfloat16"] = Field("jax", description="'jax', 'torch' or 'torch-bfloat16'")


class Orthogonality(Section):
    penalty: Name = "so"
    weight: float = Field(1e-3, ge=0)
    schedule: Pairs = Field(((0, 1.0),), description="pairs (epoch, factor), as in ((0,1.0),(20,0.1))")
    layers: Text = ""


class Features(Section):
    penalty: Name = "none"
    weight: float = Field(0.0, ge=0)


class Head(Section):
    stages: int = Field(6, ge=1, le=10**4)
    flip: bool = True
    random_features: int = Field(0, ge=0, le=10**5)
    ridge: float = Field(1.0, gt=0)
    scale: float = Field(10.0, gt=0)
    keep_features: bool = True


class Checkpoint(Section):
    every: int = Field(1, ge=1, le=10**9)
    keep: int = Field(2, ge=1, le=10**6)


class Statistics(Section):
    former_names: ClassVar[Mapping[str, str]] = {"tails": "cached_inputs"}

    batch_size: int = Field(256, ge=1, le=10**6)
    features: int = Field(4000, ge=0, le=10**9)
    cached_inputs: int = Field(0, ge=0, le=10**9)


class Experiment(Section):
    """A training, `configs/default.py`."""

    seed: Seed = 0
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    orthogonality: Orthogonality = Orthogonality()
    features: Features = Features()
    head: Head = Head()
    checkpoint: Checkpoint = Checkpoint()
    statistics: Statistics = Statistics()


class Budget(Section):
    retain: int = Field(-1, ge=-1, le=10**9)
    forget: int = Field(-1, ge=-1, le=10**9)


class Tuning(Section):
    trials: int = Field(3, ge=1, le=10**6)
    requests: int = Field(1, ge=1, le=10**6)
    images: int = Field(0, ge=0, le=10**9)


class Audit(Section):
    train_images: int = Field(10_000, ge=1, le=10**9)
    test_images: int = Field(0, ge=0, le=10**9)
    questions: bool = False
    relearning_steps: int = Field(25, ge=1, le=10**6)
    harm: bool = True


class Timing(Section):
    limit: float = Field(60.0, ge=0)


class Comparison(Section):
    """A comparison of methods on the same requests, `configs/benchmark/default.py`."""

    seed: Seed = 0
    seeds: Seeds = Field((0,), description="different integers from 0 to 2147483647, as in (0, 1)")
    original: Experiment = Experiment(data=Data(validation=0.15), model=Model(convolution="cpu"))
    methods: Names = Field((), description="different names of methods, or () for all")
    options: Names = Field((), description="settings of methods, as in ('osp:amount=0.2',)")
    forget: Names = Field(("each",), description="requests, as in ('each', '3,5', '3 then 5')")
    budget: Budget = Budget()
    tuning: Tuning = Tuning()
    audit: Audit = Audit()
    timing: Timing = Timing()


class Entry(Section):
    config: Source
    audited: Text
    probes: bool
    shadows: int = Field(ge=0, le=4096)


class Study(Section):
    """`configs/paper/default.py`."""

    methods: Names = Field(description="different names of methods")
    entries: dict[Name, Entry]


class Division(Section):
    clients: int = Field(10, ge=2, le=10**5)
    alpha: float = Field(0.5, gt=0, le=10**6)
    classes: int = Field(2, ge=1, le=10**5)
    least: int = Field(2, ge=1, le=10**9)


class Rounds(Section):
    rounds: int = Field(20, ge=1, le=10**6)
    clients: int = Field(0, ge=0, le=10**5)
    dropout: Share = 0.0
    rate: Literal["constant", "cosine"] = Field("constant", description="'constant' or 'cosine'")
    optimiser: Literal["sgd", "adam"] = Field("sgd", description="'sgd' or 'adam'")
    learning_rate: float = Field(0.05, ge=0)
    momentum: Share = 0.9
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(32, ge=1, le=10**6)
    epochs: int = Field(1, ge=0, le=10**6)
    steps: int = Field(0, ge=0, le=10**9)


class Fcot(Section):
    epochs: int = Field(1, ge=0, le=10**6)
    steps: int = Field(0, ge=0, le=10**9)
    fusion_epochs: int = Field(1, ge=0, le=10**6)
    fusion_steps: int = Field(0, ge=0, le=10**9)
    fusion_start: Literal["reference", "local"] = Field("reference", description="'reference' or 'local'")
    penalty: Name = "so"
    penalty_weight: float = Field(1e-3, ge=0)
    penalty_layers: Text = ""
    align: float = Field(1e-4, ge=0)


Clients = Annotated[
    tuple[Annotated[int, Field(ge=0, le=10**5)], ...], BeforeValidator(tuples), AfterValidator(_distinct)
]
_CLIENTS = "different numbers of clients, as in (0, 1)"


class Departures(Section):
    classes: Text = "3"
    clients: Clients = Field((0,), description=_CLIENTS)
    sample_clients: Clients = Field((0, 1, 2), description=_CLIENTS)
    sample_share: float = Field(0.2, gt=0, le=1)


class Attacks(Section):
    malicious: Clients = Field((0, 1, 2), description=_CLIENTS)
    flip_share: float = Field(0.1, gt=0, le=1)
    flip_classes: Text = ""
    backdoor_share: float = Field(0.1, gt=0, le=1)
    target: int = Field(0, ge=0, le=10**6)
    side: int = Field(3, ge=1, le=MOST_PIXELS)


class FederatedMethods(Section):
    of_class: Names = Field((), description="different methods, as in ('fedortho:layers=last', 'fu-cdp')")
    of_client: Names = Field((), description="different methods, as in ('fedortho:score=matched',)")
    of_sample: Names = Field((), description="different methods, as in ('fedortho:score=matched',)")
    of_attack: Names = Field((), description="different methods, as in ('fedup', 'fedup:rank=random')")


class Recovery(Section):
    rounds: int = Field(3, ge=0, le=10**6)
    learning_rate: float = Field(0.0, ge=0)


class Federated(Section):
    """Federated training, requests, attacks and methods, `configs/federated/default.py`."""

    seed: Seed = 0
    seeds: Seeds = Field((0,), description="different integers from 0 to 2147483647, as in (0, 1)")
    data: Data = Data()
    model: Model = Model()
    splits: Names = Field(("iid", "dirichlet"), description="of 'iid', 'dirichlet' and 'classes'")
    division: Division = Division()
    training: Rounds = Rounds()
    fcot: Fcot = Fcot()
    scenarios: Names = Field(
        ("class", "client", "sample", "label-flip", "backdoor"),
        description="of 'class', 'client', 'sample', 'label-flip' and 'backdoor'",
    )
    departures: Departures = Departures()
    attack: Attacks = Attacks()
    methods: FederatedMethods = FederatedMethods()
    recovery: Recovery = Recovery()
    save_every: int = Field(10, ge=1, le=10**6)


_FREE = ("data.dir", "data.exclude")  # settings that may differ between trainings of one recipe

KINDS: dict[str, type[Section]] = {
    "training": Experiment,
    "comparison": Comparison,
    "study": Study,
    "federated": Federated,
}


def validated(config: Any, kind: type[Section] = Experiment, where: str = "config") -> ConfigDict:
    """Checks a config and adds the defaults of settings that it lacks; returns `config` itself if it lacks none.

    Args:
      config: a `ConfigDict` or a dict.
      where: the name of the config in messages.

    Raises:
      InputError: an unknown setting, or one with the wrong type, out of range or not finite.
    """
    fields = plain(config, where)
    whole = completed(fields, kind)
    check(whole, kind, where)
    if fields == whole and isinstance(config, ConfigDict):
        return config
    made = ConfigDict(whole)
    made.lock()
    return made


def differing(settings: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """The settings of a training that differ from `recipe`, such as 'data.flip'; both are complete.

    The seed, the excluded classes and the location of the data may differ.
    """
    one, other = (json.loads(json.dumps(fields)) for fields in (settings, recipe))  # tuples become lists
    return [
        f"{section}.{name}"
        for section, values in one.items()
        if isinstance(values, dict)
        for name, value in values.items()
        if f"{section}.{name}" not in _FREE and other[section].get(name) != value
    ]


def plain(config: Any, where: str = "config") -> dict[str, Any]:
    """The fields of a config as nested dicts; raises `InputError` if it is no config or a field has no value."""
    try:
        fields = config.to_dict() if isinstance(config, ConfigDict) else config
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # references between fields
        raise InputError(f"{where} cannot be read: {error}; give each setting a value") from error
    if not isinstance(fields, Mapping):
        raise InputError(f"{where} is {shown(fields)}; give a ConfigDict")
    return dict(fields)


def completed(fields: Mapping[str, Any], kind: type[Section] = Experiment) -> dict[str, Any]:
    """`fields` with the defaults of settings that they lack; existing values are not checked."""
    whole = _with_new_names(fields, kind)
    for name, field in kind.model_fields.items():
        section = _section(field)
        if name not in whole:
            if not field.is_required():
                default = field.get_default()
                whole[name] = default.model_dump() if section else default
        elif section and isinstance(whole[name], Mapping):
            whole[name] = completed(whole[name], section)
    return whole


def _with_new_names(fields: Mapping[str, Any], kind: type[Section]) -> dict[str, Any]:
    """`fields` with current names for settings with a former name; warns about each."""
    whole = dict(fields)
    for old, new in kind.former_names.items():
        if old in whole:
            whole[new] = whole.pop(old)
            _warn_renamed(f"{kind.__name__.lower()}.{old}", new)
    return whole


@cache
def _warn_renamed(old: str, new: str) -> None:
    """Prints the warning once per process."""
    print(f"warning: the setting {old} is now called {new}; rename it", file=sys.stderr)


def of_any_version(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config of any version, with settings that its version could not choose.

    An older version always trained with the convolutions of `networks/cpu`.
    """
    whole = dict(fields)
    if isinstance(whole.get("model"), Mapping):
        whole["model"] = {"convolution": "cpu", **whole["model"]}
    if isinstance(whole.get("original"), Mapping):
        whole["original"] = of_any_version(whole["original"])
    return whole


class Fault(NamedTuple):
    """A problem with a field and its remedy: 'data.pad', 'is -1', 'give an integer from 0 to 16384'."""

    name: str
    problem: str
    remedy: str


def check(fields: Any, kind: type[BaseModel], where: str) -> None:
    """Raises `InputError` for the first invalid field, named `where.section.field`."""
    if found := first_fault(fields, kind):
        raise InputError(f"{'.'.join(filter(None, (where, found.name)))} {found.problem}; {found.remedy}")


def first_fault(fields: Any, kind: type[BaseModel]) -> Fault | None:
    """The first of `fields` that `kind` does not allow; if an entry of a field is invalid, the whole field."""
    try:
        kind.model_validate(fields)
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    names, value, section, field = [], fields, kind, None
    for part in first["loc"]:
        known = section.model_fields
        names.append(str(part))
        if first["type"] == "extra_forbidden" and part not in known:
            return Fault(".".join(names), "is no setting", f"choose one of: {', '.join(known)}")
        field = known.get(part)
        if not isinstance(value, Mapping) or part not in value:
            return Fault(".".join(names), "is missing", f"give {_wanted(field)}")
        value, section = value[part], _section(field) if field else None
        if section is None:
            break
    return Fault(".".join(names), f"is {shown(value)}", f"give {_wanted(field) if field else 'a group of settings'}")


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _wanted(field: FieldInfo) -> str:
    """A field's type and range in words."""
    if field.description:
        return field.description
    if _section(field):
        return "a group of settings"
    limits = {}
    for rule in field.metadata:
        limits |= {name: getattr(rule, name) for name in _BOUNDS if hasattr(rule, name)}
    if field.annotation is int and limits.keys() >= {"ge", "le"}:
        return f"an integer from {limits['ge']} to {limits['le']}"
    if field.annotation is str:
        return f"{'some ' if limits.get('min_length') else ''}text of up to {limits['max_length']} characters"
    words = {int: "an integer", float: "a finite number", bool: "True or False"}
    bounds = [f"{words} {limits[name]}" for name, words in _BOUNDS.items() if name in limits and words]
    return f"{words.get(field.annotation, 'another value')} {' and '.join(bounds)}".rstrip()
