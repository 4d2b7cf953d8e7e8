// h_t = f_t z_t + (1 - f_t) h_{t-1} and its gradient, as in eager.py. f and z may have strided rows.
#pragma once
#include "columns.h"

namespace {

struct Recurrence {
  int64_t steps, batch, units;

  Recurrence(const Tensor& f, const Tensor& z, const Tensor& initial) {
    TORCH_CHECK(f.dim() == 3, "awdlm: expected f [T, B, H], got ", f.sizes());
    steps = f.size(0), batch = f.size(1), units = f.size(2);
    check("f", f, f.scalar_type(), {steps, batch, units}, true);
    check("z", z, f.scalar_type(), {steps, batch, units}, true);
    check("initial", initial, at::toOpMathType(f.scalar_type()), {batch, units});
  }

  int64_t columns() const { return batch * units; }
};

// Where a row of a time step begins.
template <typename T>
const T* row_of(const Tensor& tensor, int64_t t, int64_t row) {
  return tensor.const_data_ptr<T>() + t * tensor.stride(0) + row * tensor.stride(1);
}

Tensor forget_mult_forward(const Tensor& f, const Tensor& z, const Tensor& initial) {
  const Recurrence s(f, z, initial);
  Tensor h = at::empty(f.sizes(), f.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, f.scalar_type(), "awdlm::forget_mult_forward", [&] {
    using R = Real<scalar_t>;
    const R* start = initial.const_data_ptr<R>();
    scalar_t* out = h.mutable_data_ptr<scalar_t>();
    for_columns(s.steps, s.columns(), [&](int64_t first, int64_t last) {
      std::vector<R> state(start + first, start + last);
      for (int64_t t = 0; t < s.steps; ++t) {
        for_parts(first, last, s.units, [&](int64_t row, int64_t unit, int64_t column, int64_t n) {
          const scalar_t *gate = row_of<scalar_t>(f, t, row) + unit, *value = row_of<scalar_t>(z, t, row) + unit;
          R* now = state.data() + column - first;
          scalar_t* to = out + t * s.columns() + column;
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
  Tensor grad_f = at::empty(f.sizes(), f.options()), grad_z = at::empty(f.sizes(), f.options());
  Tensor grad_initial = at::zeros(initial.sizes(), initial.options());  // of the state, as it goes back in time
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, f.scalar_type(), "awdlm::forget_mult_backward", [&] {
    using R = Real<scalar_t>;
    const scalar_t *by_h = grad.const_data_ptr<scalar_t>(), *states = h.const_data_ptr<scalar_t>();
    const R* start = initial.const_data_ptr<R>();
    scalar_t *by_f = grad_f.mutable_data_ptr<scalar_t>(), *by_z = grad_z.mutable_data_ptr<scalar_t>();
    R* by_state = grad_initial.mutable_data_ptr<R>();
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
          const scalar_t *gate = row_of<scalar_t>(f, t, row) + unit, *value = row_of<scalar_t>(z, t, row) + unit;
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
