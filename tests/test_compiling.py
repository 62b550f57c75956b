"""What the compiler is told."""

import jax
import jax.numpy as jnp
import pytest

from srflow_jax import compiling
from srflow_jax.compiling import compiler_options
from srflow_jax.ops.convolutions import conv

_X, _KERNEL = jnp.ones((2, 40, 40, 64)), jnp.ones((3, 3, 64, 32))


def test_convolutions_are_kept_from_the_library_that_uses_one_core():
  program = jax.jit(conv, compiler_options=compiler_options()).lower(_X, _KERNEL).compile()
  assert "ynn" not in program.as_text()
  assert "convolution" in program.as_text()


def test_xla_flags_have_the_last_word(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "")
  assert compiler_options(1)["xla_backend_optimization_level"] == "1"
  assert "xla_backend_optimization_level" not in compiler_options()
  flags = "--xla_backend_optimization_level=2 --xla_cpu_experimental_ynn_fusion_type=+DOT"
  monkeypatch.setenv("XLA_FLAGS", flags)
  assert compiler_options(1) == {}


def test_a_gpu_records_convolutions_and_loops(monkeypatch):
  """The compiler's options are those of all devices, so a CPU's says whether it knows one."""
  monkeypatch.setenv("XLA_FLAGS", "")
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  (recorded,) = compiler_options(1).values()
  assert {"FUSION", "CONVOLUTION", "WHILE"} <= set(recorded.split(","))
  monkeypatch.setattr(compiling, "_KINDS_RECORDED", recorded + ",NO_SUCH_KIND")
  assert compiler_options(1) == {}


def test_other_devices_get_the_defaults(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  assert compiler_options(1) == {}


def test_an_option_that_a_version_lacks_is_left_out(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "")
  monkeypatch.setattr(compiling, "_FUSIONS", "xla_cpu_no_such_option")
  assert compiler_options() == {}


@pytest.mark.parametrize("level", [None, 1])
def test_every_option_is_one_that_the_compiler_takes(monkeypatch, level):
  monkeypatch.setenv("XLA_FLAGS", "")
  jax.jit(lambda: 0).lower().compile(compiler_options=compiler_options(level))
