// The operators of the GRU in eager.py, fused. zr [B, 2G] holds z (not limited) and r.
#pragma once
#include "rows.h"

namespace {

void gru_gates(const Tensor& product, const Tensor& inputs, const Tensor& other, const Tensor& zr,
               const Tensor& reset) {
  const int64_t rows = other.size(0), n = other.size(1);
  const auto type = zr.scalar_type();
  check(product, type, rows, 2 * n), check(other, type, rows, n), check(zr, type, rows, 2 * n);
  check(reset, type, rows, n), check_inputs(inputs, zr);
  AT_DISPATCH_FLOATING_TYPES(type, "revrnn::gru_gates", [&] {
    for_rows(rows, 2 * n, [&](int64_t b) {
      const scalar_t *p = row<scalar_t>(product, b), *x = row<scalar_t>(inputs, b), *h = row<scalar_t>(other, b);
      scalar_t *gate = edit<scalar_t>(zr, b), *out = edit<scalar_t>(reset, b);
      each(0, 2 * n, [=](int64_t i) { gate[i] = sigmoid<scalar_t>(p[i] + x[i]); });
      each(0, n, [=](int64_t i) { out[i] = gate[n + i] * h[i]; });
    });
  });
}

template <typename T>
void gru_candidate(const Tensor& product, const Tensor& inputs, const Tensor& zr, const Tensor& g) {
  const int64_t rows = g.size(0), n = g.size(1);
  const auto type = c10::CppTypeToScalarType<T>::value;
  check(product, type, rows, n), check(zr, type, rows, 2 * n), check(g, type, rows, n);
  check_inputs(inputs, g);
  for_rows(rows, n, [&](int64_t b) {
    const T *p = row<T>(product, b), *x = row<T>(inputs, b);
    T* out = edit<T>(g, b);
    each(0, n, [=](int64_t i) { out[i] = hyperbolic_tangent<T>(p[i] + x[i]); });
  });
}

// (1 - z) g of row b.
template <typename T>
auto gru_addend(const Tensor& zr, const Tensor& g, double max_forget) {
  const auto z = limited<T>(zr, 0, max_forget);
  return [=](int64_t b) {
    const auto gate = z(b);
    const T* candidate = row<T>(g, b);
    return [=](int64_t i) { return (1 - gate(i)) * candidate[i]; };
  };
}

std::tuple<int64_t, int64_t> gru_forward(const Tensor& product, const Tensor& inputs, const Tensor& zr,
                                         const Tensor& g, double max_forget, const Tensor& h, const Maybe& word,
                                         int64_t start, const Maybe& active, const Tensor& value) {
  std::tuple<int64_t, int64_t> reach;
  AT_DISPATCH_FLOATING_TYPES(zr.scalar_type(), "revrnn::gru_forward", [&] {
    gru_candidate<scalar_t>(product, inputs, zr, g);
    reach = advance_rows<scalar_t>(h, word, start, active, value, limited<scalar_t>(zr, 0, max_forget),
                                   gru_addend<scalar_t>(zr, g, max_forget));
  });
  return reach;
}

void gru_reverse(const Tensor& product, const Tensor& inputs, const Tensor& zr, const Tensor& g, double max_forget,
                 const Tensor& h, const Tensor& word, int64_t start, const Maybe& active, const Tensor& value) {
  AT_DISPATCH_FLOATING_TYPES(zr.scalar_type(), "revrnn::gru_reverse", [&] {
    gru_candidate<scalar_t>(product, inputs, zr, g);
    retreat_rows<scalar_t>(h, word, start, active, value, limited<scalar_t>(zr, 0, max_forget),
                           gru_addend<scalar_t>(zr, g, max_forget));
  });
}

void gru_gradient_update(const Tensor& grad, const Tensor& zr, const Tensor& g, const Tensor& before,
                         double max_forget, const Maybe& active, const Tensor& grad_zr, const Tensor& grad_g) {
  const int64_t rows = grad.size(0), n = grad.size(1);
  const auto type = grad.scalar_type();
  for (const Tensor* tensor : {&grad, &g, &before, &grad_g}) check(*tensor, type, rows, n);
  check(zr, type, rows, 2 * n), check(grad_zr, type, rows, 2 * n), check_active(active, rows);
  AT_DISPATCH_FLOATING_TYPES(type, "revrnn::gru_gradient_update", [&] {
    const scalar_t m = max_forget;
    const auto limit = limited<scalar_t>(zr, 0, max_forget);
    for_rows(rows, n, [&](int64_t b) {
      scalar_t *d = edit<scalar_t>(grad, b), *by_z = edit<scalar_t>(grad_zr, b), *by_g = edit<scalar_t>(grad_g, b);
      if (idle(active, b)) {
        std::fill_n(by_z, n, scalar_t(0)), std::fill_n(by_g, n, scalar_t(0));
        return;
      }
      const scalar_t *s = row<scalar_t>(zr, b), *c = row<scalar_t>(g, b), *h = row<scalar_t>(before, b);
      const auto z = limit(b);
      each(0, n, [=](int64_t i) {
        by_z[i] = d[i] * ((h[i] - c[i]) * (s[i] - s[i] * s[i]) * m);
        by_g[i] = d[i] * ((1 - z(i)) * (1 - c[i] * c[i]));
        d[i] *= kept<scalar_t>(z(i));
      });
    });
  });
}

void gru_gradient_reset(const Tensor& grad_reset, const Tensor& zr, const Tensor& other, const Tensor& grad_zr,
                        const Tensor& grad_other) {
  const int64_t rows = other.size(0), n = other.size(1);
  const auto type = other.scalar_type();
  for (const Tensor* tensor : {&grad_reset, &other, &grad_other}) check(*tensor, type, rows, n);
  check(zr, type, rows, 2 * n), check(grad_zr, type, rows, 2 * n);
  AT_DISPATCH_FLOATING_TYPES(type, "revrnn::gru_gradient_reset", [&] {
    for_rows(rows, n, [&](int64_t b) {
      const scalar_t *d = row<scalar_t>(grad_reset, b), *r = row<scalar_t>(zr, b) + n, *h = row<scalar_t>(other, b);
      scalar_t *by_r = edit<scalar_t>(grad_zr, b) + n, *by_h = edit<scalar_t>(grad_other, b);
      each(0, n, [=](int64_t i) {
        by_r[i] = d[i] * (h[i] * (r[i] - r[i] * r[i]));
        by_h[i] += d[i] * r[i];
      });
    });
  });
}

}  // namespace
