"""Typed checks of the JSON files that commands write and read back.

Files may be damaged, edited by hand, or written by another program; each function here raises one `InputError` that
names the file, the field and the remedy. Unlisted fields are kept.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from pydantic import ConfigDict as Rules

from osp_jax.runtime import settings
from osp_jax.runtime.errors import InputError, shown

IMPORTED = "imported"
"""The folder of a workdir with the original weights of an imported network."""

_DEEPEST = 50  # levels of lists and objects; commands write at most 8


class Record(BaseModel):
    """A JSON object; numbers are finite, and no type is converted to another."""

    model_config = Rules(strict=True, extra="allow", allow_inf_nan=False)


def _whole(numbers: list[int]) -> list[int]:
    if len(set(numbers)) < len(numbers):
        raise ValueError("twice")
    return numbers


Count = Annotated[int, Field(ge=0, le=10**12)]
Classes = Annotated[list[Count], AfterValidator(_whole)]
Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Dataset(Record):
    name: str = Field(max_length=4200)
    class_names: list[str] = Field(min_length=2, description="the names of two classes or more")
    image_shape: list[Annotated[int, Field(ge=1, le=16384)]] = Field(
        min_length=1,
        max_length=3,
        description="three positive integers: height, width, channels; of texts their length",
    )
    mean: list[float] = Field(description="a number for each channel")
    std: list[Annotated[float, Field(gt=0)]] = Field(description="a number above 0 for each channel")


def _inside(place: str) -> str:
    parts = Path(place).parts
    if len(parts) != 2 or parts[0] != IMPORTED or parts[1] == "..":
        raise ValueError("outside")
    return place


class Weights(Record):
    """The weight file of an imported network, as a workdir stores it."""

    file: Annotated[settings.Place, AfterValidator(_inside)] = Field(description=f"a file in {IMPORTED}/")
    format: str = Field(max_length=200)
    keys: dict[str, str] = Field(description="keys in the file by the names of the network's arrays")


class Network(Record):
    """The source of an imported network."""

    function: str = Field(max_length=4096, pattern=r"^[^:]+(:[^:]+)*:[^:]+$", description="as in 'net.py:network'")
    file: str = Field(min_length=1, max_length=4096)
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="a checksum of 64 hexadecimal digits")
    framework: str = Field(max_length=200)
    weights: Weights
    recipe: bool = Field(description="whether its recipe is known")


class Backbone(Record):
    """The frozen network under a closed-form head."""

    workdir: str = Field(max_length=4096)
    model: dict[str, Any] = Field(description="the settings of a model")
    class_names: list[str] = Field(min_length=2, description="the names of two classes or more")
    network: Network | None = Field(None, description="the source of an imported network")


class Trained(Record):
    """`config.json` of a model; `network` for an imported one."""

    config: dict[str, Any] = Field(description="the settings of a training")
    dataset: Dataset
    forgotten: Classes = Field([], description="numbers of classes")
    network: Network | None = Field(None, description="the source of an imported network")
    backbone: Backbone | None = Field(None, description="the frozen network under a closed-form head")
    forgotten_images: Classes = Field([], description="numbers of training images")


class Claim(Record):
    """`config.json` of any run, for resuming it."""

    config: dict[str, Any] = Field(description="the settings of the run")


class Budget(Record):
    retain_per_class: Count | None = Field(None, description="a number of images, or null")
    forget_per_class: Count | None = Field(None, description="a number of images, or null")


class Change(Record):
    """Factors of the channels of a layer, and their scores."""

    score: list[float] | None = None
    factor: list[float] = Field(description="a number for each channel")


class Earlier(Record):
    """An earlier request."""

    method: str = Field(max_length=200)
    options: dict[str, int | float | str | bool] = Field(description="the options of the method")
    forget: Classes = Field(description="numbers of classes, none of a request for single images")
    budget: Budget = Budget()


class Harm(Record):
    """The cost of a request on a sample of images; null without an estimate."""

    forgotten: Share | None = Field(None, description="a share from 0 to 1, or null")
    retained_before: Share | None = Field(None, description="a share from 0 to 1, or null")
    retained_after: Share | None = Field(None, description="a share from 0 to 1, or null")
    source: str | None = Field(None, max_length=200)


class Images(Record):
    """Single images that were forgotten: their number, and a checksum of their image numbers."""

    count: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="a checksum of 64 hexadecimal digits")


class Request(Earlier):
    """`unlearn.json`."""

    original: settings.Place = Field(min_length=1)
    forgotten: Classes | None = Field(None, description="numbers of classes")
    trained: str | None = Field(None, min_length=1, max_length=4096)
    earlier: list[Earlier] = Field([], description="the requests before this one")
    images: Images | None = Field(None, description="which images were forgotten")
    channels: dict[str, Change] = Field(description="the changes, by layer")
    forget_names: list[str] = Field([], description="names of classes")
    masked_channels: dict[str, Count] = Field({}, description="numbers of channels by layer")
    data_seen: dict[str, dict[str, dict[str, Count]]] = Field({}, description="numbers of images")
    seconds: dict[str, float | None] = Field({}, description="seconds by step")
    harm: Harm | None = Field(None, description="the cost of the request, or null")
    provenance: dict[str, Any] = Field({}, description="the provenance")


class Epoch(Record):
    """A line of `metrics.jsonl`."""

    epoch: int = Field(ge=1, le=10**6)
    step: Count = 0


class Named(Record):
    name: str = Field(max_length=200)


class AuditRecord(Record):
    level: str = Field("quick", max_length=200)
    settings: dict[str, Any] = Field(description="the settings of the audit")


class EvaluatedData(Record):
    name: str = Field(max_length=200)
    class_names: list[str] | None = Field(None, description="names of classes")


class Difference(Record):
    """The difference of a measure from that of the retrained model."""

    value: float
    ci95: list[float | None] | None = None
    paired: bool = False


class Measure(Record):
    """A measure of an audit; null if there is none, with the reason in `why`."""

    value: float | None = None
    ci95: list[float | None] | None = None
    n: Count | None = None
    leak: str | None = None
    difference: Difference | None = None
    why: str | None = None


class Judged(Record):
    """The accuracies of a model in `eval.json`."""

    test_retain_accuracy: Share | None = Field(None, description="a share from 0 to 1, or null")
    test_forget_accuracy: Share | None = Field(None, description="a share from 0 to 1, or null")
    measures: dict[str, dict[str, Measure]] = Field({}, description="the measures of the audit")


class Evaluation(Record):
    """`eval.json`."""

    dataset: EvaluatedData
    model: Named
    forget: Classes = Field(description="numbers of classes")
    method: str | None = Field(description="the name of a method, or null")
    original: Judged
    unlearned: Judged | None = None
    retrained: Judged | None = None
    audit: AuditRecord | None = None


class AuditedData(EvaluatedData):
    variant: str


class AuditedModel(Named):
    parameters: Count


class AuditedRequest(Record):
    forget_names: list[str] = Field(min_length=1, description="names of classes")
    options: dict[str, Any] = Field(description="the options of the method")
    data_seen: dict[str, Any] = Field(description="the images used")
    seconds: dict[str, float | None] = Field(description="seconds by step")
    provenance: dict[str, Any] = Field(description="the provenance")


class Audited(Evaluation):
    """`eval.json` with an audit of an unlearned and a retrained model."""

    dataset: AuditedData
    model: AuditedModel
    method: str = Field(max_length=200)
    unlearned: Judged
    retrained: Judged
    audit: AuditRecord
    unlearn: AuditedRequest
    provenance: dict[str, Any] = Field(description="the provenance")


class Row(Record):
    """A class of a sweep."""

    name: str = Field(max_length=200)
    original: dict[str, float | Harm | None] = Field(description="the figures of the original")


class Accuracies(Record):
    test_retain_accuracy: Share | None
    test_forget_accuracy: Share | None


class Cell(Record):
    """A method and a request in a comparison: its figures, or its error."""

    seed: Count
    request: str
    kind: str
    method: str = Field(max_length=200)
    forget: Classes = Field(description="numbers of classes")
    accuracy: Accuracies | None = None
    error: str | None = None
    options: dict[str, Any] = Field({}, description="the options of the method")
    seconds: dict[str, float | None] = Field({}, description="seconds by step")
    seen: dict[str, Count] = Field({}, description="numbers of images by class")
    peak_bytes: float | None = None
    measures: dict[str, Any] = Field({}, description="the measures of the audit")
    harm: Harm | None = Field(None, description="the cost of the request, or null")


class Compared(Record):
    """`results.json` of a comparison."""

    cells: list[Cell] = Field(description="a method and a request each")


class Trial(Record):
    """Settings tried by a comparison."""

    options: dict[str, Any] = Field(description="the options of the method")
    score: float | None = Field(None, description="a finite number")


class Trials(Record):
    trials: list[Trial] = Field(description="the settings that were tried")


class Pass(Record):
    epoch: int = Field(ge=1, le=10**6)
    seconds: Seconds


class ShadowSet(Record):
    """`record.json` of a set of shadow models."""

    number: int = Field(ge=4, le=10**6)
    config: dict[str, Any] = Field(description="the settings of the training")
    epochs: list[Pass] = Field(description="the seconds of each epoch")


def parse_json(content: bytes, path: Path) -> Any:
    """Parses JSON; raises `InputError` if it is invalid, holds NaN, infinity or huge numbers, or is deeply nested."""
    remedy = "restore it, or delete what it belongs to and make it again"
    try:
        # Encoding errors, invalid numbers and JSON's own errors are all of type `ValueError`.
        found = json.loads(content.decode("utf-8"), parse_constant=_no_number, parse_float=_number)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())[:160]}); {remedy}") from error
    except RecursionError:
        raise InputError(f"{path} is damaged (nested too deeply); {remedy}") from None
    level, depth = [found], 0
    while level := [child for item in level for child in _children(item)]:
        if (depth := depth + 1) > _DEEPEST:
            raise InputError(f"{path} is damaged (nested too deeply); {remedy}")
    return found


def trained(content: Any, path: Path) -> dict[str, Any]:
    """Checks `config.json` of a model, and adds the defaults of settings that its version lacked.

    Settings unknown to this version are kept.
    """
    record = dict(checked(content, Trained, path, "was it written by experiments.train?"))
    record["config"] = config_of(record["config"], path)
    data, classes = record["dataset"], len(record["dataset"]["class_names"])
    if len(data["image_shape"]) == 2:
        _refuse(path, f"dataset.image_shape is {shown(data['image_shape'])}")
    channels = data["image_shape"][2] if len(data["image_shape"]) == 3 else 0  # texts are not normalised
    for name in ("mean", "std"):
        if len(data[name]) != channels:
            _refuse(path, f"dataset.{name} is {shown(data[name])} for {channels} channels")
    check_classes(record.get("forgotten", []), classes, path, "forgotten")
    return record


def config_of(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """The config of a training in a record, completed; raises `InputError` if a setting has another type."""
    whole = json.loads(
        json.dumps(settings.completed(settings.of_any_version(fields)))
    )  # defaults that are tuples become lists, as in JSON
    if fault := settings.first_fault(_known(whole, settings.Experiment), settings.Experiment):
        _refuse(path, f"config.{fault.name} {fault.problem}")
    return whole


def request(content: Any, path: Path, classes: int) -> dict[str, Any]:
    """Checks `unlearn.json` of a model with this number of classes."""
    record = checked(content, Request, path, "was it written by experiments.unlearn?")
    if not record["forget"] and not record.get("images"):
        _refuse(path, "forget names no class, and there are no images")
    for name in ("forget", "forgotten"):
        check_classes(record.get(name) or [], classes, path, name)
    return record


def evaluation(content: Any, path: Path) -> dict[str, Any]:
    """Checks `eval.json`."""
    record = checked(content, Evaluation, path, "was it written by experiments.eval?")
    if names := record["dataset"].get("class_names"):
        check_classes(record["forget"], len(names), path, "forget")
    return record


def checked(content: Any, kind: type[Record], path: Path, remedy: str = "was it changed by hand?") -> Any:
    """Returns `content` unchanged; raises `InputError` if a field of `kind` is missing or has another type."""
    if not isinstance(content, dict):
        _refuse(path, f"holds {shown(content)} where an object is needed", remedy)
    if fault := settings.first_fault(content, kind):
        _refuse(path, f"{fault.name} {fault.problem}", remedy)
    return content


def trials(content: Any, path: Path) -> list[dict[str, Any]]:
    """Checks the settings that a comparison tried for a method."""
    return checked({"trials": content}, Trials, path)["trials"]


def row(content: Any, path: Path, methods: Iterable[str]) -> dict[str, Any]:
    """Checks a class of a sweep, with the figures of the original and of each method."""
    again = "delete it, and its class is done again."
    found = checked(content, Row, path, again)
    for method in methods:
        checked({"name": "", "original": found.get(method)}, Row, path, again)
    return found


def cell(content: Any, path: Path) -> dict[str, Any]:
    """Checks a method and a request of a comparison."""
    again = "delete it, and it is done again."
    found = checked(content, Cell, path, again)
    if found.get("accuracy") is None and found.get("error") is None:
        _refuse(path, "has neither accuracy nor error", again)
    return found


def numbers(content: Any, path: Path, count: int) -> list[float]:
    """Checks a list of `count` finite numbers."""
    if not isinstance(content, list) or len(content) != count or not all(type(n) in (int, float) for n in content):
        _refuse(path, f"holds {shown(content)} where {count} numbers are needed", "delete it, and it is made again.")
    return content


def check_classes(numbers: Sequence[int], classes: int, path: Path, name: str) -> None:
    """Raises `InputError` unless these are class numbers and some class is not among them."""
    if any(not 0 <= number < classes for number in numbers) or len(numbers) >= classes:
        _refuse(path, f"{name} is {shown(list(numbers))}, and the model has {classes} classes")


def _refuse(path: Path, problem: str, remedy: str = "was it changed by hand?") -> None:
    raise InputError(f"{path} cannot be used ({problem}): {remedy} Restore it, or make it again")


def _known(fields: dict[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """`fields` without those that `kind` lacks."""
    sections = {name: field.annotation for name, field in kind.model_fields.items()}
    return {
        name: _known(value, sections[name]) if isinstance(value, dict) and _is_section(sections[name]) else value
        for name, value in fields.items()
        if name in sections
    }


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _children(item: Any) -> list[Any]:
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return [value for value in values if isinstance(value, dict | list)]


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is too large")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number")
