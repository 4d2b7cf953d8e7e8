// The pointwise work of one time step of a relational memory on CPU: what eager.py computes, operator for operator
// (docstrings are there), in one pass over each item of the batch. Only products of matrices are left to the caller.

#include "widest_vectors.h"  // before any header of torch

#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "attention.h"
#include "gates.h"
#include "rectified.h"

namespace {

void attend_forward(const Tensor& qkv_m, const Tensor& qkv_x, const Tensor& bias, const Tensor& gamma,
                    const Tensor& beta, const Tensor& rows_m, const Tensor& rows_x, const Tensor& gamma_after,
                    const Tensor& beta_after, int64_t heads, int64_t key, bool joint, const Tensor& y) {
  const Sizes s = sizes_of(qkv_m, y, heads, key);
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "rmc::attend_forward", [&] {
    attend(attention_of<scalar_t>(s, qkv_m, qkv_x, bias, gamma, beta, rows_m, rows_x, gamma_after, beta_after, joint),
           y);
  });
}

void attend_backward(const Tensor& grad_y, const Tensor& qkv_m, const Tensor& qkv_x, const Tensor& bias,
                     const Tensor& gamma, const Tensor& beta, const Tensor& rows_m, const Tensor& rows_x,
                     const Tensor& gamma_after, const Tensor& beta_after, int64_t heads, int64_t key, bool joint,
                     const Tensor& grad_qkv_m, const Tensor& grad_qkv_x, const Tensor& grad_rows_m,
                     const Tensor& grad_rows_x, const Tensor& grad_bias, const Tensor& grad_gamma, const Tensor& grad_beta,
                     const Tensor& grad_gamma_after, const Tensor& grad_beta_after) {
  const Sizes s = sizes_of(qkv_m, grad_y, heads, key);
  AT_DISPATCH_FLOATING_TYPES(grad_y.scalar_type(), "rmc::attend_backward", [&] {
    const auto attention =
        attention_of<scalar_t>(s, qkv_m, qkv_x, bias, gamma, beta, rows_m, rows_x, gamma_after, beta_after, joint);
    check("gradient", grad_qkv_m, grad_y, qkv_m.sizes()), check("gradient", grad_rows_m, grad_y, rows_m.sizes());
    check("gradient", grad_qkv_x, grad_y, qkv_x.sizes()), check("gradient", grad_rows_x, grad_y, rows_x.sizes());
    attend_gradient(attention, grad_y, Rows<scalar_t>(grad_qkv_m, grad_qkv_x),
                    Rows<scalar_t>(grad_rows_m, grad_rows_x),
                    {grad_bias, grad_gamma, grad_beta, grad_gamma_after, grad_beta_after});
  });
}

void rectify_forward(const Tensor& h, const Tensor& bias, bool rectified) {
  AT_DISPATCH_FLOATING_TYPES(h.scalar_type(), "rmc::rectify_forward", [&] {
    rectified ? rectify<scalar_t, true>(h, bias) : rectify<scalar_t, false>(h, bias);
  });
}

void rectify_backward(const Tensor& grad, const Tensor& h, bool rectified, const Tensor& grad_product,
                      const Tensor& grad_bias) {
  AT_DISPATCH_FLOATING_TYPES(h.scalar_type(), "rmc::rectify_backward", [&] {
    rectified ? rectify_gradient<scalar_t, true>(grad, h, grad_product, grad_bias)
              : rectify_gradient<scalar_t, false>(grad, h, grad_product, grad_bias);
  });
}

void normalise_forward(const Tensor& y, const Tensor& h, const Tensor& gamma, const Tensor& beta, bool joint,
                       const Tensor& z) {
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "rmc::normalise_forward",
                             [&] { normalise(sum_of_rows<scalar_t>(y, h, gamma, beta, joint), z); });
}

void normalise_backward(const Tensor& grad_z, const Tensor& y, const Tensor& h, const Tensor& gamma,
                        const Tensor& beta, bool joint, const Tensor& grad_sum, const Tensor& grad_gamma,
                        const Tensor& grad_beta) {
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "rmc::normalise_backward", [&] {
    normalise_gradient(sum_of_rows<scalar_t>(y, h, gamma, beta, joint), grad_z, grad_sum, grad_gamma, grad_beta);
  });
}

void gate_forward(const Tensor& y, const Tensor& h, const Tensor& gamma, const Tensor& beta, bool joint,
                  const Tensor& gates, const Tensor& gates_x, const Tensor& memory, const Tensor& next) {
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "rmc::gate_forward", [&] {
    gate(sum_of_rows<scalar_t>(y, h, gamma, beta, joint), gates_of<scalar_t>(gates, gates_x, memory), next);
  });
}

void gate_backward(const Tensor& grad_next, const Tensor& y, const Tensor& h, const Tensor& gamma, const Tensor& beta,
                   bool joint, const Tensor& gates, const Tensor& memory, const Tensor& grad_sum,
                   const Tensor& grad_gates, const Tensor& grad_gates_x, const Tensor& grad_memory, const Tensor& grad_gamma,
                   const Tensor& grad_beta) {
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "rmc::gate_backward", [&] {
    const auto given = gates_of<scalar_t>(gates, grad_gates_x, memory);
    gate_gradient(sum_of_rows<scalar_t>(y, h, gamma, beta, joint), given, grad_next, grad_sum, grad_gates,
                  grad_memory, grad_gamma, grad_beta);
  });
}

}  // namespace

TORCH_LIBRARY(rmc, library) {
  library.def(
      "attend_forward(Tensor qkv_m, Tensor qkv_x, Tensor bias, Tensor gamma, Tensor beta, Tensor rows_m, "
      "Tensor rows_x, Tensor gamma_after, Tensor beta_after, int heads, int key, bool joint, Tensor(a!) y) -> ()",
      &attend_forward);
  library.def(
      "attend_backward(Tensor grad_y, Tensor qkv_m, Tensor qkv_x, Tensor bias, Tensor gamma, Tensor beta, "
      "Tensor rows_m, Tensor rows_x, Tensor gamma_after, Tensor beta_after, int heads, int key, bool joint, "
      "Tensor(a!) grad_qkv_m, Tensor(b!) grad_qkv_x, Tensor(c!) grad_rows_m, Tensor(d!) grad_rows_x, "
      "Tensor(e!) grad_bias, Tensor(f!) grad_gamma, Tensor(g!) grad_beta, Tensor(h!) grad_gamma_after, "
      "Tensor(i!) grad_beta_after) -> ()",
      &attend_backward);
  library.def("rectify_forward(Tensor(a!) h, Tensor bias, bool rectified) -> ()", &rectify_forward);
  library.def(
      "rectify_backward(Tensor grad, Tensor h, bool rectified, Tensor(a!) grad_product, Tensor(b!) grad_bias) -> ()",
      &rectify_backward);
  library.def(
      "normalise_forward(Tensor y, Tensor h, Tensor gamma, Tensor beta, bool joint, Tensor(a!) z) -> ()",
      &normalise_forward);
  library.def(
      "normalise_backward(Tensor grad_z, Tensor y, Tensor h, Tensor gamma, Tensor beta, bool joint, "
      "Tensor(a!) grad_sum, Tensor(b!) grad_gamma, Tensor(c!) grad_beta) -> ()",
      &normalise_backward);
  library.def(
      "gate_forward(Tensor y, Tensor h, Tensor gamma, Tensor beta, bool joint, Tensor(a!) gates, "
      "Tensor gates_x, Tensor memory, Tensor(b!) next) -> ()",
      &gate_forward);
  library.def(
      "gate_backward(Tensor grad_next, Tensor y, Tensor h, Tensor gamma, Tensor beta, bool joint, Tensor gates, "
      "Tensor memory, Tensor(a!) grad_sum, Tensor(b!) grad_gates, Tensor(c!) grad_gates_x, Tensor(d!) grad_memory, "
      "Tensor(e!) grad_gamma, Tensor(f!) grad_beta) -> ()",
      &gate_backward);
}
