"""The sections of a report on one evaluation, from the accuracies to the provenance."""

from typing import Any

from osp_jax.report import figures, tables
from osp_jax.report.audit_contents import audit_section
from osp_jax.report.audit_tables import audit_record
from osp_jax.report.nouns import noun
from osp_jax.report.outline import NUMBERS, Drawn, Section, drawn


def sections(evaluation: dict[str, Any]) -> list[Section]:
    """The sections that have something to show."""
    forget, classes, kind = evaluation["forget"], tables.class_table(evaluation), noun(evaluation)
    intervals = f"Share of {kind}s recognised; the 95% Wilson interval on the unseen test {kind}s is in brackets. "
    models = (
        f"Retrained: trained from scratch without the forgotten {kind}s; the target. "
        "Logit masked: the original with the forgotten answers hidden and nothing else changed."
    )
    found = [
        Section(
            "Accuracy",
            intervals + (models if forget else ""),
            [tables.accuracy_table(evaluation)],
            {NUMBERS: classes},
            _accuracy,
        )
    ]
    if forget:
        found += [
            Section(
                f"What forgotten {kind}s are taken for",
                f"The retrained model shows what a model that never saw the class takes its {kind}s for.",
                [],
                {NUMBERS: tables.destinations(evaluation)},
                _destinations,
            ),
            audit_section(evaluation),
            Section(
                "What was changed in the model",
                "A factor scales a channel: 1 leaves it untouched, 0 silences it.",
                [tables.channel_table(evaluation)],
                draw=_channels,
            ),
            Section(
                "Time and data",
                f"The time of the request, and the number of training {kind}s it read.",
                [tables.timing(evaluation), tables.data_seen(evaluation)],
            ),
        ]
    found.append(Section("Provenance", "", [tables.provenance(evaluation), audit_record(evaluation)]))
    return [section for section in found if not section.empty]


def _accuracy(evaluation: dict[str, Any]) -> Drawn:
    many = len(evaluation["original"]["per_class"]) > tables.MOST_CLASSES
    which = "every class"
    if many:
        first = (
            "the forgotten classes and those that changed most" if evaluation.get("unlearned") else "the lowest classes"
        )
        which = f"{first}, then all retained classes in order"
    matrices = [key for key in ("original", "unlearned") if (evaluation.get(key) or {}).get("confusion")]
    return [
        (f"Accuracy on unseen {noun(evaluation)}s: {which}.", [figures.per_class(evaluation)]),
        *drawn(
            f"Answers to the test {noun(evaluation)}s of each class; a more solid cell is a larger share of the class.",
            [figures.confusion(evaluation, key) for key in matrices],
        ),
    ]


def _destinations(evaluation: dict[str, Any]) -> Drawn:
    panels, number = figures.destinations(evaluation), len(evaluation["forget"])
    first = f" The first {len(panels)} of {number} classes." if len(panels) < number else ""
    return drawn(f"Share of a forgotten class's test {noun(evaluation)}s by answer.{first}", panels)


def _channels(evaluation: dict[str, Any]) -> Drawn:
    panels, left_out = figures.channels(evaluation)
    rest = f" {left_out} more layers are in the table only." if left_out else ""
    caption = (
        "How much more each channel responds to the forgotten class. Orange channels are turned down, solid ones most."
    )
    return drawn(caption + rest, panels)
