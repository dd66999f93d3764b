"""The top of a report: was the class forgotten, was anything harmed, how sure is that, and what to do next.

The limits are those of the request (`osp_jax.harm`), and what is left inside is judged by `verdicts.verdict`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from osp_jax.audit.measure import wilson
from osp_jax.harm import MAX_FORGOTTEN, MAX_RETAINED_DROP
from osp_jax.report.answers import measures, questions, verdicts_of, weak_measures
from osp_jax.report.formats import percent, points
from osp_jax.report.nouns import noun
from osp_jax.report.tables import class_name, image_counts, interval, retained
from osp_jax.report.verdicts import MORE, UNTOLD

GOOD, BAD, OPEN = "good", "bad", "open"


class Glance(NamedTuple):
    """A question, the answer in a few words, one or two sentences of evidence, and `GOOD`, `BAD` or `OPEN`."""

    question: str
    answer: str
    said: str
    tone: str


def at_a_glance(evaluation: dict[str, Any]) -> tuple[Glance, ...]:
    """The answers to the four questions of a request; empty where no class was forgotten."""
    if not evaluation["forget"] or not evaluation.get("unlearned"):
        return ()
    forgotten, harmed = _forgotten(evaluation), _harmed(evaluation)
    return forgotten, harmed, _how_sure(evaluation), _what_next(evaluation, forgotten, harmed)


def _forgotten(evaluation: dict[str, Any]) -> Glance:
    asked, share, limit = "Forgotten?", _share(evaluation), _limits(evaluation)[1]
    if share is None:
        said = f"There were no {_unseen(evaluation)} of {_them(evaluation)} to test with."
        return Glance(asked, "Not known", said, OPEN)
    recognised = f"The model recognises {percent(share)} of the {_unseen(evaluation)} of {_them(evaluation)}"
    counts = image_counts(evaluation["unlearned"], evaluation["forget"])
    if 100 * share > limit + 1e-9:
        certain = not counts[1] or 100 * wilson(*counts)[0] > limit
        word = "No" if certain else "Not certain"
        return Glance(asked, word, f"{recognised}; the limit is {limit:g}%.", BAD if certain else OPEN)
    judged = _judged(evaluation)
    more = sum(MORE in found.values() for found in judged.values())
    never = f"than in a model that never saw {_it(evaluation)}"
    if more:
        said = f"{recognised}, but on {more} of {len(judged)} questions the audit finds more left {never}."
        return Glance(asked, "Partly", said, BAD)
    if any(which != UNTOLD for question in judged for which in _strong(evaluation, question)):
        said = f"{recognised}, and on none of {len(judged)} questions the audit finds more left {never}."
        return Glance(asked, "Yes", said, GOOD)
    inside = "the audit could not judge what is left inside"
    if not _examined(evaluation):
        inside = "what is left inside was not examined"
    elif not evaluation.get("retrained"):
        inside = "what is left inside cannot be judged without a retrained model"
    return Glance(asked, "In its answers", f"{recognised}; {inside}.", OPEN)


def _harmed(evaluation: dict[str, Any]) -> Glance:
    asked, others = "Others harmed?", retained(evaluation)
    before, after = evaluation["original"], evaluation["unlearned"]
    was, now, limit = before["test_retain_accuracy"], after["test_retain_accuracy"], _limits(evaluation)[0]
    if was is None or now is None:
        said = f"There were no {_unseen(evaluation)} of the other classes to test with."
        return Glance(asked, "Not known", said, OPEN)
    what = f"the other {len(others)} classes" if len(others) > 1 else "the other class"
    said = f"Accuracy on {what}: {percent(was)} before, {percent(now)} now ({points(now, was)} points"
    harmed = 100 * (was - now) > limit + 1e-9
    said += f"; the limit is -{limit:g})." if harmed else ")."
    changes = {c: after["per_class"][c] - before["per_class"][c] for c in others if None not in _both(evaluation, c)}
    if len(changes) > 1 and (worst := min(changes, key=changes.__getitem__)) is not None and changes[worst] < 0:
        lost = points(after["per_class"][worst], before["per_class"][worst])
        said += f" '{class_name(evaluation, worst)}' lost most: {lost} points."
    return Glance(asked, "Yes" if harmed else "No", said, BAD if harmed else GOOD)


def _how_sure(evaluation: dict[str, Any]) -> Glance:
    asked, counts = "How sure?", image_counts(evaluation["unlearned"], evaluation["forget"])
    unseen, kind = _unseen(evaluation), noun(evaluation)
    if not counts[1]:
        return Glance(asked, "Not known", f"The number of {unseen} was not recorded.", OPEN)
    said = f"95% interval of the share of {_them(evaluation)} still recognised, from {counts[1]:,} {unseen}."
    judged = _judged(evaluation)
    number, untold = (
        sum(map(count, judged.values())) for count in (len, lambda found: list(found.values()).count(UNTOLD))
    )
    weak = sum(len(weak_measures(evaluation, question)) for question in judged)
    if untold:
        said += f" On {untold} of {number} measures of the audit there were too few {kind}s or runs to tell."
    if weak:
        said += f" On {weak} of {number} even the original shows no more, which proves little."
    return Glance(asked, f"{interval(counts)}%", said, OPEN)


def _what_next(evaluation: dict[str, Any], forgotten: Glance, harmed: Glance) -> Glance:
    answer, said = next(_advice(evaluation, forgotten, harmed))
    return Glance("What next?", answer, said, OPEN)


def _advice(evaluation: dict[str, Any], forgotten: Glance, harmed: Glance) -> Iterator[tuple[str, str]]:
    if forgotten.answer == "No" or harmed.answer == "Yes":
        yield "Do not use it", "Forget again with other options or another method, or retrain without the class."
    if forgotten.answer in ("Not known", "Not certain"):
        yield "Test it further", f"Evaluate with more {_unseen(evaluation)} of {_them(evaluation)}."
    if not evaluation.get("retrained"):
        yield (
            "Add a reference",
            (
                "Train a model without the class and evaluate with it as the reference: only the difference to it "
                "shows what is left inside."
            ),
        )
    if not _examined(evaluation):
        yield "Look inside", "Evaluate with an audit: accuracy alone cannot tell what is left inside."
    if forgotten.answer == "Partly":
        yield (
            "Decide",
            (
                "It serves where its answers are all that users see. Where its weights are given away, try a method "
                "that changes more of the network, or retrain without the class."
            ),
        )
    yield "Use it", "This evaluation found nothing against it."


def _examined(evaluation: dict[str, Any]) -> bool:
    """Whether the audit asked the unlearned model anything."""
    return bool(measures(evaluation, "unlearned"))


def _judged(evaluation: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The questions of the audit that can be decided, with the verdict of each measure."""
    found = {question: verdicts_of(evaluation, question) for question in questions(evaluation)}
    return {question: verdicts for question, verdicts in found.items() if verdicts}


def _strong(evaluation: dict[str, Any], question: str) -> list[str]:
    """The verdicts of measures that would catch the original."""
    weak = weak_measures(evaluation, question)
    return [which for name, which in verdicts_of(evaluation, question).items() if name not in weak]


def _share(evaluation: dict[str, Any]) -> float | None:
    return evaluation["unlearned"]["test_forget_accuracy"]


def _limits(evaluation: dict[str, Any]) -> tuple[float, float]:
    """(points that the others may lose, percentage that may still be recognised), as in the request."""
    harm = (evaluation.get("unlearn") or {}).get("harm") or {}
    return harm.get("max_retained_drop", MAX_RETAINED_DROP), harm.get("max_forgotten", MAX_FORGOTTEN)


def _both(evaluation: dict[str, Any], index: int) -> tuple[float | None, float | None]:
    return evaluation["original"]["per_class"][index], evaluation["unlearned"]["per_class"][index]


def _unseen(evaluation: dict[str, Any]) -> str:
    return f"unseen {noun(evaluation)}s"


def _them(evaluation: dict[str, Any]) -> str:
    return "this class" if len(evaluation["forget"]) == 1 else "these classes"


def _it(evaluation: dict[str, Any]) -> str:
    return "it" if len(evaluation["forget"]) == 1 else "them"
