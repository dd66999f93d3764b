"""Texts with the same commands as images."""

import json
import re

import numpy as np
import pytest

from osp_jax.audit import recovery
from osp_jax.audit.subject import images_of
from osp_jax.loading import dataset_of, indices_of, load_workdir, subject_of
from tests.experiments.conftest import assert_one_line_error, run_command
from tests.report.visible_text import visible_text
from tests.text.conftest import rows, write

FORGET, METHODS = "dogs", ("logit-mask", "osp", "osp-fit", "finetune", "scrub", "steu")


def train(texts, out, *options):
    return run_command(
        "experiments.train", "--config=configs/text_encoder.py", f"--workdir={out}", f"--config.data.name=text:{texts}",
        "--config.data.vocabulary=200", "--config.data.length=12", "--config.data.word_dropout=0.1",
        "--config.data.validation=0.1", "--config.model.width=16", "--config.model.layers=1",
        "--config.training.batch_size=16", "--config.training.epochs=6", "--config.training.weight_decay=0.01",
        *options,
    )  # fmt: skip


def unlearn(workdir, out, *options):
    return run_command("experiments.unlearn", f"--workdir={workdir}", f"--out={out}", f"--forget={FORGET}", *options)


def assert_refused(done, *words):
    assert_one_line_error(done.returncode, done.stderr, *words)


@pytest.fixture(scope="module")
def workdir(texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "original"
    done = train(texts, out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_workdir_holds_its_tokenizer_and_its_sums_list_it(workdir):
    assert "tokenizer.json" in (workdir / "SHA256SUMS").read_text(encoding="utf-8")
    assert load_workdir(workdir).tokenizer == (workdir / "tokenizer.json").read_text(encoding="utf-8")
    last = json.loads((workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["validation_accuracy"] > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_methods_act_on_an_encoder_of_texts(workdir, tmp_path, method):
    done = unlearn(workdir, tmp_path / "out", f"--method={method}", "--accept")
    assert done.returncode == 0, done.stderr
    assert "image" not in (done.stdout + done.stderr).lower()
    assert load_workdir(tmp_path / "out").tokenizer == load_workdir(workdir).tokenizer


def test_an_unlearned_encoder_is_evaluated(workdir, tmp_path):
    assert unlearn(workdir, tmp_path / "out", "--method=logit-mask").returncode == 0
    done = run_command("experiments.eval", f"--workdir={tmp_path / 'out'}", "--audit=quick")
    assert done.returncode == 0, done.stderr
    report, page, table = (
        (tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("eval.json", "report.html", "report.md")
    )
    found = json.loads(report)
    assert found["unlearned"]["test_forget_accuracy"] == 0
    assert found["original"]["test_forget_accuracy"] > 0.8
    for words in (visible_text(page), table, done.stdout, done.stderr):
        assert not re.findall(".*image.*", words, re.IGNORECASE)
    assert "unseen texts of this class" in table


def test_the_full_audit_names_what_needs_pixels_and_asks_the_rest(workdir):
    trained = load_workdir(workdir)
    dataset = dataset_of(trained, "")
    train_indices, _ = indices_of(trained, dataset)
    images = images_of(dataset, train_indices, (1,), 20, 0)
    few = recovery.Settings(steps=2, batch_size=8, inversion_steps=1)
    found = recovery.recovery(subject_of(trained), images, subject_of(trained), few, training=True)
    without = found.pop("inversion_recognised")
    assert without["value"] is None
    assert "a text has none" in without["why"]
    assert all(measure["value"] is not None for measure in found.values())


def test_a_head_in_closed_form_forgets_as_in_a_fit_without_the_class(workdir, texts, tmp_path):
    ridge = ("--config.training.head=ridge", f"--config.training.start_from={workdir}", "--config.head.stages=1")
    fitted, refit, out = (tmp_path / name for name in ("fitted", "refit", "out"))
    done = train(texts, fitted, *ridge)
    assert done.returncode == 0, done.stderr
    assert train(texts, refit, *ridge, f"--config.data.exclude={FORGET}").returncode == 0
    done = unlearn(fitted, out, "--method=exact-head")
    assert done.returncode == 0, done.stderr
    heads = [load_workdir(folder).model.variables["head"]["kernel"] for folder in (out, refit)]
    np.testing.assert_allclose(*heads, rtol=1e-5, atol=1e-5)
    assert_refused(train(texts, tmp_path / "no", *ridge, "--config.head.flip=True"), "head.flip mirrors images")


def test_what_is_about_images_is_refused_in_one_line(workdir, texts, tmp_path):
    assert_refused(train(texts, tmp_path / "a", "--config.data.pad=1"), "data.pad is 1 and the data are texts")
    assert_refused(train(texts, tmp_path / "b", "--config.model.name=resnet8"), "unknown model of texts")
    for method in ("unsir", "boundary-shrink"):
        assert_refused(unlearn(workdir, tmp_path / "c", f"--method={method}"), "network reads texts")
    moved = write(tmp_path / "texts.jsonl", rows(8, 4))
    assert_refused(
        unlearn(workdir, tmp_path / "d", "--method=steu", f"--data_dir={moved}"), "texts.jsonl had 160 train examples"
    )
