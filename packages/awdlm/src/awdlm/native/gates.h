// The gates of a QRNN layer and its recurrence, fused, as in eager.py: y [T, B, 2H or 3H] holds z, f (and o) before
// bias and activation. Nothing but y and c is kept for the gradient: activations are cheaper to compute again than to
// store.
#pragma once
#include "columns.h"
#include "exponential.h"

namespace {

struct Gates {
  int64_t steps, batch, units, parts;

  Gates(const Tensor& y, const std::optional<Tensor>& bias, const Tensor& initial, bool output_gate) {
    expect(y.dim() == 3 && initial.dim() == 2, "awdlm: expected y [T, B, 3H] and initial [B, H], got ", y.sizes(),
           " and ", initial.sizes());
    steps = y.size(0), batch = initial.size(0), units = initial.size(1), parts = output_gate ? 3 : 2;
    check("y", y, y.scalar_type(), {steps, batch, parts * units});
    check("initial", initial, real_type(y.scalar_type()), {batch, units});
    if (bias) check("bias", *bias, initial.scalar_type(), {parts * units});
  }

  int64_t columns() const { return batch * units; }
  // Where the gate z of a time step, row and unit stands in y; f and o follow after `units` each.
  int64_t gate(int64_t t, int64_t row, int64_t unit) const { return (t * batch + row) * parts * units + unit; }
};

// z, f and o of some units of a row; without output gate, o is absent.
template <typename R>
struct Activations {
  R powers[3 * kBlock];
  int64_t n;

  template <typename T>
  void read(const T* y, const R* bias, int64_t units, int64_t count, int64_t parts) {
    n = count;
    for (int64_t part = 0; part < parts; ++part, y += units) {
      const R factor = part == 0 ? R(-2) : R(-1);
      R* to = powers + part * n;
      if (bias) {
        const R* add = bias + part * units;
        each(n, [=](int64_t i) { to[i] = factor * (R(y[i]) + add[i]); });
      } else {
        each(n, [=](int64_t i) { to[i] = factor * R(y[i]); });
      }
    }
    exponentials(powers, parts * n);
  }
  R z(int64_t i) const { return R(2) / (R(1) + powers[i]) - R(1); }  // tanh
  R f(int64_t i) const { return R(1) / (R(1) + powers[n + i]); }
  R o(int64_t i) const { return R(1) / (R(1) + powers[2 * n + i]); }
};

template <bool output_gate, typename T>
void gates_forward_columns(const Gates& s, const T* y, const Real<T>* bias, const Real<T>* initial, Real<T>* c, T* out,
                           int64_t first, int64_t last) {
  Activations<Real<T>> gates;
  for (int64_t t = 0; t < s.steps; ++t) {
    for_parts(first, last, s.units, [&](int64_t row, int64_t unit, int64_t column, int64_t n) {
      gates.read(y + s.gate(t, row, unit), bias ? bias + unit : nullptr, s.units, n, s.parts);
      const int64_t at = t * s.columns() + column;
      const Real<T>* before = t > 0 ? c + at - s.columns() : initial + column;
      each(n, [&](int64_t i) {
        const Real<T> f = gates.f(i), state = f * gates.z(i) + (Real<T>(1) - f) * before[i];
        c[at + i] = state;
        if constexpr (output_gate) out[at + i] = gates.o(i) * state;
      });
    });
  }
}

// Returns c [T, B, H] in the type to compute in, and o c in y's type; without output gate the second is empty.
std::tuple<Tensor, Tensor> gates_forward(const Tensor& y, const std::optional<Tensor>& bias, const Tensor& initial,
                                         bool output_gate) {
  const Gates s(y, bias, initial, output_gate);
  Tensor c = empty({s.steps, s.batch, s.units}, initial.scalar_type());
  Tensor out = output_gate ? empty(c.sizes(), y.scalar_type()) : empty({0}, y.scalar_type());
  with_stored(y.scalar_type(), "awdlm::gates_forward", [&]<typename T>() {
    using R = Real<T>;
    const auto run = output_gate ? &gates_forward_columns<true, T> : &gates_forward_columns<false, T>;
    const T* gates = elements<const T>(y);
    const R *start = elements<const R>(initial), *add = bias ? elements<const R>(*bias) : nullptr;
    R* states = elements<R>(c);
    T* outputs = elements<T>(out);
    for_columns(s.steps, s.columns(),
                [&](int64_t first, int64_t last) { run(s, gates, add, start, states, outputs, first, last); });
  });
  return {c, out};
}

// `grad` is by the output, `carry` by the last state; carry becomes the gradient by the first. With a bias, `sums`
// [B, 2H or 3H] gets the gradient by y summed over time.
template <bool output_gate, typename T>
void gates_backward_columns(const Gates& s, const T* grad, const T* y, const Real<T>* bias, const Real<T>* c,
                            const Real<T>* initial, T* grad_y, Real<T>* carry, Real<T>* sums, int64_t first,
                            int64_t last) {
  using R = Real<T>;
  Activations<R> gates;
  for (int64_t t = s.steps - 1; t >= 0; --t) {
    for_parts(first, last, s.units, [&](int64_t row, int64_t unit, int64_t column, int64_t n) {
      gates.read(y + s.gate(t, row, unit), bias ? bias + unit : nullptr, s.units, n, s.parts);
      const int64_t at = t * s.columns() + column;
      const R* before = t > 0 ? c + at - s.columns() : initial + column;
      R by[3][kBlock];
      each(n, [&](int64_t i) {
        const R z = gates.z(i), f = gates.f(i), o = output_gate ? gates.o(i) : R(1);
        const R by_out = grad[at + i], by_c = by_out * o + carry[column + i];
        by[0][i] = by_c * f * (R(1) - z * z);
        by[1][i] = by_c * (z - before[i]) * f * (R(1) - f);
        if constexpr (output_gate) by[2][i] = by_out * c[at + i] * o * (R(1) - o);
        carry[column + i] = by_c * (R(1) - f);
      });
      for (int64_t part = 0; part < s.parts; ++part) {
        T* to = grad_y + s.gate(t, row, unit) + part * s.units;
        R* sum = sums + s.gate(0, row, unit) + part * s.units;
        const R* from = by[part];
        if (bias) each(n, [=](int64_t i) { sum[i] += from[i]; });
        each(n, [=](int64_t i) { to[i] = from[i]; });
      }
    });
  }
}

// Returns the gradients by y, by the bias (without one, an empty tensor) and by the first state.
std::tuple<Tensor, Tensor, Tensor> gates_backward(const Tensor& grad, const Tensor& grad_last, const Tensor& y,
                                                  const std::optional<Tensor>& bias, const Tensor& c,
                                                  const Tensor& initial, bool output_gate) {
  const Gates s(y, bias, initial, output_gate);
  check("grad", grad, y.scalar_type(), {s.steps, s.batch, s.units});
  check("grad_last", grad_last, initial.scalar_type(), initial.sizes());
  check("c", c, initial.scalar_type(), {s.steps, s.batch, s.units});
  Tensor grad_y = empty(y.sizes(), y.scalar_type()), grad_initial = copy_of(grad_last);
  Tensor grad_bias = zeros({bias ? s.batch : 0, s.parts * s.units}, initial.scalar_type());
  with_stored(y.scalar_type(), "awdlm::gates_backward", [&]<typename T>() {
    using R = Real<T>;
    const auto run = output_gate ? &gates_backward_columns<true, T> : &gates_backward_columns<false, T>;
    const T *by_out = elements<const T>(grad), *gates = elements<const T>(y);
    const R *states = elements<const R>(c), *start = elements<const R>(initial);
    const R* add = bias ? elements<const R>(*bias) : nullptr;
    T* by_y = elements<T>(grad_y);
    R *carry = elements<R>(grad_initial), *sums = elements<R>(grad_bias);
    for_columns(s.steps, s.columns(), [&](int64_t first, int64_t last) {
      run(s, by_out, gates, add, states, start, by_y, carry, sums, first, last);
    });
  });
  return {grad_y, bias ? torch::stable::sum(grad_bias, Ints{0}) : empty({0}, initial.scalar_type()), grad_initial};
}

}  // namespace
