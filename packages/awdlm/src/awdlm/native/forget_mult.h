// h_t = f_t z_t + (1 - f_t) h_{t-1} and its gradient, as in eager.py. f and z may have strided rows.
#pragma once
#include "columns.h"

namespace {

struct Recurrence {
  int64_t steps, batch, units;

  Recurrence(const Tensor& f, const Tensor& z, const Tensor& initial) {
    expect(f.dim() == 3, "awdlm: expected f [T, B, H], got ", f.sizes());
    steps = f.size(0), batch = f.size(1), units = f.size(2);
    check("f", f, f.scalar_type(), {steps, batch, units}, true);
    check("z", z, f.scalar_type(), {steps, batch, units}, true);
    check("initial", initial, real_type(f.scalar_type()), {batch, units});
  }

  int64_t columns() const { return batch * units; }
};

// Finds where the rows of time steps begin.
template <typename T>
struct Rows {
  const T* first;
  int64_t by_step, by_row;

  explicit Rows(const Tensor& tensor)
      : first(elements<const T>(tensor)), by_step(tensor.stride(0)), by_row(tensor.stride(1)) {}
  const T* of(int64_t t, int64_t row) const { return first + t * by_step + row * by_row; }
};

Tensor forget_mult_forward(const Tensor& f, const Tensor& z, const Tensor& initial) {
  const Recurrence s(f, z, initial);
  Tensor h = empty(f.sizes(), f.scalar_type());
  with_stored(f.scalar_type(), "awdlm::forget_mult_forward", [&]<typename T>() {
    using R = Real<T>;
    const Rows<T> forgets(f), values(z);
    const R* start = elements<const R>(initial);
    T* out = elements<T>(h);
    for_columns(s.steps, s.columns(), [&](int64_t first, int64_t last) {
      std::vector<R> state(start + first, start + last);
      for (int64_t t = 0; t < s.steps; ++t) {
        for_parts(first, last, s.units, [&](int64_t row, int64_t unit, int64_t column, int64_t n) {
          const T *gate = forgets.of(t, row) + unit, *value = values.of(t, row) + unit;
          R* now = state.data() + column - first;
          T* to = out + t * s.columns() + column;
          each(n, [=](int64_t i) {
            const R forget = gate[i];
            now[i] = forget * R(value[i]) + (R(1) - forget) * now[i];
            to[i] = now[i];
          });
        });
      }
    });
  });
  return h;
}

std::tuple<Tensor, Tensor, Tensor> forget_mult_backward(const Tensor& grad, const Tensor& f, const Tensor& z,
                                                        const Tensor& h, const Tensor& initial) {
  const Recurrence s(f, z, initial);
  check("grad", grad, f.scalar_type(), f.sizes()), check("h", h, f.scalar_type(), f.sizes());
  Tensor grad_f = empty(f.sizes(), f.scalar_type()), grad_z = empty(f.sizes(), f.scalar_type());
  Tensor grad_initial = zeros(initial.sizes(), initial.scalar_type());  // of the state, as it goes back in time
  with_stored(f.scalar_type(), "awdlm::forget_mult_backward", [&]<typename T>() {
    using R = Real<T>;
    const Rows<T> forgets(f), values(z);
    const T *by_h = elements<const T>(grad), *states = elements<const T>(h);
    const R* start = elements<const R>(initial);
    T *by_f = elements<T>(grad_f), *by_z = elements<T>(grad_z);
    R* by_state = elements<R>(grad_initial);
    const auto step = [=](auto before, auto gate, auto value, auto from, auto to_f, auto to_z, R* carry, int64_t n) {
      each(n, [=](int64_t i) {
        const R forget = gate[i], total = R(from[i]) + carry[i];
        to_f[i] = total * (R(value[i]) - R(before[i]));
        to_z[i] = total * forget;
        carry[i] = total * (R(1) - forget);
      });
    };
    for_columns(s.steps, s.columns(), [&](int64_t first, int64_t last) {
      for (int64_t t = s.steps - 1; t >= 0; --t) {
        for_parts(first, last, s.units, [&](int64_t row, int64_t unit, int64_t column, int64_t n) {
          const T *gate = forgets.of(t, row) + unit, *value = values.of(t, row) + unit;
          const int64_t at = t * s.columns() + column;
          R* carry = by_state + column;
          if (t > 0) {
            step(states + at - s.columns(), gate, value, by_h + at, by_f + at, by_z + at, carry, n);
          } else {
            step(start + column, gate, value, by_h + at, by_f + at, by_z + at, carry, n);
          }
        });
      }
    });
  });
  return {grad_f, grad_z, grad_initial};
}

}  // namespace
