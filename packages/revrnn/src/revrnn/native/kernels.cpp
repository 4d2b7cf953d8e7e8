// The pointwise work of one time step, fused: what eager.py computes, operator for operator (docstrings are there).
// Shapes: B rows, G units of one group; `inputs` may have strided rows, everything else is contiguous.

#include "gru.h"
#include "lstm.h"

STABLE_TORCH_LIBRARY(revrnn, library) {
  define<&gru_gates>(library,
                     "gru_gates(Tensor product, Tensor inputs, Tensor other, Tensor(a!) zr, Tensor(b!) reset) -> ()");
  define<&gru_forward>(
      library,
      "gru_forward(Tensor product, Tensor inputs, Tensor zr, Tensor(a!) g, float max_forget, Tensor(b!) h, "
      "Tensor(c!)? word, int start, Tensor? active, Tensor(d!) value) -> (int, int)");
  define<&gru_reverse>(
      library,
      "gru_reverse(Tensor product, Tensor inputs, Tensor zr, Tensor(a!) g, float max_forget, Tensor(b!) h, "
      "Tensor(c!) word, int start, Tensor? active, Tensor(d!) value) -> ()");
  define<&gru_gradient_update>(
      library,
      "gru_gradient_update(Tensor(a!) grad, Tensor zr, Tensor g, Tensor before, float max_forget, Tensor? active, "
      "Tensor(b!) grad_zr, Tensor(c!) grad_g) -> ()");
  define<&gru_gradient_reset>(
      library,
      "gru_gradient_reset(Tensor grad_reset, Tensor zr, Tensor other, Tensor(a!) grad_zr, Tensor(b!) grad_other) "
      "-> ()");
  define<&lstm_gates>(library, "lstm_gates(Tensor product, Tensor inputs, Tensor(a!) gates) -> ()");
  define<&lstm_cell_forward>(
      library,
      "lstm_cell_forward(Tensor gates, float max_forget, Tensor(a!) c, Tensor(b!)? word, Tensor? active, "
      "Tensor(c!) value) -> (int, int)");
  define<&lstm_hidden_forward>(
      library,
      "lstm_hidden_forward(Tensor gates, Tensor cell, float max_forget, Tensor(a!) h, Tensor(b!)? word, int start, "
      "Tensor? active, Tensor(c!) value) -> (int, int)");
  define<&lstm_hidden_reverse>(
      library,
      "lstm_hidden_reverse(Tensor gates, Tensor cell, float max_forget, Tensor(a!) h, Tensor(b!) word, int start, "
      "Tensor? active, Tensor(c!) value) -> ()");
  define<&lstm_cell_reverse>(
      library,
      "lstm_cell_reverse(Tensor gates, float max_forget, Tensor(a!) c, Tensor(b!) word, Tensor? active, "
      "Tensor(c!) value) -> ()");
  define<&lstm_gradient>(
      library,
      "lstm_gradient(Tensor(a!) grad_h, Tensor(b!) grad_c, Tensor gates, Tensor h_before, Tensor c_before, "
      "Tensor c_after, float max_forget, Tensor? active, Tensor(c!) grad_gates) -> ()");
}
