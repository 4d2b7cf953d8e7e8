// The pointwise work of one time step, fused: what eager.py computes, operator for operator (docstrings are there).
// Shapes: B rows, G units of one group; `inputs` may have strided rows, everything else is contiguous.
#include <torch/library.h>

#include "gru.h"
#include "lstm.h"

TORCH_LIBRARY(revrnn, library) {
  library.def("gru_gates(Tensor product, Tensor inputs, Tensor other, Tensor(a!) zr, Tensor(b!) reset) -> ()",
              &gru_gates);
  library.def(
      "gru_forward(Tensor product, Tensor inputs, Tensor zr, Tensor(a!) g, float max_forget, Tensor(b!) h, "
      "Tensor(c!)? word, int start, Tensor? active, Tensor(d!) value) -> (int, int)",
      &gru_forward);
  library.def(
      "gru_reverse(Tensor product, Tensor inputs, Tensor zr, Tensor(a!) g, float max_forget, Tensor(b!) h, "
      "Tensor(c!) word, int start, Tensor? active, Tensor(d!) value) -> ()",
      &gru_reverse);
  library.def(
      "gru_gradient_update(Tensor(a!) grad, Tensor zr, Tensor g, Tensor before, float max_forget, Tensor? active, "
      "Tensor(b!) grad_zr, Tensor(c!) grad_g) -> ()",
      &gru_gradient_update);
  library.def(
      "gru_gradient_reset(Tensor grad_reset, Tensor zr, Tensor other, Tensor(a!) grad_zr, Tensor(b!) grad_other) "
      "-> ()",
      &gru_gradient_reset);
  library.def("lstm_gates(Tensor product, Tensor inputs, Tensor(a!) gates) -> ()", &lstm_gates);
  library.def(
      "lstm_cell_forward(Tensor gates, float max_forget, Tensor(a!) c, Tensor(b!)? word, Tensor? active, "
      "Tensor(c!) value) -> (int, int)",
      &lstm_cell_forward);
  library.def(
      "lstm_hidden_forward(Tensor gates, Tensor cell, float max_forget, Tensor(a!) h, Tensor(b!)? word, int start, "
      "Tensor? active, Tensor(c!) value) -> (int, int)",
      &lstm_hidden_forward);
  library.def(
      "lstm_hidden_reverse(Tensor gates, Tensor cell, float max_forget, Tensor(a!) h, Tensor(b!) word, int start, "
      "Tensor? active, Tensor(c!) value) -> ()",
      &lstm_hidden_reverse);
  library.def(
      "lstm_cell_reverse(Tensor gates, float max_forget, Tensor(a!) c, Tensor(b!) word, Tensor? active, "
      "Tensor(c!) value) -> ()",
      &lstm_cell_reverse);
  library.def(
      "lstm_gradient(Tensor(a!) grad_h, Tensor(b!) grad_c, Tensor gates, Tensor h_before, Tensor c_before, "
      "Tensor c_after, float max_forget, Tensor? active, Tensor(c!) grad_gates) -> ()",
      &lstm_gradient);
}
