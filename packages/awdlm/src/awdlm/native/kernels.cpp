// The recurrence of a QRNN layer and its gates on CPU: what eager.py computes, operator for operator (docstrings are
// there), in one pass over time. Shapes: T time steps, B rows, H units.

// Torch's vector functions take the widest vectors only where these say so, before any of its headers.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define CPU_CAPABILITY AVX512
#define CPU_CAPABILITY_AVX512
#elif defined(__AVX2__) && defined(__FMA__)
#define CPU_CAPABILITY AVX2
#define CPU_CAPABILITY_AVX2
#endif
#include <torch/library.h>

#include "forget_mult.h"
#include "gates.h"

TORCH_LIBRARY(awdlm, library) {
  library.def("forget_mult_forward(Tensor f, Tensor z, Tensor initial) -> Tensor", &forget_mult_forward);
  library.def(
      "forget_mult_backward(Tensor grad, Tensor f, Tensor z, Tensor h, Tensor initial) -> (Tensor, Tensor, Tensor)",
      &forget_mult_backward);
  library.def("gates_forward(Tensor y, Tensor? bias, Tensor initial, bool output_gate) -> (Tensor, Tensor)",
              &gates_forward);
  library.def(
      "gates_backward(Tensor grad, Tensor grad_last, Tensor y, Tensor? bias, Tensor c, Tensor initial, "
      "bool output_gate) -> (Tensor, Tensor, Tensor)",
      &gates_backward);
}
