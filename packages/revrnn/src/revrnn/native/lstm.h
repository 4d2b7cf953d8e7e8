// The operators of the LSTM in eager.py, fused. gates [B, 5G] holds i, f, g, o, p (f and p not limited).
#pragma once
#include "rows.h"

namespace {

void lstm_gates(const Tensor& product, const Tensor& inputs, const Tensor& gates) {
  const int64_t rows = gates.size(0), n = gates.size(1) / 5;
  const auto type = gates.scalar_type();
  check(product, type, rows, 5 * n), check(gates, type, rows, 5 * n), check_inputs(inputs, type, rows, 5 * n);
  with_real(type, "revrnn::lstm_gates", [&]<typename T>() {
    const Rows<const T> products(product), sums(inputs);
    const Rows<T> all(gates);
    for_rows(rows, 5 * n, [&](int64_t b) {
      const T *p = products(b), *x = sums(b);
      T* gate = all(b);
      each(0, 2 * n, [=](int64_t i) { gate[i] = sigmoid<T>(p[i] + x[i]); });
      for (int64_t i = 2 * n; i < 3 * n; ++i) gate[i] = hyperbolic_tangent<T>(p[i] + x[i]);
      for (int64_t i = 3 * n; i < 5 * n; ++i) gate[i] = sigmoid<T>(p[i] + x[i]);
    });
  });
}

// i g, and o tanh(c), of row b.
template <typename T>
auto cell_addend(const Tensor& gates) {
  return [n = gates.size(1) / 5, rows = Rows<const T>(gates)](int64_t b) {
    const T *i_gate = rows(b), *g = i_gate + 2 * n;
    return [=](int64_t i) { return i_gate[i] * g[i]; };
  };
}

template <typename T>
auto hidden_addend(const Tensor& gates, const Tensor& cell) {
  return [n = gates.size(1) / 5, rows = Rows<const T>(gates), cells = Rows<const T>(cell)](int64_t b) {
    const T *o = rows(b) + 3 * n, *c = cells(b);
    return [=](int64_t i) { return o[i] * hyperbolic_tangent<T>(c[i]); };
  };
}

std::tuple<int64_t, int64_t> lstm_cell_forward(const Tensor& gates, double max_forget, const Tensor& c,
                                               const Maybe& word, const Maybe& active, const Tensor& value) {
  std::tuple<int64_t, int64_t> reach;
  check(gates, gates.scalar_type(), c.size(0), 5 * c.size(1));
  with_real(gates.scalar_type(), "revrnn::lstm_cell_forward", [&]<typename T>() {
    reach = advance_rows<T>(c, word, 0, active, value, limited<T>(gates, c.size(1), max_forget), cell_addend<T>(gates));
  });
  return reach;
}

std::tuple<int64_t, int64_t> lstm_hidden_forward(const Tensor& gates, const Tensor& cell, double max_forget,
                                                 const Tensor& h, const Maybe& word, int64_t start, const Maybe& active,
                                                 const Tensor& value) {
  std::tuple<int64_t, int64_t> reach;
  check(gates, gates.scalar_type(), h.size(0), 5 * h.size(1));
  check(cell, gates.scalar_type(), h.size(0), h.size(1));
  with_real(gates.scalar_type(), "revrnn::lstm_hidden_forward", [&]<typename T>() {
    reach = advance_rows<T>(h, word, start, active, value, limited<T>(gates, 4 * h.size(1), max_forget),
                            hidden_addend<T>(gates, cell));
  });
  return reach;
}

void lstm_hidden_reverse(const Tensor& gates, const Tensor& cell, double max_forget, const Tensor& h,
                         const Tensor& word, int64_t start, const Maybe& active, const Tensor& value) {
  check(gates, gates.scalar_type(), h.size(0), 5 * h.size(1));
  check(cell, gates.scalar_type(), h.size(0), h.size(1));
  with_real(gates.scalar_type(), "revrnn::lstm_hidden_reverse", [&]<typename T>() {
    retreat_rows<T>(h, word, start, active, value, limited<T>(gates, 4 * h.size(1), max_forget),
                    hidden_addend<T>(gates, cell));
  });
}

void lstm_cell_reverse(const Tensor& gates, double max_forget, const Tensor& c, const Tensor& word, const Maybe& active,
                       const Tensor& value) {
  check(gates, gates.scalar_type(), c.size(0), 5 * c.size(1));
  with_real(gates.scalar_type(), "revrnn::lstm_cell_reverse", [&]<typename T>() {
    retreat_rows<T>(c, word, 0, active, value, limited<T>(gates, c.size(1), max_forget), cell_addend<T>(gates));
  });
}

void lstm_gradient(const Tensor& grad_h, const Tensor& grad_c, const Tensor& gates, const Tensor& h_before,
                   const Tensor& c_before, const Tensor& c_after, double max_forget, const Maybe& active,
                   const Tensor& grad_gates) {
  const int64_t rows = grad_h.size(0), n = grad_h.size(1);
  const auto type = grad_h.scalar_type();
  for (const Tensor* tensor : {&grad_h, &grad_c, &h_before, &c_before, &c_after}) check(*tensor, type, rows, n);
  check(gates, type, rows, 5 * n), check(grad_gates, type, rows, 5 * n);
  const Idle idle(active, rows);
  with_real(type, "revrnn::lstm_gradient", [&]<typename T>() {
    const T m = max_forget;
    const auto keep_c = limited<T>(gates, n, max_forget), keep_h = limited<T>(gates, 4 * n, max_forget);
    const Rows<T> grads(grad_gates), grads_h(grad_h), grads_c(grad_c);
    const Rows<const T> all(gates), hidden(h_before), cells(c_before), cells_after(c_after);
    for_rows(rows, 5 * n, [&](int64_t b) {
      T* out = grads(b);
      if (idle(b)) {
        std::fill_n(out, 5 * n, T(0));
        return;
      }
      T *dh = grads_h(b), *dc = grads_c(b);
      const T *in = all(b), *f = in + n, *g = f + n, *o = g + n, *p = o + n;
      const T *h = hidden(b), *c = cells(b), *to = cells_after(b);
      const auto zc = keep_c(b), zh = keep_h(b);
      each(0, n, [=](int64_t i) {
        const T tanh_c = hyperbolic_tangent<T>(to[i]);
        const T d = dc[i] + dh[i] * (o[i] * (1 - tanh_c * tanh_c));
        out[i] = d * (g[i] * (in[i] - in[i] * in[i]));
        out[n + i] = d * (c[i] * (f[i] - f[i] * f[i]) * m);
        out[2 * n + i] = d * (in[i] * (1 - g[i] * g[i]));
        out[3 * n + i] = dh[i] * (tanh_c * (o[i] - o[i] * o[i]));
        out[4 * n + i] = dh[i] * (h[i] * (p[i] - p[i] * p[i]) * m);
        dc[i] = d * kept<T>(zc(i));
        dh[i] *= kept<T>(zh(i));
      });
    });
  });
}

}  // namespace
