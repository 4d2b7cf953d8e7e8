// The operators of the GRU in eager.py, fused. zr [B, 2G] holds z (not limited) and r.
#pragma once
#include "rows.h"

namespace {

void gru_gates(const Tensor& product, const Tensor& inputs, const Tensor& other, const Tensor& zr,
               const Tensor& reset) {
  const int64_t rows = other.size(0), n = other.size(1);
  const auto type = zr.scalar_type();
  check(product, type, rows, 2 * n), check(other, type, rows, n), check(zr, type, rows, 2 * n);
  check(reset, type, rows, n), check_inputs(inputs, type, rows, 2 * n);
  with_real(type, "revrnn::gru_gates", [&]<typename T>() {
    const Rows<const T> products(product), sums(inputs), others(other);
    const Rows<T> gates(zr), resets(reset);
    for_rows(rows, 2 * n, [&](int64_t b) {
      const T *p = products(b), *x = sums(b), *h = others(b);
      T *gate = gates(b), *out = resets(b);
      each(0, 2 * n, [=](int64_t i) { gate[i] = sigmoid<T>(p[i] + x[i]); });
      each(0, n, [=](int64_t i) { out[i] = gate[n + i] * h[i]; });
    });
  });
}

template <typename T>
void gru_candidate(const Tensor& product, const Tensor& inputs, const Tensor& zr, const Tensor& g) {
  const int64_t rows = g.size(0), n = g.size(1);
  const auto type = kType<T>;
  check(product, type, rows, n), check(zr, type, rows, 2 * n), check(g, type, rows, n);
  check_inputs(inputs, type, rows, n);
  const Rows<const T> products(product), sums(inputs);
  const Rows<T> candidates(g);
  for_rows(rows, n, [&](int64_t b) {
    const T *p = products(b), *x = sums(b);
    T* out = candidates(b);
    each(0, n, [=](int64_t i) { out[i] = hyperbolic_tangent<T>(p[i] + x[i]); });
  });
}

// (1 - z) g of row b.
template <typename T>
auto gru_addend(const Tensor& zr, const Tensor& g, double max_forget) {
  return [z = limited<T>(zr, 0, max_forget), candidates = Rows<const T>(g)](int64_t b) {
    const auto gate = z(b);
    const T* candidate = candidates(b);
    return [=](int64_t i) { return (1 - gate(i)) * candidate[i]; };
  };
}

std::tuple<int64_t, int64_t> gru_forward(const Tensor& product, const Tensor& inputs, const Tensor& zr, const Tensor& g,
                                         double max_forget, const Tensor& h, const Maybe& word, int64_t start,
                                         const Maybe& active, const Tensor& value) {
  std::tuple<int64_t, int64_t> reach;
  with_real(zr.scalar_type(), "revrnn::gru_forward", [&]<typename T>() {
    gru_candidate<T>(product, inputs, zr, g);
    reach =
        advance_rows<T>(h, word, start, active, value, limited<T>(zr, 0, max_forget), gru_addend<T>(zr, g, max_forget));
  });
  return reach;
}

void gru_reverse(const Tensor& product, const Tensor& inputs, const Tensor& zr, const Tensor& g, double max_forget,
                 const Tensor& h, const Tensor& word, int64_t start, const Maybe& active, const Tensor& value) {
  with_real(zr.scalar_type(), "revrnn::gru_reverse", [&]<typename T>() {
    gru_candidate<T>(product, inputs, zr, g);
    retreat_rows<T>(h, word, start, active, value, limited<T>(zr, 0, max_forget), gru_addend<T>(zr, g, max_forget));
  });
}

void gru_gradient_update(const Tensor& grad, const Tensor& zr, const Tensor& g, const Tensor& before, double max_forget,
                         const Maybe& active, const Tensor& grad_zr, const Tensor& grad_g) {
  const int64_t rows = grad.size(0), n = grad.size(1);
  const auto type = grad.scalar_type();
  for (const Tensor* tensor : {&grad, &g, &before, &grad_g}) check(*tensor, type, rows, n);
  check(zr, type, rows, 2 * n), check(grad_zr, type, rows, 2 * n);
  const Idle idle(active, rows);
  with_real(type, "revrnn::gru_gradient_update", [&]<typename T>() {
    const T m = max_forget;
    const auto limit = limited<T>(zr, 0, max_forget);
    const Rows<T> grads(grad), grads_zr(grad_zr), grads_g(grad_g);
    const Rows<const T> gates(zr), candidates(g), states(before);
    for_rows(rows, n, [&](int64_t b) {
      T *d = grads(b), *by_z = grads_zr(b), *by_g = grads_g(b);
      if (idle(b)) {
        std::fill_n(by_z, n, T(0)), std::fill_n(by_g, n, T(0));
        return;
      }
      const T *s = gates(b), *c = candidates(b), *h = states(b);
      const auto z = limit(b);
      each(0, n, [=](int64_t i) {
        by_z[i] = d[i] * ((h[i] - c[i]) * (s[i] - s[i] * s[i]) * m);
        by_g[i] = d[i] * ((1 - z(i)) * (1 - c[i] * c[i]));
        d[i] *= kept<T>(z(i));
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
  with_real(type, "revrnn::gru_gradient_reset", [&]<typename T>() {
    const Rows<const T> grads(grad_reset), gates(zr), others(other);
    const Rows<T> grads_zr(grad_zr), grads_other(grad_other);
    for_rows(rows, n, [&](int64_t b) {
      const T *d = grads(b), *r = gates(b) + n, *h = others(b);
      T *by_r = grads_zr(b) + n, *by_h = grads_other(b);
      each(0, n, [=](int64_t i) {
        by_r[i] = d[i] * (h[i] * (r[i] - r[i] * r[i]));
        by_h[i] += d[i] * r[i];
      });
    });
  });
}

}  // namespace
