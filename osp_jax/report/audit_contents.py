"""The section on what is left of the forgotten classes, with a part for each question of the audit."""

from collections.abc import Callable
from typing import Any

from osp_jax.report import audit_figures, audit_tables
from osp_jax.report.answers import answer, asked, measures, questions
from osp_jax.report.nouns import noun
from osp_jax.report.outline import NUMBERS, Drawn, Section, drawn
from osp_jax.report.verdicts import SAME_EFFORT, SAME_SHARE

_INTRODUCTION = (
    "Accuracy does not show everything that is left. The reference is a model retrained without the forgotten "
    "{image}s: it never saw them, and still has some of these abilities. Brackets hold the 95% interval; n is the "
    "number of {image}s or runs behind a value. The verdict is about the difference between the two models and its 95% "
    "interval, taken {image} by {image} where both were asked about the same {image}s. “As the retrained”: the "
    f"interval lies within {100 * SAME_SHARE:.0f} points (or {SAME_SHARE:g}; of steps {SAME_EFFORT:.0%} of the "
    "retrained model's) on both sides of 0. “More” or “less is left”: it lies on one side of 0 and reaches further. "
    "“Not told apart”: neither, so that the n {image}s or runs are too few to say. Without an interval, as of a single "
    "run, a difference beyond these bounds counts as more or less. Without a verdict a value only describes, or cannot "
    "be compared."
)


def audit_section(evaluation: dict[str, Any]) -> Section:
    """The questions with their verdicts and evidence; one line where no audit was run."""
    title, introduction = "Is the knowledge gone?", _INTRODUCTION.format(image=noun(evaluation))
    if not any(measures(evaluation, model) for model in ("original", "unlearned")):
        return Section(title, introduction.split(" Brackets")[0], [], when_empty="Not run.")
    parts = tuple(_part(evaluation, question) for question in questions(evaluation))
    return Section(title, introduction, [], parts=parts)


def anchor(question: str) -> str:
    """The id of a question's part of the page."""
    return f"audit-{question}"


def _part(evaluation: dict[str, Any], question: str) -> Section:
    said = " ".join(filter(None, answer(evaluation, question)))
    evidence = audit_tables.evidence(evaluation, question)
    if not evidence:
        return Section(asked(evaluation, question).text, "", [], when_empty=said, anchor=anchor(question))
    details = {
        "Change of each layer": audit_tables.layer_changes(evaluation, question),
        **_details(evaluation, question),
    }
    return Section(
        asked(evaluation, question).text,
        asked(evaluation, question).how,
        [evidence],
        details,
        _FIGURES.get(question, lambda _: []),
        verdict=said,
        anchor=anchor(question),
    )


def _details(evaluation: dict[str, Any], question: str) -> dict[str, Any]:
    numbers: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {
        "membership": audit_tables.roc_numbers,
        "relearning": audit_tables.relearning_numbers,
        "representation": audit_tables.cka_numbers,
    }
    return {NUMBERS: numbers[question](evaluation)} if question in numbers else {}


def _membership(evaluation: dict[str, Any]) -> Drawn:
    panels, left_out = audit_figures.roc(evaluation)
    caption = (
        f"How many training {noun(evaluation)}s an attack finds (upwards) if it may raise few false alarms (to the "
        "left); the thin grey line is guessing."
    )
    return drawn(caption + _more(left_out, "attacks"), panels)


def _relearning(evaluation: dict[str, Any]) -> Drawn:
    panels, left_out = audit_figures.relearning(evaluation)
    caption = (
        f"Share of unseen forgotten {noun(evaluation)}s recognised while the class is trained again: the further to "
        "the left a line rises, the more was left. A line ends where the goal was reached."
    )
    return drawn(caption + _more(left_out, "settings"), panels)


def _representation(evaluation: dict[str, Any]) -> Drawn:
    likeness = (
        f"How alike the inner values are on unseen forgotten {noun(evaluation)}s, layer by layer: 1 alike, 0 not "
        "at all."
    )
    probed = measures(evaluation, "unlearned").get("probes")
    return drawn(likeness, audit_figures.cka(evaluation)) + ([] if probed else _map(evaluation))


def _map(evaluation: dict[str, Any]) -> Drawn:
    where = (
        f"Where unseen {noun(evaluation)}s lie in the two directions of the inner values before the last layer in "
        "which the original varies most. The question is whether the forgotten class (crosses) lies as far apart from "
        "the others as before. The retrained model has directions of its own, so that only the grouping can be "
        f"compared, not the place. At most {audit_figures.MOST_POINTS:,} {noun(evaluation)}s."
    )
    return drawn(where, audit_figures.feature_map(evaluation))


def _more(left_out: int, what: str) -> str:
    return f" {left_out} more {what} are not drawn." if left_out else ""


_FIGURES = {"membership": _membership, "relearning": _relearning, "probes": _map, "representation": _representation}
