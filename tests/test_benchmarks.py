"""Benchmarks' readings of programs and traces, on cases known by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.collectives import collectives
from benchmarks.profile import kinds_of, own_times
from benchmarks.scaling import exponent
from osp_jax.runtime.distributed import everywhere, make_mesh, using


def test_a_sum_over_devices_exchanges_its_result():
    mesh = make_mesh()
    rows = jax.ShapeDtypeStruct((16, 1000), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    with using(mesh):
        program = jax.jit(lambda x: everywhere(x.sum(0))).lower(rows).compile().as_text()
    assert collectives(program) == {"all-reduce": [4000]}


def test_rows_that_every_device_gets_are_gathered():
    mesh = make_mesh()
    rows = jax.ShapeDtypeStruct((16, 10), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    with using(mesh):
        program = jax.jit(lambda x: everywhere(x * 2)).lower(rows).compile().as_text()
    assert collectives(program) == {"all-gather": [640]}


def test_an_operation_is_charged_without_those_within_it():
    def event(name, start, duration, thread=1):
        return {"ph": "X", "pid": 1, "tid": thread, "name": name, "ts": start, "dur": duration}

    names = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": n}}
        for tid, n in ((1, "tf_XLAEigen/1"), (2, "python"))
    ]
    events = [event("while", 0, 10), event("dot", 2, 3), event("dot", 6, 4), event("add", 10, 5), event("f", 0, 9, 2)]
    assert own_times([*names, *events]) == {"while": 3, "dot": 7, "add": 5}


def test_work_is_reported_by_what_was_fused_into_an_operation():
    program = """
%inner (p: f32[4,4]) -> f32[4] {
  %p = f32[4,4]{1,0} parameter(0)
  %squares = f32[4,4]{1,0} multiply(%p, %p)
  ROOT %sums = f32[4]{0} reduce(%squares, %p), dimensions={0}
}

%moved (p: f32[4,4]) -> f32[4,4] {
  ROOT %turned = f32[4,4]{1,0} transpose(%p), dimensions={1,0}
}

ENTRY %main (x: f32[4,4]) -> f32[4] {
  %fused.1 = f32[4]{0} fusion(%x), kind=kLoop, calls=%inner
  %fused.2 = f32[4,4]{1,0} fusion(%x), kind=kLoop, calls=%moved
  %product = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}
  ROOT %sum = f32[4]{0} add(%fused.1, %fused.1)
}
"""
    found = {name: kinds_of(program)[name] for name in ("fused.1", "fused.2", "product", "sum")}
    assert list(found.values()) == ["reductions", "copies and layout", "matrix products", "element-wise"]


def test_the_exponent_of_a_power_is_found():
    assert exponent((1, 2, 4, 8), (3.0, 12.0, 48.0, 192.0)) == pytest.approx(2)
