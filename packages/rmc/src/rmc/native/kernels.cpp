// The pointwise work of one time step of a relational memory on CPU: what eager.py computes, operator for operator
// (docstrings are there), in one pass over each item of the batch. Only products of matrices are left to the caller.

#include "widest_vectors.h"  // before any header of torch

#include "attention.h"
#include "gates.h"
#include "rectified.h"

namespace {

void attend_forward(const Tensor& qkv_m, const Tensor& qkv_x, const Tensor& bias, const Tensor& gamma,
                    const Tensor& beta, const Tensor& rows_m, const Tensor& rows_x, const Tensor& gamma_after,
                    const Tensor& beta_after, int64_t heads, int64_t key, bool joint, const Tensor& y) {
  const Sizes s = sizes_of(qkv_m, y, heads, key);
  with_real(y.scalar_type(), "rmc::attend_forward", [&]<typename T>() {
    attend(attention_of<T>(s, qkv_m, qkv_x, bias, gamma, beta, rows_m, rows_x, gamma_after, beta_after, joint), y);
  });
}

void attend_backward(const Tensor& grad_y, const Tensor& qkv_m, const Tensor& qkv_x, const Tensor& bias,
                     const Tensor& gamma, const Tensor& beta, const Tensor& rows_m, const Tensor& rows_x,
                     const Tensor& gamma_after, const Tensor& beta_after, int64_t heads, int64_t key, bool joint,
                     const Tensor& grad_qkv_m, const Tensor& grad_qkv_x, const Tensor& grad_rows_m,
                     const Tensor& grad_rows_x, const Tensor& grad_bias, const Tensor& grad_gamma,
                     const Tensor& grad_beta, const Tensor& grad_gamma_after, const Tensor& grad_beta_after) {
  const Sizes s = sizes_of(qkv_m, grad_y, heads, key);
  with_real(grad_y.scalar_type(), "rmc::attend_backward", [&]<typename T>() {
    const auto attention =
        attention_of<T>(s, qkv_m, qkv_x, bias, gamma, beta, rows_m, rows_x, gamma_after, beta_after, joint);
    check("gradient", grad_qkv_m, grad_y, qkv_m.sizes()), check("gradient", grad_rows_m, grad_y, rows_m.sizes());
    check("gradient", grad_qkv_x, grad_y, qkv_x.sizes()), check("gradient", grad_rows_x, grad_y, rows_x.sizes());
    attend_gradient(attention, grad_y, Rows<T>(grad_qkv_m, grad_qkv_x), Rows<T>(grad_rows_m, grad_rows_x),
                    {grad_bias, grad_gamma, grad_beta, grad_gamma_after, grad_beta_after});
  });
}

void rectify_forward(const Tensor& h, const Tensor& bias, bool rectified) {
  with_real(h.scalar_type(), "rmc::rectify_forward",
            [&]<typename T>() { rectified ? rectify<T, true>(h, bias) : rectify<T, false>(h, bias); });
}

void rectify_backward(const Tensor& grad, const Tensor& h, bool rectified, const Tensor& grad_product,
                      const Tensor& grad_bias) {
  with_real(h.scalar_type(), "rmc::rectify_backward", [&]<typename T>() {
    rectified ? rectify_gradient<T, true>(grad, h, grad_product, grad_bias)
              : rectify_gradient<T, false>(grad, h, grad_product, grad_bias);
  });
}

void normalise_forward(const Tensor& y, const Tensor& h, const Tensor& gamma, const Tensor& beta, bool joint,
                       const Tensor& z) {
  with_real(y.scalar_type(), "rmc::normalise_forward",
            [&]<typename T>() { normalise(sum_of_rows<T>(y, h, gamma, beta, joint), z); });
}

void normalise_backward(const Tensor& grad_z, const Tensor& y, const Tensor& h, const Tensor& gamma, const Tensor& beta,
                        bool joint, const Tensor& grad_sum, const Tensor& grad_gamma, const Tensor& grad_beta) {
  with_real(y.scalar_type(), "rmc::normalise_backward", [&]<typename T>() {
    normalise_gradient(sum_of_rows<T>(y, h, gamma, beta, joint), grad_z, grad_sum, grad_gamma, grad_beta);
  });
}

void gate_forward(const Tensor& y, const Tensor& h, const Tensor& gamma, const Tensor& beta, bool joint,
                  const Tensor& gates, const Tensor& gates_x, const Tensor& memory, const Tensor& next) {
  with_real(y.scalar_type(), "rmc::gate_forward", [&]<typename T>() {
    gate(sum_of_rows<T>(y, h, gamma, beta, joint), gates_of<T>(gates, gates_x, memory), next);
  });
}

void gate_backward(const Tensor& grad_next, const Tensor& y, const Tensor& h, const Tensor& gamma, const Tensor& beta,
                   bool joint, const Tensor& gates, const Tensor& memory, const Tensor& grad_sum,
                   const Tensor& grad_gates, const Tensor& grad_gates_x, const Tensor& grad_memory,
                   const Tensor& grad_gamma, const Tensor& grad_beta) {
  with_real(y.scalar_type(), "rmc::gate_backward", [&]<typename T>() {
    const auto given = gates_of<T>(gates, grad_gates_x, memory);
    gate_gradient(sum_of_rows<T>(y, h, gamma, beta, joint), given, grad_next, grad_sum, grad_gates, grad_memory,
                  grad_gamma, grad_beta);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY(rmc, library) {
  define<&attend_forward>(
      library,
      "attend_forward(Tensor qkv_m, Tensor qkv_x, Tensor bias, Tensor gamma, Tensor beta, Tensor rows_m, "
      "Tensor rows_x, Tensor gamma_after, Tensor beta_after, int heads, int key, bool joint, Tensor(a!) y) -> ()");
  define<&attend_backward>(
      library,
      "attend_backward(Tensor grad_y, Tensor qkv_m, Tensor qkv_x, Tensor bias, Tensor gamma, Tensor beta, "
      "Tensor rows_m, Tensor rows_x, Tensor gamma_after, Tensor beta_after, int heads, int key, bool joint, "
      "Tensor(a!) grad_qkv_m, Tensor(b!) grad_qkv_x, Tensor(c!) grad_rows_m, Tensor(d!) grad_rows_x, "
      "Tensor(e!) grad_bias, Tensor(f!) grad_gamma, Tensor(g!) grad_beta, Tensor(h!) grad_gamma_after, "
      "Tensor(i!) grad_beta_after) -> ()");
  define<&rectify_forward>(library, "rectify_forward(Tensor(a!) h, Tensor bias, bool rectified) -> ()");
  define<&rectify_backward>(
      library,
      "rectify_backward(Tensor grad, Tensor h, bool rectified, Tensor(a!) grad_product, Tensor(b!) grad_bias) -> ()");
  define<&normalise_forward>(
      library, "normalise_forward(Tensor y, Tensor h, Tensor gamma, Tensor beta, bool joint, Tensor(a!) z) -> ()");
  define<&normalise_backward>(
      library,
      "normalise_backward(Tensor grad_z, Tensor y, Tensor h, Tensor gamma, Tensor beta, bool joint, "
      "Tensor(a!) grad_sum, Tensor(b!) grad_gamma, Tensor(c!) grad_beta) -> ()");
  define<&gate_forward>(library,
                        "gate_forward(Tensor y, Tensor h, Tensor gamma, Tensor beta, bool joint, Tensor(a!) gates, "
                        "Tensor gates_x, Tensor memory, Tensor(b!) next) -> ()");
  define<&gate_backward>(
      library,
      "gate_backward(Tensor grad_next, Tensor y, Tensor h, Tensor gamma, Tensor beta, bool joint, Tensor gates, "
      "Tensor memory, Tensor(a!) grad_sum, Tensor(b!) grad_gates, Tensor(c!) grad_gates_x, Tensor(d!) grad_memory, "
      "Tensor(e!) grad_gamma, Tensor(f!) grad_beta) -> ()");
}
