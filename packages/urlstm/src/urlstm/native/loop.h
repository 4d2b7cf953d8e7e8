// The loops over the time steps of packed sequences, forward and backward, as in eager.py. N rows of all time steps
// together, B of the longest, H units, K blocks of gates.
#pragma once
#include <ATen/core/LegacyTypeDispatch.h>

#include <tuple>
#include <utility>

#include "product.h"
#include "units.h"

namespace {

// The rows of the time steps, (first, number), in the order in which a direction passes them; `all` together, at most
// `most` of one.
std::vector<std::pair<int64_t, int64_t>> passed(at::IntArrayRef rows, bool reverse, int64_t all, int64_t most) {
  std::vector<std::pair<int64_t, int64_t>> steps;
  int64_t first = 0;
  for (int64_t number : rows) {
    TORCH_CHECK(number >= 0 && number <= most, "urlstm: a time step of ", number, " rows of ", most);
    steps.emplace_back(first, number), first += number;
  }
  TORCH_CHECK(first == all, "urlstm: time steps of ", first, " rows, gates of ", all);
  if (reverse) std::reverse(steps.begin(), steps.end());
  return steps;
}

template <typename Unit>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& gates, const Tensor& weight, bool packed,
                                                   const Tensor& bias,
                                                   const Tensor& h0, const Tensor& c0, at::IntArrayRef rows,
                                                   bool reverse) {
  const int64_t all = gates.size(0), n = h0.size(1), width = Unit::blocks * n;
  check("gates", gates, h0.scalar_type(), {all, width}), check("h0", h0, h0.scalar_type(), h0.sizes());
  if (Unit::cell) check("c0", c0, h0.scalar_type(), h0.sizes());
  Tensor h = h0.clone(), c = c0.clone(), out = at::empty({all, n}, gates.options()), cells = at::empty_like(out);
  Tensor apart = Unit::cell ? Tensor() : at::empty({h.size(0), width}, gates.options());
  AT_DISPATCH_FLOATING_TYPES(gates.scalar_type(), "urlstm::forward", [&] {
    const StepProduct<scalar_t> product(weight, packed, width, n);
    scalar_t *all_gates = gates.mutable_data_ptr<scalar_t>(), *outputs = out.mutable_data_ptr<scalar_t>();
    scalar_t *kept = cells.mutable_data_ptr<scalar_t>(), *hidden = h.mutable_data_ptr<scalar_t>();
    scalar_t* cell = Unit::cell ? c.mutable_data_ptr<scalar_t>() : nullptr;
    for (const auto& [first, number] : passed(rows, reverse, all, h.size(0))) {
      const Tensor before = h.narrow(0, 0, number);
      if constexpr (Unit::cell) {
        product.run(gates.narrow(0, first, number), before, true);
      } else {
        const Tensor total = apart.narrow(0, 0, number).copy_(bias);
        product.run(total, before, true);
      }
      const scalar_t* products = Unit::cell ? nullptr : apart.const_data_ptr<scalar_t>();
      for_rows(number, width, [&, start = first](int64_t from, int64_t to) {
        std::vector<scalar_t> scratch(Unit::work * n);
        for (int64_t b = from; b < to; ++b) {
          const int64_t at = start + b;
          scalar_t *now = hidden + b * n, *c_now = Unit::cell ? cell + b * n : nullptr;
          Unit::forward(all_gates + at * width, Unit::cell ? nullptr : products + b * width, c_now, now, kept + at * n,
                        scratch.data(), n);
          std::copy_n(now, n, outputs + at * n);
          if (Unit::cell) std::copy_n(c_now, n, kept + at * n);
        }
      });
    }
  });
  return {out, cells, h, c};
}

// One row of a step of the backward loop: `by` goes from local derivatives to the gradient by the gates.
template <typename Unit, typename R>
void multiply(R* by, const R* gates, const R* carry, const R* by_hidden, const R* grad, R* hidden, R* cell, R* operand,
              int64_t n) {
  each(n, [=](int64_t i) { hidden[i] += grad[i]; });
  if constexpr (Unit::cell) each(n, [=](int64_t i) { cell[i] += hidden[i] * by_hidden[i]; });
  for (int64_t block = 0; block < Unit::blocks; ++block) {
    R* part = by + block * n;
    const R* total = Unit::cell && block != 3 ? cell : hidden;
    each(n, [=](int64_t i) { part[i] *= total[i]; });
    if (Unit::is_cumax(block)) cumax_gradient(part, gates + block * n, n);
  }
  R* total = Unit::cell ? cell : hidden;
  each(n, [=](int64_t i) { total[i] *= carry[i]; });
  if constexpr (!Unit::cell) {
    std::copy_n(by, 4 * n, operand);
    each(n, [=](int64_t i) { operand[2 * n + i] *= gates[i]; });
  }
}

template <typename Unit>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& grad_h, const Tensor& grad_c,
                                            const Tensor& gates, const Tensor& cells, const Tensor& before,
                                            const Tensor& weight, bool packed, at::IntArrayRef rows, bool reverse) {
  const int64_t all = gates.size(0), n = grad_h.size(1), width = Unit::blocks * n;
  const auto type = gates.scalar_type();
  check("gates", gates, type, {all, width}), check("grad_h", grad_h, type, grad_h.sizes());
  for (const Tensor* tensor : {&grad, &cells, &before}) check("rows", *tensor, type, {all, n});
  if (Unit::cell) check("grad_c", grad_c, type, grad_h.sizes());
  Tensor h = grad_h.clone(), c = grad_c.clone(), out = at::empty_like(gates);
  Tensor carries = at::empty_like(cells), by_hiddens = Unit::cell ? at::empty_like(cells) : Tensor();
  Tensor apart = Unit::cell ? Tensor() : at::empty({h.size(0), width}, gates.options());
  AT_DISPATCH_FLOATING_TYPES(type, "urlstm::backward", [&] {
    const StepProduct<scalar_t> product(weight, packed, n, width);
    const scalar_t *activations = gates.const_data_ptr<scalar_t>(), *kept = cells.const_data_ptr<scalar_t>();
    const scalar_t *states = before.const_data_ptr<scalar_t>(), *by_output = grad.const_data_ptr<scalar_t>();
    scalar_t *by = out.mutable_data_ptr<scalar_t>(), *carry = carries.mutable_data_ptr<scalar_t>();
    scalar_t* by_hidden = Unit::cell ? by_hiddens.mutable_data_ptr<scalar_t>() : carry;
    for_rows(all, width, [&](int64_t from, int64_t to) {
      std::vector<scalar_t> scratch(Unit::work * n);
      for (int64_t at = from; at < to; ++at) {
        Unit::derivatives(activations + at * width, kept + at * n, states + at * n, by + at * width, carry + at * n,
                          by_hidden + at * n, scratch.data(), n);
      }
    });
    scalar_t *hidden = h.mutable_data_ptr<scalar_t>(), *cell = Unit::cell ? c.mutable_data_ptr<scalar_t>() : hidden;
    for (const auto& [first, number] : passed(rows, !reverse, all, h.size(0))) {
      scalar_t* operand = Unit::cell ? hidden : apart.mutable_data_ptr<scalar_t>();
      for_rows(number, width, [&, start = first](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; ++b) {
          const int64_t at = start + b;
          multiply<Unit>(by + at * width, activations + at * width, carry + at * n, by_hidden + at * n,
                         by_output + at * n, hidden + b * n, cell + b * n, operand + b * width, n);
        }
      });
      Tensor total = h.narrow(0, 0, number);
      if constexpr (Unit::cell) {
        product.run(total, out.narrow(0, first, number), false);
      } else {
        product.run(total, apart.narrow(0, 0, number), true);
      }
    }
  });
  return {out, h, c};
}

}  // namespace
