// One LSTM cell's pointwise work on a vector of units, and its gradient. Gates stand in a row as i, f, g, o, `units`
// elements after each other; n of the vector's lanes are used.
#pragma once
#include "panels.h"

namespace {

template <typename T>
Vec<T> sigmoid(const Vec<T>& x) {
  return Vec<T>(1) / (Vec<T>(1) + x.neg().exp());
}

template <typename T>
Vec<T> hyperbolic_tangent(const Vec<T>& x) {
  return Vec<T>(2) / (Vec<T>(1) + (Vec<T>(-2) * x).exp()) - Vec<T>(1);
}

// From the gates before activation to the activated ones, c and h.
template <typename T>
inline void cell_forward(const Vec<T> (&sums)[4], T* gates, int64_t units, const T* before, T* c, T* h, int64_t n) {
  const Vec<T> i = sigmoid<T>(sums[0]), f = sigmoid<T>(sums[1]), o = sigmoid<T>(sums[3]);
  const Vec<T> g = hyperbolic_tangent<T>(sums[2]), now = f * Vec<T>::loadu(before, n) + i * g;
  i.store(gates, n), f.store(gates + units, n), g.store(gates + 2 * units, n), o.store(gates + 3 * units, n);
  now.store(c, n);
  (o * hyperbolic_tangent<T>(now)).store(h, n);
}

// From the gradients by h and c to those by the gates before activation and, in place, by the c before.
template <typename T>
inline void cell_backward(const Vec<T>& grad_h, T* grad_c, const T* gates, int64_t units, const T* before, const T* c,
                          T* grad_gates, int64_t n) {
  const Vec<T> i = Vec<T>::loadu(gates, n), f = Vec<T>::loadu(gates + units, n);
  const Vec<T> g = Vec<T>::loadu(gates + 2 * units, n), o = Vec<T>::loadu(gates + 3 * units, n);
  const Vec<T> one(1), tanh_c = hyperbolic_tangent<T>(Vec<T>::loadu(c, n));
  const Vec<T> by_c = Vec<T>::loadu(grad_c, n) + grad_h * (o * (one - tanh_c * tanh_c));
  (by_c * (g * (i - i * i))).store(grad_gates, n);
  (by_c * (Vec<T>::loadu(before, n) * (f - f * f))).store(grad_gates + units, n);
  (by_c * (i * (one - g * g))).store(grad_gates + 2 * units, n);
  (grad_h * (tanh_c * (o - o * o))).store(grad_gates + 3 * units, n);
  (by_c * f).store(grad_c, n);
}

}  // namespace
