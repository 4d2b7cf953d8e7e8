// The operators of the LSTM in eager.py, fused. gates [B, 5G] holds i, f, g, o, p (f and p not limited).
#pragma once
#include "rows.h"

namespace {

void lstm_gates(const Tensor& product, const Tensor& inputs, const Tensor& gates) {
  const int64_t rows = gates.size(0), n = gates.size(1) / 5;
  const auto type = gates.scalar_type();
  check(product, type, rows, 5 * n), check(gates, type, rows, 5 * n), check_inputs(inputs, gates);
  AT_DISPATCH_FLOATING_TYPES(type, "revrnn::lstm_gates", [&] {
    for_rows(rows, 5 * n, [&](int64_t b) {
      const scalar_t *p = row<scalar_t>(product, b), *x = row<scalar_t>(inputs, b);
      scalar_t* gate = edit<scalar_t>(gates, b);
      each(0, 2 * n, [=](int64_t i) { gate[i] = sigmoid<scalar_t>(p[i] + x[i]); });
      for (int64_t i = 2 * n; i < 3 * n; ++i) gate[i] = hyperbolic_tangent<scalar_t>(p[i] + x[i]);
      for (int64_t i = 3 * n; i < 5 * n; ++i) gate[i] = sigmoid<scalar_t>(p[i] + x[i]);
    });
  });
}

// i g, and o tanh(c), of row b.
template <typename T>
auto cell_addend(const Tensor& gates) {
  return [=](int64_t b) {
    const int64_t n = gates.size(1) / 5;
    const T *i_gate = row<T>(gates, b), *g = i_gate + 2 * n;
    return [=](int64_t i) { return i_gate[i] * g[i]; };
  };
}

template <typename T>
auto hidden_addend(const Tensor& gates, const Tensor& cell) {
  return [=](int64_t b) {
    const T *o = row<T>(gates, b) + 3 * (gates.size(1) / 5), *c = row<T>(cell, b);
    return [=](int64_t i) { return o[i] * hyperbolic_tangent<T>(c[i]); };
  };
}

std::tuple<int64_t, int64_t> lstm_cell_forward(const Tensor& gates, double max_forget, const Tensor& c,
                                               const Maybe& word, const Maybe& active, const Tensor& value) {
  std::tuple<int64_t, int64_t> reach;
  check(gates, gates.scalar_type(), c.size(0), 5 * c.size(1));
  AT_DISPATCH_FLOATING_TYPES(gates.scalar_type(), "revrnn::lstm_cell_forward", [&] {
    reach = advance_rows<scalar_t>(c, word, 0, active, value, limited<scalar_t>(gates, c.size(1), max_forget),
                                   cell_addend<scalar_t>(gates));
  });
  return reach;
}

std::tuple<int64_t, int64_t> lstm_hidden_forward(const Tensor& gates, const Tensor& cell, double max_forget,
                                                 const Tensor& h, const Maybe& word, int64_t start,
                                                 const Maybe& active, const Tensor& value) {
  std::tuple<int64_t, int64_t> reach;
  check(gates, gates.scalar_type(), h.size(0), 5 * h.size(1));
  check(cell, gates.scalar_type(), h.size(0), h.size(1));
  AT_DISPATCH_FLOATING_TYPES(gates.scalar_type(), "revrnn::lstm_hidden_forward", [&] {
    reach = advance_rows<scalar_t>(h, word, start, active, value, limited<scalar_t>(gates, 4 * h.size(1), max_forget),
                                   hidden_addend<scalar_t>(gates, cell));
  });
  return reach;
}

void lstm_hidden_reverse(const Tensor& gates, const Tensor& cell, double max_forget, const Tensor& h,
                         const Tensor& word, int64_t start, const Maybe& active, const Tensor& value) {
  check(gates, gates.scalar_type(), h.size(0), 5 * h.size(1));
  check(cell, gates.scalar_type(), h.size(0), h.size(1));
  AT_DISPATCH_FLOATING_TYPES(gates.scalar_type(), "revrnn::lstm_hidden_reverse", [&] {
    retreat_rows<scalar_t>(h, word, start, active, value, limited<scalar_t>(gates, 4 * h.size(1), max_forget),
                           hidden_addend<scalar_t>(gates, cell));
  });
}

void lstm_cell_reverse(const Tensor& gates, double max_forget, const Tensor& c, const Tensor& word,
                       const Maybe& active, const Tensor& value) {
  check(gates, gates.scalar_type(), c.size(0), 5 * c.size(1));
  AT_DISPATCH_FLOATING_TYPES(gates.scalar_type(), "revrnn::lstm_cell_reverse", [&] {
    retreat_rows<scalar_t>(c, word, 0, active, value, limited<scalar_t>(gates, c.size(1), max_forget),
                           cell_addend<scalar_t>(gates));
  });
}

void lstm_gradient(const Tensor& grad_h, const Tensor& grad_c, const Tensor& gates, const Tensor& h_before,
                   const Tensor& c_before, const Tensor& c_after, double max_forget, const Maybe& active,
                   const Tensor& grad_gates) {
  const int64_t rows = grad_h.size(0), n = grad_h.size(1);
  const auto type = grad_h.scalar_type();
  for (const Tensor* tensor : {&grad_h, &grad_c, &h_before, &c_before, &c_after}) check(*tensor, type, rows, n);
  check(gates, type, rows, 5 * n), check(grad_gates, type, rows, 5 * n), check_active(active, rows);
  AT_DISPATCH_FLOATING_TYPES(type, "revrnn::lstm_gradient", [&] {
    const scalar_t m = max_forget;
    const auto keep_c = limited<scalar_t>(gates, n, max_forget), keep_h = limited<scalar_t>(gates, 4 * n, max_forget);
    for_rows(rows, 5 * n, [&](int64_t b) {
      scalar_t* out = edit<scalar_t>(grad_gates, b);
      if (idle(active, b)) {
        std::fill_n(out, 5 * n, scalar_t(0));
        return;
      }
      scalar_t *dh = edit<scalar_t>(grad_h, b), *dc = edit<scalar_t>(grad_c, b);
      const scalar_t *in = row<scalar_t>(gates, b), *f = in + n, *g = f + n, *o = g + n, *p = o + n;
      const scalar_t *h = row<scalar_t>(h_before, b), *c = row<scalar_t>(c_before, b), *to = row<scalar_t>(c_after, b);
      const auto zc = keep_c(b), zh = keep_h(b);
      each(0, n, [=](int64_t i) {
        const scalar_t tanh_c = hyperbolic_tangent<scalar_t>(to[i]);
        const scalar_t d = dc[i] + dh[i] * (o[i] * (1 - tanh_c * tanh_c));
        out[i] = d * (g[i] * (in[i] - in[i] * in[i]));
        out[n + i] = d * (c[i] * (f[i] - f[i] * f[i]) * m);
        out[2 * n + i] = d * (in[i] * (1 - g[i] * g[i]));
        out[3 * n + i] = dh[i] * (tanh_c * (o[i] - o[i] * o[i]));
        out[4 * n + i] = dh[i] * (h[i] * (p[i] - p[i] * p[i]) * m);
        dc[i] = d * kept<scalar_t>(zc(i));
        dh[i] *= kept<scalar_t>(zh(i));
      });
    });
  });
}

}  // namespace
