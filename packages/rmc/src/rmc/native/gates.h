// The normalisation after the MLP, and the gates between it and the memory, for each item of a batch.
// B items, S slots, Q rows (S, or S and the input), M numbers of a row; G numbers of gates a slot: 2 M, 2, or none.
#pragma once
#include "rows.h"

namespace {

// gamma, beta: the normalisation of the sum of y and h, [B, Q, M] each.
template <typename T>
struct Sum {
  int64_t batch, rows, width;
  const T *y, *h;
  Norm<T> norm;

  int64_t size() const { return rows * width; }
  void forward(int64_t b, T* normal, T* scales) const {
    const T *left = y + b * size(), *right = h + b * size();
    each<T>(size(), [=](int64_t i) { normal[i] = left[i] + right[i]; });
    norm.standardise(normal, scales);
  }
};

template <typename T>
Sum<T> sum_of_rows(const Tensor& y, const Tensor& h, const Tensor& gamma, const Tensor& beta, bool joint) {
  const int64_t batch = y.size(0), rows = y.size(1), width = y.size(2);
  check("h", h, y, y.sizes());
  expect(y.is_contiguous() && h.is_contiguous(), "rmc: expected contiguous rows");
  return {batch, rows, width, elements<const T>(y), elements<const T>(h), norm_of<T>(gamma, beta, joint, rows, width)};
}

template <typename T>
void normalise(const Sum<T>& sum, const Tensor& z) {
  T* out = elements<T>(z);
  for_parts(sum.batch, parts_of(sum.batch), [&](int64_t first, int64_t last, int64_t) {
    Scratch<T> normal(sum.size()), scales(sum.rows);
    for (int64_t b = first; b < last; ++b) {
      sum.forward(b, normal.data(), scales.data());
      sum.norm.affine(normal.data(), out + b * sum.size());
    }
  });
}

template <typename T>
void normalise_gradient(const Sum<T>& sum, const Tensor& grad_z, const Tensor& grad_sum, const Tensor& by_gamma,
                        const Tensor& by_beta) {
  const int64_t parts = parts_of(sum.batch), size = sum.size();
  Sums<T> gamma(parts, sum.norm.size), beta(parts, sum.norm.size);
  const T* given = elements<const T>(grad_z);
  T* out = elements<T>(grad_sum);
  for_parts(sum.batch, parts, [&](int64_t first, int64_t last, int64_t part) {
    Scratch<T> normal(size), scales(sum.rows);
    for (int64_t b = first; b < last; ++b) {
      sum.forward(b, normal.data(), scales.data());
      std::copy_n(given + b * size, size, out + b * size);
      sum.norm.gradient(out + b * size, normal.data(), scales.data(), gamma.of(part), beta.of(part));
    }
  });
  gamma.add_to(by_gamma), beta.add_to(by_beta);
}

// The gates [B, S, G], input then forget; what of them is the same for all slots, [B, G]: the input's part, or the
// gradient by it; and the memory before [B, S, M].
template <typename T>
struct Gates {
  int64_t slots, width;
  T *gates, *common;
  const T* memory;
  int64_t memory_item;

  bool whole(int64_t columns) const { return width == 2 * columns; }
  T* of(int64_t b, int64_t slot) const { return gates + (b * slots + slot) * width; }
  T* common_of(int64_t b) const { return common + b * width; }
  const T* before(int64_t b, int64_t slot, int64_t columns) const { return memory + b * memory_item + slot * columns; }
};

template <typename T>
Gates<T> gates_of(const Tensor& gates, const Tensor& common, const Tensor& memory) {
  const int64_t batch = memory.size(0), slots = memory.size(1), width = gates.size(2);
  check("gates", gates, memory, {batch, slots, width}), check("gates of the input", common, memory, {batch, width});
  expect(gates.is_contiguous() && common.is_contiguous() && memory.is_contiguous(),
         "rmc: expected contiguous gates and memory");
  return {slots, width, elements<T>(gates), elements<T>(common), elements<const T>(memory), memory.stride(0)};
}

// Activates the gates, and makes the next memory [B, S, M].
template <typename T>
void gate(const Sum<T>& sum, const Gates<T>& g, const Tensor& next) {
  T* out = elements<T>(next);
  const int64_t columns = sum.width;
  for_parts(sum.batch, parts_of(sum.batch), [&](int64_t first, int64_t last, int64_t) {
    Scratch<T> normal(sum.size()), scales(sum.rows);
    for (int64_t b = first; b < last; ++b) {
      sum.forward(b, normal.data(), scales.data());
      sum.norm.affine(normal.data(), normal.data());
      if (g.width) hyperbolic_tangent(normal.data(), g.slots * columns);
      for (int64_t slot = 0; slot < g.slots; ++slot) {
        T *to = out + (b * g.slots + slot) * columns, *write = g.of(b, slot), *keep = write + g.width / 2;
        const T *now = normal.data() + slot * columns, *old = g.before(b, slot, columns);
        add_scaled(write, g.common_of(b), T(1), g.width);
        logistic(write, g.width, T(-1));
        if (!g.width) {
          std::copy_n(now, columns, to);
        } else if (g.whole(columns)) {
          each<T>(columns, [=](int64_t i) { to[i] = write[i] * now[i] + keep[i] * old[i]; });
        } else {
          const T in = *write, forget = *keep;
          each<T>(columns, [=](int64_t i) { to[i] = in * now[i] + forget * old[i]; });
        }
      }
    }
  });
}

// From the gradient by the next memory to those by the sum, by the gates before activation, and by the memory before.
template <typename T>
void gate_gradient(const Sum<T>& sum, const Gates<T>& g, const Tensor& grad_next, const Tensor& grad_sum,
                   const Tensor& grad_gates, const Tensor& grad_memory, const Tensor& by_gamma, const Tensor& by_beta) {
  const int64_t parts = parts_of(sum.batch), columns = sum.width;
  Sums<T> gamma(parts, sum.norm.size), beta(parts, sum.norm.size);
  const T* given = elements<const T>(grad_next);
  T *by_sum = elements<T>(grad_sum), *by_gates = elements<T>(grad_gates);
  T* by_memory = elements<T>(grad_memory);
  for_parts(sum.batch, parts, [&](int64_t first, int64_t last, int64_t part) {
    Scratch<T> normal(sum.size()), new_values(sum.size()), scales(sum.rows);
    for (int64_t b = first; b < last; ++b) {
      sum.forward(b, normal.data(), scales.data());
      sum.norm.affine(normal.data(), new_values.data());
      if (g.width) hyperbolic_tangent(new_values.data(), g.slots * columns);
      T* by_item = by_sum + b * sum.size();
      std::fill_n(by_item, sum.size(), T(0)), std::fill_n(g.common_of(b), g.width, T(0));
      for (int64_t slot = 0; slot < g.slots; ++slot) {
        const int64_t at = b * g.slots + slot;
        const T *by = given + at * columns, *now = new_values.data() + slot * columns;
        const T *old = g.before(b, slot, columns), *write = g.of(b, slot), *keep = write + g.width / 2;
        T *to = by_item + slot * columns, *to_old = by_memory + at * columns;
        T *to_write = by_gates + at * g.width, *to_keep = to_write + g.width / 2;
        if (!g.width) {
          std::copy_n(by, columns, to), std::fill_n(to_old, columns, T(0));
        } else if (g.whole(columns)) {
          each<T>(columns, [=](int64_t i) {
            to[i] = by[i] * write[i] * (T(1) - now[i] * now[i]);
            to_old[i] = by[i] * keep[i];
            to_write[i] = by[i] * now[i] * write[i] * (T(1) - write[i]);
            to_keep[i] = by[i] * old[i] * keep[i] * (T(1) - keep[i]);
          });
        } else {
          const T in = *write, forget = *keep;
          each<T>(columns, [=](int64_t i) {
            to[i] = by[i] * in * (T(1) - now[i] * now[i]);
            to_old[i] = by[i] * forget;
          });
          *to_write = dot(by, now, columns) * in * (T(1) - in);
          *to_keep = dot(by, old, columns) * forget * (T(1) - forget);
        }
        add_scaled(g.common_of(b), to_write, T(1), g.width);
      }
      sum.norm.gradient(by_item, normal.data(), scales.data(), gamma.of(part), beta.of(part));
    }
  });
  gamma.add_to(by_gamma), beta.add_to(by_beta);
}

}  // namespace
