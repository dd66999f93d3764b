"""A file of texts as a data set."""

import json

import numpy as np
import pytest

from osp_jax.data.kinds import PAD, UNKNOWN
from osp_jax.data.sources import load_data
from osp_jax.data.splits import first_alike, hold_out
from osp_jax.runtime.errors import InputError
from osp_jax.text.dataset import load_texts
from osp_jax.text.tokenizer import encode, token_names, train_tokenizer
from tests.text.conftest import CLASSES, SETTINGS, rows, write


def load(path, tokenizer="", **changes):
    return load_texts(path, "text:some", SETTINGS | changes, tokenizer)


def test_splits_and_classes_are_those_of_the_file(texts):
    dataset = load(texts)
    assert dataset.class_names == CLASSES
    assert dataset.image_shape == (12,)
    assert [split.images.dtype for split in (dataset.train, dataset.test)] == [np.uint16] * 2
    assert np.bincount(dataset.train.labels).tolist() == [40] * 4
    assert np.bincount(dataset.test.labels).tolist() == [20] * 4


def test_tokens_are_words_in_order_then_padding(texts):
    dataset, first = load(texts), rows()[0]
    names = token_names(dataset.tokenizer)
    found = [names[i] for i in dataset.train.images[0] if i != PAD]
    assert found == first["text"].split()
    assert (dataset.train.images[0][len(found) :] == PAD).all()


def test_the_tokenizer_sees_the_training_split_alone(tmp_path):
    found = [*rows(), *({"text": "zebra zebra zebra", "label": name, "split": "test"} for name in CLASSES)]
    dataset = load(write(tmp_path / "a.jsonl", found))
    assert "zebra" not in token_names(dataset.tokenizer)
    assert set(dataset.test.images[-1]) - {PAD, UNKNOWN} != set() or UNKNOWN in dataset.test.images[-1]


def test_the_same_texts_give_the_same_tokenizer():
    contents = [row["text"] for row in rows()]
    assert train_tokenizer(contents, 300) == train_tokenizer(contents, 300)


def test_a_tokenizer_that_is_given_is_used(texts):
    other = train_tokenizer(["books0 dogs1 ships2 trains3"] * 3, 40)
    dataset = load(texts, tokenizer=other)
    assert dataset.tokenizer == other
    np.testing.assert_array_equal(dataset.train.images[:1], encode(other, [rows()[0]["text"]], 12))


def test_a_vocabulary_has_no_more_tokens_than_asked_for():
    assert len(token_names(train_tokenizer([row["text"] for row in rows()], 50))) <= 50


def test_texts_without_a_split_are_divided_by_text(tmp_path):
    found = [{"text": row["text"], "label": row["label"]} for row in rows(test=0)]
    twice = [{"text": f"twice {i % 10}", "label": CLASSES[i // 10 % 2]} for i in range(20)]  # each with two labels
    path = write(tmp_path / "a.jsonl", [*found, *twice])
    dataset = load(path, test=0.25)
    sides = [{tuple(ids) for ids in split.images.tolist()} for split in (dataset.train, dataset.test)]
    assert not sides[0] & sides[1]
    assert len(dataset.train.labels) + len(dataset.test.labels) == 180
    assert not dataset.test_held_out
    assert load(path, validation=0.25).test_held_out
    with pytest.raises(InputError, match="has no test images"):
        load(path)


def test_validation_keeps_texts_that_read_alike_on_one_side():
    ids = np.array([[5, 6], [7, 8], [5, 6], [9, 9], [7, 8], [1, 2], [3, 4], [2, 2]], np.uint16)
    labels = np.array([0, 0, 1, 0, 0, 1, 1, 1], np.int32)
    alike = first_alike(ids)
    assert alike.tolist() == [0, 1, 0, 3, 1, 5, 6, 7]
    for seed in range(5):
        train, validation = hold_out(labels, 0.34, seed, alike)
        assert sorted([*train, *validation]) == list(range(8))
        assert not set(alike[train]) & set(alike[validation])


def test_images_are_held_out_as_before():
    labels = np.repeat(np.arange(3), 10)
    for one, other in zip(hold_out(labels, 0.3, 1), hold_out(labels, 0.3, 1, np.arange(30)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first_alike(np.zeros((3, 2, 2, 1), np.uint8)).tolist() == [0, 1, 2]


def test_headers_footers_and_quotes_are_stripped_as_scikit_learn_does(tmp_path):
    post = "From: me\nSubject: ship\n\nHe writes:\n> quoted zebra\nmy words stay\n\n--\nsignature zebra"
    found = [{"text": post, "label": name, "split": split} for name in CLASSES for split in ("train", "train", "test")]
    dataset = load(write(tmp_path / "a.jsonl", found), strip="newsgroups")
    names = token_names(dataset.tokenizer)
    assert [names[i] for i in dataset.train.images[0] if i != PAD] == ["my", "words", "stay"]
    assert "headers, footers and quotes stripped" in dataset.variant


def test_what_cannot_be_a_data_set_is_refused_in_one_line(tmp_path, texts):
    some = rows(4, 2)
    cases = (
        ([{**row, "label": "one"} for row in some], {}, "all texts are of one class"),
        ([row for row in some if (row["split"], row["label"]) != ("test", "dogs")], {}, "no test text is of the class"),
        ([{**row, "split": "train"} for row in some], {}, "has no test text"),
        ([*some, {"text": "a", "label": "dogs"}], {}, "1 of 25 texts have no split"),
        (some, {"test": 0.5}, "has splits of its own"),
        (some, {"image_size": 8}, "data.image_size is 8 and the data are texts"),
        ([{**row, "label": "a\x1bb"} for row in some[:4]] + some, {}, "characters that cannot be printed"),
    )
    for number, (found, changes, message) in enumerate(cases):
        with pytest.raises(InputError, match=message) as raised:
            load(write(tmp_path / f"{number}.jsonl", found), **changes)
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="the tokenizer cannot be read"):
        load(texts, tokenizer=json.dumps({"version": "1.0"}))


def test_load_data_reads_texts_and_orders_their_classes(texts):
    settings = {"name": f"text:{texts}", "vocabulary": 300, "length": 12, "class_names": "ships,dogs,books,trains"}
    dataset = load_data(settings)
    assert dataset.class_names == ("ships", "dogs", "books", "trains")
    assert dataset.name == "text:texts.jsonl"
    again = load_data({**settings, "name": "text:elsewhere/texts.jsonl", "dir": str(texts.parent)})
    np.testing.assert_array_equal(again.train.images, dataset.train.images)
    assert dataset.train.labels[0] == 2
