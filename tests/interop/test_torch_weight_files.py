"""PyTorch files: only tensors are loaded, the state dict is found, and a change leaves everything else."""

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from osp_jax.interop.weight_files import others, read_weights, rewrite, write_weights
from osp_jax.runtime.errors import InputError

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


class Net(torch.nn.Module):
    """The kinds of entries that state dicts have: parameters, float and int buffers, and weights that are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.bn = torch.nn.BatchNorm2d(2)
        self.one, self.other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.other.weight = self.one.weight


KINDS = {
    "float16": torch.ones(3, dtype=torch.float16),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "float64": torch.ones(2, 3, dtype=torch.float64),
    "int64": torch.tensor(4),
    "bool": torch.tensor([True, False]),
    "complex64": torch.ones(2, dtype=torch.complex64),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "last": torch.ones(1, 2, 3, 3).to(memory_format=torch.channels_last),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "frozen": torch.nn.Parameter(torch.ones(3), requires_grad=False),
    "gradient": torch.ones(3, requires_grad=True),
}


@pytest.fixture(params=["zip", "legacy"])
def saved(request, tmp_path):
    def save(content: Any, name: str = "in.pt") -> Path:
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=request.param == "zip")
        return tmp_path / name

    return save


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as refused:
        read_weights(path)
    assert path.name in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def bits(tensor: Any) -> bytes:
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).tolist())


def same(one: Any, other: Any) -> bool:
    """Whether two loaded contents are the same in types, order, tensors and everything that a tensor has."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        kinds = [(t.dtype, t.shape, t.stride(), t.requires_grad, t.device) for t in (one, other)]
        return kinds[0] == kinds[1] and bits(one) == bits(other)
    if isinstance(one, dict):
        alike = list(one) == list(other) and all(same(one[key], other[key]) for key in one)
        return alike and getattr(one, "_metadata", None) == getattr(other, "_metadata", None)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_every_kind_of_tensor_is_read(saved):
    read = read_weights(saved(KINDS)).arrays

    assert list(read) == list(KINDS)
    assert read["bfloat16"].dtype == ml_dtypes.bfloat16
    for key, array in read.items():
        assert array.shape == KINDS[key].shape
        assert array.tobytes() == bits(KINDS[key])


def test_float8_is_read_and_written(tmp_path):
    path, out = tmp_path / "in.pt", tmp_path / "out.pt"
    torch.save({"a": torch.ones(3).to(torch.float8_e4m3fn), "b": torch.ones(3)}, path)

    rewrite(path, out, {"a": np.array([1.0, 2, 4])})

    assert read_weights(path).arrays["a"].dtype == ml_dtypes.float8_e4m3fn
    assert torch.load(out, weights_only=True)["a"].float().tolist() == [1, 2, 4]


@pytest.mark.parametrize("key", list(KINDS))
def test_a_change_changes_its_entry_alone(saved, tmp_path, key):
    checkpoint = {"epoch": 3, "state_dict": OrderedDict(KINDS), "best": 0.5, "args": {"lr": 0.1, "names": ("a", "b")}}
    path, out = saved(checkpoint), tmp_path / "out.pt"
    value = np.asarray(read_weights(path).arrays[key])
    value = ~value if value.dtype == bool else (value + 1).astype(value.dtype)

    rewrite(path, out, {key: value})

    before, after = torch.load(path, weights_only=True), torch.load(out, weights_only=True)
    changed = after["state_dict"][key]
    assert bits(changed) == value.tobytes()
    with torch.no_grad():
        before["state_dict"][key].copy_(changed)
    assert same(before, after)
    assert path.read_bytes()[:2] == out.read_bytes()[:2]


def test_what_a_state_dict_of_a_network_knows_is_kept(saved, tmp_path):
    path, out = saved(Net().state_dict()), tmp_path / "out.pt"

    rewrite(path, out, {"conv.bias": np.ones(2)})

    after = torch.load(out, weights_only=True)
    assert type(after) is OrderedDict
    assert after._metadata == Net().state_dict()._metadata
    assert after["bn.num_batches_tracked"].dtype == torch.int64
    Net().load_state_dict(after)


def test_without_changes_a_file_is_copied(saved, tmp_path):
    path, out = saved({"state_dict": KINDS, "epoch": 1}), tmp_path / "out.pt"

    rewrite(path, out, {})

    assert path.read_bytes() == out.read_bytes()


def test_tied_weights_stay_tied(saved, tmp_path):
    path, out = saved(Net().state_dict()), tmp_path / "out.pt"

    rewrite(path, out, {"one.weight": np.full((2, 2), 7)})

    after = torch.load(out, weights_only=True)
    assert after["one.weight"].data_ptr() == after["other.weight"].data_ptr()
    assert after["other.weight"].tolist() == [[7, 7], [7, 7]]


def test_tied_weights_that_get_different_values_come_apart(saved, tmp_path):
    path, out = saved(Net().state_dict()), tmp_path / "out.pt"

    rewrite(path, out, {"one.weight": np.full((2, 2), 7), "other.weight": np.full((2, 2), 8)})

    after = torch.load(out, weights_only=True)
    assert after["one.weight"].tolist() == [[7, 7], [7, 7]]
    assert after["other.weight"].tolist() == [[8, 8], [8, 8]]


def test_tensors_that_share_memory_in_part_keep_their_values(saved, tmp_path):
    flat = torch.arange(8.0)
    state = {"first": flat[:4], "second": flat[4:], "all": flat, "wide": torch.ones(1).expand(3)}
    path, out = saved(state), tmp_path / "out.pt"

    rewrite(path, out, {"first": np.full(4, 9), "wide": np.arange(3)})

    after = {key: tensor.tolist() for key, tensor in torch.load(out, weights_only=True).items()}
    assert after == {"first": [9] * 4, "second": [4, 5, 6, 7], "all": list(range(8)), "wide": [0, 1, 2]}


STATE = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
ADAM = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "checkpoint",
    [
        STATE,
        {"state_dict": STATE, "optimizer": ADAM, "epoch": 3, "mean": torch.ones(3)},
        {"state_dict": STATE, "optimizer_states": [ADAM], "loops": {"a": {"b": torch.ones(2)}}},
        {"model": STATE, "opt": ADAM, "ema": {"fc.weight": torch.zeros(2, 2)}},
        {"model": {"state_dict": STATE, "masks": {"fc": torch.ones(2)}}},
        {"best_acc": torch.tensor(0.5), "weights_of_mine": STATE},
        [3, STATE],
        {"net": STATE, "acc": 91.0, "epoch": 4},
    ],
)
def test_the_state_dict_is_found_in_a_checkpoint(saved, tmp_path, checkpoint):
    path, out = saved(checkpoint), tmp_path / "out.pt"

    assert list(read_weights(path).arrays) == ["fc.weight", "fc.bias"]
    rewrite(path, out, {"fc.bias": np.zeros(2)})
    assert read_weights(out).arrays["fc.bias"].tolist() == [0, 0]


def test_several_mappings_without_a_usual_name_are_refused(saved):
    assert "2 mappings with tensors (student, teacher)" in refusal(saved({"student": STATE, "teacher": STATE | {}}))


@pytest.mark.parametrize("content", [torch.ones(3), {}, {"epoch": 3}, [1, 2], {"loss": torch.tensor(1.0)}])
def test_a_file_without_a_state_dict_is_refused(saved, content):
    assert "torch.save(model.state_dict(), FILE)" in refusal(saved(content))


def test_what_lies_beside_the_network_is_named(saved):
    path = saved(
        {"model": {**STATE, "criterion.weight": torch.ones(2)}, "optimizer": ADAM, "ema": STATE | {}, "epoch": 1}
    )

    assert others(path, list(STATE)) == ("criterion", "optimizer", "ema")


@pytest.mark.parametrize(
    ("content", "name", "remedy"),
    [
        (Net(), "Net", "False).state_dict(), NEW)"),
        ({"epoch": 1, "model": Net()}, "Net", "False)[KEY].state_dict(), NEW)"),
        ({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, "argparse.Namespace", "False)['state_dict'], NEW)"),
        ({"state_dict": STATE, "best": np.float64(1)}, "multiarray.scalar", "False)['state_dict'], NEW)"),
        ({"state_dict": {"a": np.ones(3)}}, "multiarray._reconstruct", "{k: torch.tensor(v) for k, v"),
    ],
)
def test_what_weights_only_refuses_is_named_with_its_remedy(saved, content, name, remedy):
    message = refusal(saved(content))

    assert name in message
    assert remedy in message


def test_code_in_a_file_never_runs(saved, tmp_path):
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was here",))

    refusal(saved({"state_dict": STATE, "evil": Evil()}))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    assert "is a pickle" in refusal(tmp_path / "plain.pt")
    assert not (tmp_path / "was here").exists()


def test_programs_are_refused_with_the_call_that_saves_their_weights(tmp_path):
    net = torch.nn.Linear(2, 2)
    torch.jit.script(net).save(tmp_path / "script.pt")
    torch.export.save(torch.export.export(net, (torch.ones(1, 2),)), tmp_path / "program.pt2")

    assert "torch.jit.load(FILE).state_dict()" in refusal(tmp_path / "script.pt")
    assert "torch.export.load(FILE).state_dict" in refusal(tmp_path / "program.pt2")


def test_tensors_of_other_kinds_are_named(saved):
    assert "'a' is a tensor of another kind (float32, sparse_coo)" in refusal(saved({"a": torch.eye(2).to_sparse()}))
    assert "without values" in refusal(saved({"a": torch.ones(2, device="meta")}))


def test_every_part_of_a_file_is_refused(saved):
    path = saved({"w": torch.ones(2)})
    content = path.read_bytes()

    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        refusal(path)


def test_flipped_bytes_end_in_arrays_or_one_line(saved):
    path = saved({"state_dict": {"w": torch.arange(3.0)}, "epoch": 3})
    content, draws = path.read_bytes(), np.random.default_rng(0)

    for _ in range(300):
        flipped = bytearray(content)
        flipped[draws.integers(len(content))] ^= draws.integers(1, 256)
        path.write_bytes(flipped)
        try:
            read_weights(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 (both ends are good)


def test_arrays_of_every_dtype_are_written_as_tensors(tmp_path):
    torch.save(KINDS, tmp_path / "in.pt")
    arrays = read_weights(tmp_path / "in.pt").arrays

    write_weights(tmp_path / "out.pt", "torch", arrays)

    after = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(after) == list(KINDS)
    assert all(after[key].dtype == KINDS[key].dtype and bits(after[key]) == bits(KINDS[key]) for key in KINDS)
