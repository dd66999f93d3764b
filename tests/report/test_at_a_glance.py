"""The top of a report: four questions, answered from the limits of the request and the verdicts of the audit."""

import pytest

from osp_jax.report.answers import measures, questions, verdicts_of, weak_measures
from osp_jax.report.at_a_glance import BAD, GOOD, OPEN, at_a_glance
from osp_jax.report.verdicts import MORE

ALL = ("original", "unlearned", "retrained")


def recognised(evaluation, hits: int, images: int = 90) -> None:
    """Sets how many unseen images of the forgotten class the unlearned model recognises."""
    (index,), model = evaluation["forget"], evaluation["unlearned"]
    row = [0] * len(model["per_class"])
    row[index], row[(index + 1) % len(row)] = hits, images - hits
    model["confusion"][index], model["per_class"][index] = row, hits / images
    model["test_forget_accuracy"] = hits / images


def like_retrained(evaluation) -> None:
    """Gives the unlearned model the measures of the retrained one, with differences that are certain to be small."""
    none = {"value": 0.0, "ci95": [-0.001, 0.001]}
    evaluation["unlearned"]["measures"] = {
        question: {name: {**measure, "difference": none} for name, measure in named.items()}
        for question, named in evaluation["retrained"]["measures"].items()
    }


def answers_of(evaluation) -> list[str]:
    return [one.answer for one in at_a_glance(evaluation)]


def test_the_questions_and_their_order(evaluate):
    glance = at_a_glance(evaluate())
    assert [one.question for one in glance] == ["Forgotten?", "Others harmed?", "How sure?", "What next?"]
    assert {one.tone for one in glance} <= {GOOD, BAD, OPEN}
    assert all(one.said.endswith(".") and one.said.count(". ") < 4 for one in glance)


def test_nothing_is_answered_where_nothing_was_forgotten_or_evaluated(evaluate):
    assert at_a_glance(evaluate(10, ())) == ()
    evaluation = evaluate()
    del evaluation["unlearned"]
    assert at_a_glance(evaluation) == ()


def test_more_left_inside_is_partly_forgotten(evaluate):
    evaluation = evaluate()
    recognised(evaluation, 0)
    judged = {q: verdicts_of(evaluation, q) for q in questions(evaluation) if verdicts_of(evaluation, q)}
    more = sum(MORE in found.values() for found in judged.values())
    assert more
    forgotten = at_a_glance(evaluation)[0]
    assert (forgotten.answer, forgotten.tone) == ("Partly", BAD)
    assert f"on {more} of {len(judged)} questions" in forgotten.said
    assert answers_of(evaluation)[3] == "Decide"


def test_no_more_left_inside_than_in_the_retrained_model_is_forgotten(evaluate):
    evaluation = evaluate()
    recognised(evaluation, 0)
    like_retrained(evaluation)
    evaluation["unlearned"]["test_retain_accuracy"] = evaluation["original"]["test_retain_accuracy"]
    forgotten = at_a_glance(evaluation)[0]
    assert (forgotten.answer, forgotten.tone) == ("Yes", GOOD)
    assert answers_of(evaluation)[3] == "Use it"


def test_measures_that_the_original_passes_do_not_make_a_yes(evaluate):
    evaluation = evaluate()
    recognised(evaluation, 0)
    like_retrained(evaluation)
    evaluation["original"]["measures"] = evaluation["unlearned"]["measures"]
    for question in questions(evaluation):
        assert weak_measures(evaluation, question) == list(verdicts_of(evaluation, question))
    assert answers_of(evaluation)[0] == "In its answers"
    assert "even the original shows no more" in at_a_glance(evaluation)[2].said


@pytest.mark.parametrize(("hits", "answer"), [(0, "Partly"), (2, "Not certain"), (45, "No")])
def test_a_class_that_is_still_recognised_is_not_forgotten(evaluate, hits, answer):
    evaluation = evaluate()
    recognised(evaluation, hits)
    assert answers_of(evaluation)[0] == answer
    assert (answers_of(evaluation)[3] == "Do not use it") == (answer == "No")


def test_the_limits_are_those_of_the_request(evaluate):
    evaluation = evaluate()
    recognised(evaluation, 45)
    evaluation["unlearn"]["harm"] = {"max_retained_drop": 100.0, "max_forgotten": 60.0}
    assert answers_of(evaluation)[0] == "Partly"
    original, unlearned = evaluation["original"], evaluation["unlearned"]
    original["test_retain_accuracy"], unlearned["test_retain_accuracy"] = 0.9, 0.85
    assert answers_of(evaluation)[1] == "No"
    evaluation["unlearn"]["harm"]["max_retained_drop"] = 2.0
    harmed = at_a_glance(evaluation)[1]
    assert (harmed.answer, harmed.tone) == ("Yes", BAD)
    assert "-5.0 points; the limit is -2" in harmed.said
    assert answers_of(evaluation)[3] == "Do not use it"


def test_a_drop_at_the_limit_is_no_harm(evaluate):
    evaluation = evaluate()
    evaluation["original"]["test_retain_accuracy"], evaluation["unlearned"]["test_retain_accuracy"] = 0.92, 0.9
    assert answers_of(evaluation)[1] == "No"


def test_without_a_reference_or_an_audit_what_is_left_inside_is_open(evaluate):
    evaluation = evaluate()
    recognised(evaluation, 0)
    del evaluation["retrained"]
    assert answers_of(evaluation)[::3] == ["In its answers", "Add a reference"]
    assert "without a retrained model" in at_a_glance(evaluation)[0].said
    evaluation = evaluate()
    recognised(evaluation, 0)
    for model in ALL:
        evaluation[model]["measures"] = {}
    assert not measures(evaluation, "unlearned")
    assert answers_of(evaluation)[::3] == ["In its answers", "Look inside"]


def test_without_unseen_images_nothing_is_known(evaluate):
    evaluation = evaluate()
    for model in ("original", "unlearned"):
        evaluation[model]["test_forget_accuracy"] = None
        evaluation[model]["confusion"] = None
    assert answers_of(evaluation)[::2] == ["Not known", "Not known"]
