// The recurrence of a QRNN layer and its gates on CPU: what eager.py computes, operator for operator (docstrings are
// there), in one pass over time. Shapes: T time steps, B rows, H units.

#include "widest_vectors.h"  // before any header of torch

#include "forget_mult.h"
#include "gates.h"

STABLE_TORCH_LIBRARY(awdlm, library) {
  define<&forget_mult_forward>(library, "forget_mult_forward(Tensor f, Tensor z, Tensor initial) -> Tensor");
  define<&forget_mult_backward>(
      library,
      "forget_mult_backward(Tensor grad, Tensor f, Tensor z, Tensor h, Tensor initial) -> (Tensor, Tensor, Tensor)");
  define<&gates_forward>(library,
                         "gates_forward(Tensor y, Tensor? bias, Tensor initial, bool output_gate) -> (Tensor, Tensor)");
  define<&gates_backward>(
      library,
      "gates_backward(Tensor grad, Tensor grad_last, Tensor y, Tensor? bias, Tensor c, Tensor initial, "
      "bool output_gate) -> (Tensor, Tensor, Tensor)");
}
