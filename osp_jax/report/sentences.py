"""The report's opening: the request and its outcome, in plain sentences."""

from collections.abc import Iterator
from typing import Any

from osp_jax.report.answers import answers
from osp_jax.report.formats import duration, percent, points
from osp_jax.report.nouns import noun
from osp_jax.report.tables import class_name, data_seen, image_counts, interval, models, retained


def forgotten_names(evaluation: dict[str, Any]) -> str:
    """`class 'cat'`, `classes 'cat' and 'dog'`; a long list is cut after five."""
    names = [f"'{class_name(evaluation, index)}'" for index in evaluation["forget"]]
    if len(names) > 6:
        names = [*names[:5], f"{len(names) - 5} more"]
    return f"class {names[0]}" if len(names) == 1 else f"classes {', '.join(names[:-1])} and {names[-1]}"


def summary(evaluation: dict[str, Any]) -> list[str]:
    """The opening and the answers of the audit, in plain sentences."""
    return [*opening(evaluation), *(f"{asked} {said}" for _, asked, said in answers(evaluation))]


def opening(evaluation: dict[str, Any]) -> list[str]:
    """The request, its effect on the accuracy, and its cost."""
    if not evaluation["forget"]:
        model, data = evaluation["original"], evaluation["dataset"]
        asked = f"The model {evaluation['model']['name']} was evaluated as trained on {data['name']}; "
        count = image_counts(model, retained(evaluation))[1]
        unseen = f"{count:,} unseen" if count else "unseen"
        return [
            asked + "it was not asked to forget anything.",
            f"It recognises {percent(model['test_retain_accuracy'])} of the {unseen} {noun(evaluation)}s.",
        ]
    asked = f"The model was asked to forget {forgotten_names(evaluation)}."
    if not evaluation.get("unlearned"):
        return [asked, "The model after unlearning was not evaluated."]
    return [asked, *_outcome(evaluation), *_yardsticks(evaluation), *_cost(evaluation)]


def _outcome(evaluation: dict[str, Any]) -> Iterator[str]:
    before, after, forget = evaluation["original"], evaluation["unlearned"], evaluation["forget"]
    them = "this class" if len(forget) == 1 else "these classes"
    if after["test_forget_accuracy"] is None:
        yield f"There were no unseen {noun(evaluation)}s of {them} to test with."
    else:
        counts = image_counts(after, forget)
        number, bounds = (f"{counts[1]:,} ", f" (95% interval {interval(counts)}%)") if counts[1] else ("", "")
        was, now = percent(before["test_forget_accuracy"]), percent(after["test_forget_accuracy"])
        yield f"It recognised {was} of the {number}unseen {noun(evaluation)}s of {them} before, and {now}{bounds} now."
    if after["test_retain_accuracy"] is not None:
        was, now = before["test_retain_accuracy"], after["test_retain_accuracy"]
        others = len(retained(evaluation))
        yield (
            f"On the other {f'{others} classes' if others > 1 else 'class'} its accuracy went from "
            f"{percent(was)} to {percent(now)} ({points(now, was)} points)."
        )


def _yardsticks(evaluation: dict[str, Any]) -> Iterator[str]:
    found = models(evaluation)
    them = "this class" if len(evaluation["forget"]) == 1 else "these classes"
    if ideal := found.get("retrained"):
        yield (
            f"A model retrained from scratch without {them} recognises {percent(ideal['test_forget_accuracy'])} "
            f"of those {noun(evaluation)}s and {percent(ideal['test_retain_accuracy'])} of the others."
        )
    else:
        yield f"A model retrained from scratch without {them}, the ideal to compare with, was not run."
    if hidden := found.get("logit_masked"):
        yield (
            "Hiding the answer alone, with all knowledge left in place, gives "
            f"{percent(hidden['test_forget_accuracy'])} and {percent(hidden['test_retain_accuracy'])}: "
            "a low accuracy alone is no proof of forgetting."
        )
    if not answers(evaluation):
        yield f"What the model still knows of {them} was not examined, and accuracy alone cannot tell."


def _cost(evaluation: dict[str, Any]) -> Iterator[str]:
    seconds = (evaluation.get("unlearn") or {}).get("seconds") or {}
    if seconds.get("warm_median") is not None:
        yield f"Once compiled, the request takes {duration(seconds['warm_median'])}."
    images = {}
    for phase, _, forgotten, others in data_seen(evaluation)[1:]:
        images[phase] = images.get(phase, 0) + int(forgotten.replace(",", "")) + int(others.replace(",", ""))
    if "request" in images:
        before, kind = images.get("statistics"), noun(evaluation)
        earlier = f"; the class statistics, collected before, come from {before:,} {kind}s" if before else ""
        count = f"{images['request']:,}" if images["request"] else "no"
        yield f"The request read {count} {kind}s{earlier}."
