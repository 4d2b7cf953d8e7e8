// The loops over the time steps of packed sequences, forward and backward, as in eager.py. N rows of all time steps
// together, B of the longest, H units, K blocks of gates.
#pragma once

#include <utility>

#include "product.h"
#include "units.h"

namespace {

// The rows of the time steps, (first, number), in the order in which a direction passes them; `all` together, at most
// `most` of one.
std::vector<std::pair<int64_t, int64_t>> passed(const std::vector<int64_t>& rows, bool reverse, int64_t all,
                                                int64_t most) {
  std::vector<std::pair<int64_t, int64_t>> steps;
  int64_t first = 0;
  for (int64_t number : rows) {
    expect(number >= 0 && number <= most, "urlstm: a time step of ", number, " rows of ", most);
    steps.emplace_back(first, number), first += number;
  }
  expect(first == all, "urlstm: time steps of ", first, " rows, gates of ", all);
  if (reverse) std::reverse(steps.begin(), steps.end());
  return steps;
}

template <typename Unit>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& gates, const Tensor& weight, bool packed,
                                                   const Tensor& bias, const Tensor& h0, const Tensor& c0,
                                                   const std::vector<int64_t>& rows, bool reverse) {
  const int64_t all = gates.size(0), n = h0.size(1), width = Unit::blocks * n;
  check("gates", gates, h0.scalar_type(), {all, width}), check("h0", h0, h0.scalar_type(), h0.sizes());
  if (Unit::cell) check("c0", c0, h0.scalar_type(), h0.sizes());
  if (!Unit::cell) check("bias", bias, h0.scalar_type(), {width});
  const auto type = gates.scalar_type();
  Tensor h = copy_of(h0), c = copy_of(c0), out = empty({all, n}, type), cells = empty({all, n}, type);
  const Tensor apart = empty({Unit::cell ? 0 : h.size(0), width}, type);
  with_real(type, "urlstm::forward", [&]<typename T>() {
    const StepProduct<T> product(weight, packed, width, n);
    T *all_gates = elements<T>(gates), *outputs = elements<T>(out);
    T *kept = elements<T>(cells), *hidden = elements<T>(h);
    T* cell = Unit::cell ? elements<T>(c) : nullptr;
    T* products = Unit::cell ? nullptr : elements<T>(apart);
    const T* constant = Unit::cell ? nullptr : elements<const T>(bias);
    for (const auto& [first, number] : passed(rows, reverse, all, h.size(0))) {
      if constexpr (Unit::cell) {
        product.run(all_gates + first * width, hidden, number, true);
      } else {
        for (int64_t b = 0; b < number; ++b) std::copy_n(constant, width, products + b * width);
        product.run(products, hidden, number, true);
      }
      for_rows(number, width, [&, start = first](int64_t from, int64_t to) {
        std::vector<T> scratch(Unit::work * n);
        for (int64_t b = from; b < to; ++b) {
          const int64_t at = start + b;
          T *now = hidden + b * n, *c_now = Unit::cell ? cell + b * n : nullptr;
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
                                            const Tensor& weight, bool packed, const std::vector<int64_t>& rows,
                                            bool reverse) {
  const int64_t all = gates.size(0), n = grad_h.size(1), width = Unit::blocks * n;
  const auto type = gates.scalar_type();
  check("gates", gates, type, {all, width}), check("grad_h", grad_h, type, grad_h.sizes());
  for (const Tensor* tensor : {&grad, &cells, &before}) check("rows", *tensor, type, {all, n});
  if (Unit::cell) check("grad_c", grad_c, type, grad_h.sizes());
  Tensor h = copy_of(grad_h), c = copy_of(grad_c), out = empty(gates.sizes(), type);
  const Tensor carries = empty(cells.sizes(), type), by_hiddens = empty({Unit::cell ? all : 0, n}, type);
  const Tensor apart = empty({Unit::cell ? 0 : h.size(0), width}, type);
  with_real(type, "urlstm::backward", [&]<typename T>() {
    const StepProduct<T> product(weight, packed, n, width);
    const T *activations = elements<const T>(gates), *kept = elements<const T>(cells);
    const T *states = elements<const T>(before), *by_output = elements<const T>(grad);
    T *by = elements<T>(out), *carry = elements<T>(carries);
    T* by_hidden = Unit::cell ? elements<T>(by_hiddens) : carry;
    for_rows(all, width, [&](int64_t from, int64_t to) {
      std::vector<T> scratch(Unit::work * n);
      for (int64_t at = from; at < to; ++at) {
        Unit::derivatives(activations + at * width, kept + at * n, states + at * n, by + at * width, carry + at * n,
                          by_hidden + at * n, scratch.data(), n);
      }
    });
    T *hidden = elements<T>(h), *cell = Unit::cell ? elements<T>(c) : hidden;
    for (const auto& [first, number] : passed(rows, !reverse, all, h.size(0))) {
      T* operand = Unit::cell ? hidden : elements<T>(apart);
      for_rows(number, width, [&, start = first](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; ++b) {
          const int64_t at = start + b;
          multiply<Unit>(by + at * width, activations + at * width, carry + at * n, by_hidden + at * n,
                         by_output + at * n, hidden + b * n, cell + b * n, operand + b * width, n);
        }
      });
      product.run(hidden, Unit::cell ? by + first * width : operand, number, !Unit::cell);
    }
  });
  return {out, h, c};
}

}  // namespace
