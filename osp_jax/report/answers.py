"""The audit's questions, and the answer to each in plain sentences."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from osp_jax.report.formats import NOTHING
from osp_jax.report.measure_words import label, shown
from osp_jax.report.nouns import noun, spelled_out
from osp_jax.report.verdicts import LESS, MORE, SAME, UNTOLD, Measure, excess, value_of, verdict


class Question(NamedTuple):
    """The question as a reader asks it, so that "no" is the hoped-for answer, and how the models were asked.

    `{do} the {classes} ... {them}` agrees with the number of forgotten classes; `{image}` is the `noun` of the inputs.
    """

    text: str
    how: str


class Answer(NamedTuple):
    """An answer in plain sentences: `short` stands alone, `rest` names what weakens it."""

    short: str
    rest: str = ""


_DESCRIBES = "These measures describe only; none of them decides."

QUESTIONS = {
    "membership": Question(
        "Can one tell that a forgotten {image} was in the training data?",
        "An attacker looks at the model's answers and guesses which {image}s of the {classes} it was trained on. The "
        "area under the curve (AUC) is the chance that a training {image} looks more like one than an unseen {image} "
        "does: "
        "0.5 is guessing, 1 certain.",
    ),
    "relearning": Question(
        "Does it learn the {classes} again faster than a model that never saw {them}?",
        "The model is trained again with a few {image}s of the {classes}. The fewer steps it takes to get back to a "
        "share of what the original recognised, the more was left. Never: not within the given number of steps.",
    ),
    "probes": Question(
        "{do} the {classes} still show inside the network?",
        "A simple classifier reads the network's inner values, stage by stage, and tells {image}s of the {classes} "
        "from others; guessing gives 50%. A model that never saw the {classes} allows this to a degree, too: what is "
        "above it was learned and kept.",
    ),
    "representation": Question(
        "Does it still work like a network that saw the {classes}?",
        "On unseen {image}s of the {classes}, inner values and answers are laid beside those of the original and of "
        "the retrained model. A likeness (CKA) of 1 is the same up to a rotation, 0 is none; a distance of 0 is the "
        "same.",
    ),
    "recovery": Question(
        "Can the {classes} be brought back without {image}s of {them}?",
        "The model is disturbed in ways that undo a mere disguise; then it is asked about unseen {image}s of the "
        "{classes} again.",
    ),
}


# Shown where they were run; not reported as missing where they were not.
_BESIDE = {
    "accuracy": Question(
        "How near are its accuracies to those of a model that never saw the {classes}?",
        "Tug-of-war is 1, and the average gap 0, where they are the same (forgotten and other training {image}s, other "
        "unseen {image}s). The entropy of an answer is 0 where the model is sure.",
    ),
}


def questions(evaluation: Mapping[str, Any]) -> list[str]:
    """The questions that the report knows, in their order, and any other that was run."""
    run = [key for model in ("original", "unlearned") for key in measures(evaluation, model)]
    return list(dict.fromkeys([*QUESTIONS, *run]))


def measures(evaluation: Mapping[str, Any], model: str) -> dict[str, dict[str, Measure]]:
    """The measures of a model by question, without questions that have none."""
    found = (evaluation.get(model) or {}).get("measures") or {}
    return {question: named for question, named in found.items() if named}


def asked(evaluation: Mapping[str, Any], question: str) -> Question:
    """The question in words, about the forgotten classes."""
    kind = noun(evaluation)
    known = (QUESTIONS | _BESIDE).get(question)
    if known is None:
        return Question(spelled_out(question, kind).capitalize(), "")
    one = len(evaluation["forget"]) == 1
    words = dict(zip(("do", "classes", "them"), ("Does class it" if one else "Do classes them").split(), strict=True))
    words["image"] = kind
    return Question(known.text.format(**words), known.how.format(**words))


def answers(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key, question and short answer of every question that was put to the unlearned model and can be decided."""
    run = [question for question in questions(evaluation) if question in measures(evaluation, "unlearned")]
    short = {question: answer(evaluation, question).short for question in run}
    return [
        (question, asked(evaluation, question).text, said) for question, said in short.items() if said != _DESCRIBES
    ]


def verdicts_of(evaluation: Mapping[str, Any], question: str) -> dict[str, str]:
    """The verdict of each measure of a question that has one, by name."""
    mine, retrained, _ = _three(evaluation, question)
    found = {name: verdict(question, mine[name], retrained.get(name)) for name in mine}
    return {name: which for name, which in found.items() if which != NOTHING}


def weak_measures(evaluation: Mapping[str, Any], question: str) -> list[str]:
    """Measures with a verdict that even the untouched original passes, so that they could not have caught anything."""
    _, retrained, original = _three(evaluation, question)
    found = verdicts_of(evaluation, question)
    return [n for n in found if verdict(question, original.get(n), retrained[n]) in (SAME, LESS, UNTOLD)]


def _three(evaluation: Mapping[str, Any], question: str) -> tuple[Mapping[str, Measure], ...]:
    """The measures of the unlearned, the retrained and the original model, by name."""
    return tuple(measures(evaluation, model).get(question, {}) for model in ("unlearned", "retrained", "original"))


def answer(evaluation: Mapping[str, Any], question: str) -> Answer:
    """The answer that the measures of a question give together."""
    mine, retrained, original = _three(evaluation, question)
    kind = noun(evaluation)
    if not mine:
        return Answer("Not run.")
    if not retrained:
        return Answer(_without_yardstick(mine, original, kind))
    found = verdicts_of(evaluation, question)
    if not found:
        return Answer(_DESCRIBES)
    more = [name for name, which in found.items() if which == MORE]
    less, untold = (sum(which == one for which in found.values()) for one in (LESS, UNTOLD))
    most = max(more, key=lambda name: excess(question, mine[name], retrained[name]), default="")
    saw = "a model that never saw the " + ("class" if len(evaluation["forget"]) == 1 else "classes")
    counted = _counted(more, len(found), most, saw, untold, kind)
    weak = len(weak_measures(evaluation, question))
    if weak == len(found) and not more:
        return Answer(f"{counted} But even the original shows no more here, so this proves little.", _less(less, weak))
    few = _untold(untold, len(found), kind) if more or untold < len(found) else ""
    doubt = (
        f"{weak} of {len(found)} cannot tell even the original from such a model, and so {_verb('prove', weak)} little."
    )
    return Answer(counted, " ".join(filter(None, (_less(less, len(found)), few, doubt if weak else ""))))


def _counted(more: list[str], of: int, most: str, saw: str, untold: int, kind: str) -> str:
    if untold == of:
        which = "the one measure" if of == 1 else f"all {of} measures"
        return f"Not known: {which} had too few {kind}s or runs to tell it from {saw}."
    if of == 1:
        word, none = ("Yes", "") if more else ("No", "no ")
        return f"{word}: the one measure shows {none}more left than in {saw}."
    if not more:
        word = "Not found" if untold else "No"
        return f"{word}: none of {of} measures shows more left than in {saw}."
    word, which = ("Yes", f"all {of}") if len(more) == of else ("Partly", f"{len(more)} of {of}")
    shows = f"{which} measures {_verb('show', len(more))} more left than in {saw}"
    return f"{word}: {shows}{', most of all' if len(more) > 1 else ':'} “{label(most, kind)}”."


def _untold(untold: int, of: int, kind: str) -> str:
    return f"{untold} of {of} had too few {kind}s or runs to tell." if untold else ""


def _less(less: int, of: int) -> str:
    which = "It" if of == 1 else f"{less} of {of}"
    return f"{which} {_verb('show', less)} less left, which can itself reveal the removal." if less else ""


def _verb(word: str, number: int) -> str:
    return f"{word}s" if number == 1 else word


def _without_yardstick(mine: Mapping[str, Measure], original: Mapping[str, Measure], kind: str) -> str:
    """The first measure that could decide, before and after the request."""
    for name, found in mine.items():
        before = original.get(name)
        if found.get("leak") and value_of(found) is not None and value_of(before) is not None:
            was, now = (shown(name, measure, ends=False, kind=kind) for measure in (before, found))
            return f"No retrained model to compare with. {label(name, kind)}: {was} before, {now} now."
    return "No retrained model to compare with."
