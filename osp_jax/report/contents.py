"""The sections of a report on one evaluation, from what was reached to how it was made."""

from typing import Any

from osp_jax.report import figures, tables
from osp_jax.report.audit_contents import audit_section
from osp_jax.report.audit_tables import audit_record
from osp_jax.report.outline import NUMBERS, Drawn, Section, drawn


def sections(evaluation: dict[str, Any]) -> list[Section]:
    """Those that have something to show."""
    forget, classes = evaluation["forget"], tables.class_table(evaluation)
    intervals = "Share of images recognised; in brackets the 95% interval (Wilson) of the unseen test images. "
    models = (
        "Retrained: trained from scratch without the forgotten images, the ideal. "
        "Logit masked: the original with only its forgotten answers hidden, all it knows still inside."
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
                "What forgotten images are taken for",
                "A model that never saw a class takes its images for something else; the retrained one shows for what.",
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
                "How long the request took and how many training images it looked at.",
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
        (f"Accuracy on unseen images: {which}.", [figures.per_class(evaluation)]),
        *drawn(
            "Which answers the test images of each class get; the more solid, the larger the share of the class.",
            [figures.confusion(evaluation, key) for key in matrices],
        ),
    ]


def _destinations(evaluation: dict[str, Any]) -> Drawn:
    panels, number = figures.destinations(evaluation), len(evaluation["forget"])
    first = f" The first {len(panels)} of {number} classes." if len(panels) < number else ""
    return drawn(f"Share of a forgotten class's test images by answer.{first}", panels)


def _channels(evaluation: dict[str, Any]) -> Drawn:
    panels, left_out = figures.channels(evaluation)
    rest = f" {left_out} more layers are in the table only." if left_out else ""
    caption = (
        "How much more each channel answers to the forgotten class. Orange: turned down, the more solid the further."
    )
    return drawn(caption + rest, panels)
