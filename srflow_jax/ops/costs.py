"""What a program costs: floating-point operations of a traced one, memory of a compiled one."""

import math
from typing import Any

import jax
from jax.extend import core


def count_flops(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> int:
  """Counts the operations of a function's convolutions and matrix products, two a multiply-add.

  Zeros that a convolution pads with are counted as any other numbers. Where a CPU computes a
  convolution with fewer products, those of the plain one are counted. All else, sums, activations
  and factorisations, is not counted.

  Args:
    jaxpr: what `jax.make_jaxpr` and `jax.jit(...).trace` make of the function.

  Raises:
    ValueError: there is a loop of unknown length around them.
  """
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "conv_general_dilated":
    kernel = _shape(equation.invars[1])
    per_output = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(_shape(equation.outvars[0])) * per_output
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left = _shape(equation.invars[0])
    per_output = math.prod(left[axis] for axis in contracted)
    return 2 * math.prod(_shape(equation.outvars[0])) * per_output
  if name == "cond":  # one way for each platform: the last is the plain one
    return count_flops(params["branches"][-1].jaxpr)
  inner = sum(count_flops(jaxpr) for jaxpr in core.jaxprs_in_params(params))
  if name == "while" and inner:
    raise ValueError("a while loop with convolutions or products: its length is not known")
  return inner * params["length"] if name == "scan" else inner


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape  # of arrays alone: types of other values have none


def program_bytes(program: jax.stages.Compiled) -> int:
  """What a compiled program needs at most, arguments included."""
  need = program.memory_analysis()
  assert need is not None  # all of JAX's compilers have one
  total = need.temp_size_in_bytes + need.argument_size_in_bytes + need.output_size_in_bytes
  return total - need.alias_size_in_bytes
