// Attention of memory and input over themselves, with the normalisations before and after it, for each item of a batch.
// B items, S slots, N = S + 1 rows, Q of them query, H heads of K key and V value numbers, F = H (2 K + V), M = H V.
#pragma once
#include "rows.h"

namespace {

struct Sizes {
  int64_t batch, slots, rows, queries, heads, key, value, head, projected, memory;
};

inline Sizes sizes_of(const Tensor& qkv, const Tensor& y, int64_t heads, int64_t key) {
  Sizes s{};
  s.batch = qkv.size(0), s.slots = qkv.size(1), s.rows = s.slots + 1, s.queries = y.size(1), s.heads = heads;
  s.key = key, s.projected = qkv.size(2), s.memory = y.size(2), s.value = s.memory / heads;
  s.head = 2 * key + s.value;
  expect(s.projected == heads * s.head && s.memory == heads * s.value && s.queries <= s.rows, "rmc: ", heads,
         " heads do not fit ", qkv.sizes(), " and ", y.sizes());
  return s;
}

// What one item's attention is computed from and with.
template <typename T>
struct Attention {
  Sizes s;
  Rows<const T> qkv, rows;
  const T* bias;
  Norm<T> before, after;

  // Standardised projections to `normal`, the attention's queries, keys and values to `all`, its weights
  // [H, Q, N] to `weights`, and memory and input with what they attended to, standardised, to `sum` [Q, M].
  void forward(int64_t b, T* normal, T* all, T* weights, T* sum, T* scales, T* scales_after) const {
    for (int64_t n = 0; n < s.rows; ++n) {
      const T *from = qkv.at(b, n), *constant = bias;
      T* to = normal + n * s.projected;
      each<T>(s.projected, [=](int64_t i) { to[i] = from[i] + constant[i]; });
    }
    before.standardise(normal, scales);
    before.affine(normal, all);
    const T root = T(1) / std::sqrt(T(s.key));
    for (int64_t q = 0; q < s.queries; ++q) std::copy_n(rows.at(b, q), s.memory, sum + q * s.memory);
    for (int64_t h = 0; h < s.heads; ++h) {
      const T* head = all + h * s.head;
      for (int64_t q = 0; q < s.queries; ++q) {
        dots(weights + (h * s.queries + q) * s.rows, head + q * s.projected, head + s.key, s.projected, s.rows, s.key,
             root);
      }
    }
    softmax(weights, s.heads * s.queries, s.rows);
    for (int64_t h = 0; h < s.heads; ++h) {
      const T* values = all + h * s.head + 2 * s.key;
      for (int64_t q = 0; q < s.queries; ++q) {
        combine(sum + q * s.memory + h * s.value, weights + (h * s.queries + q) * s.rows, 1, values, s.projected,
                s.rows, s.value);
      }
    }
    after.standardise(sum, scales_after);
  }

  // From the gradient by the attention's result [Q, M] to that by queries, keys and values [N, F].
  void backward(const T* grad, const T* all, const T* weights, T* by_all, T* scratch) const {
    std::fill_n(by_all, s.rows * s.projected, T(0));
    const T root = T(1) / std::sqrt(T(s.key));
    for (int64_t h = 0; h < s.heads; ++h) {
      const T *head = all + h * s.head, *w = weights + h * s.queries * s.rows, *by = grad + h * s.value;
      T* by_head = by_all + h * s.head;
      for (int64_t q = 0; q < s.queries; ++q) {
        T* by_product = scratch + q * s.rows;
        const T* row = w + q * s.rows;
        dots(by_product, by + q * s.memory, head + 2 * s.key, s.projected, s.rows, s.value, root);
        T mean = 0;
        for (int64_t n = 0; n < s.rows; ++n) mean += row[n] * by_product[n];
        for (int64_t n = 0; n < s.rows; ++n) by_product[n] = row[n] * (by_product[n] - mean);
        combine(by_head + q * s.projected, by_product, 1, head + s.key, s.projected, s.rows, s.key);
      }
      for (int64_t n = 0; n < s.rows; ++n) {
        T* to = by_head + n * s.projected;
        combine(to + s.key, scratch + n, s.rows, head, s.projected, s.queries, s.key);
        combine(to + 2 * s.key, w + n, s.rows, by, s.memory, s.queries, s.value);
      }
    }
  }
};

template <typename T>
Attention<T> attention_of(const Sizes& s, const Tensor& qkv_m, const Tensor& qkv_x, const Tensor& bias,
                          const Tensor& gamma, const Tensor& beta, const Tensor& rows_m, const Tensor& rows_x,
                          const Tensor& gamma_after, const Tensor& beta_after, bool joint) {
  check("projections of the memory", qkv_m, gamma, {s.batch, s.slots, s.projected});
  check("projections of the input", qkv_x, gamma, {s.batch, s.projected});
  check("bias", bias, gamma, {s.projected});
  check("memory", rows_m, gamma, {s.batch, s.slots, s.memory}), check("input", rows_x, gamma, {s.batch, s.memory});
  expect(!joint || s.queries == s.rows, "rmc: rows that are normalised together all query");
  return {s,
          Rows<const T>(qkv_m, qkv_x),
          Rows<const T>(rows_m, rows_x),
          elements<const T>(bias),
          norm_of<T>(gamma, beta, joint, s.rows, s.projected),
          norm_of<T>(gamma_after, beta_after, joint, s.queries, s.memory)};
}

template <typename T>
void attend(const Attention<T>& attention, const Tensor& y) {
  const Sizes& s = attention.s;
  T* out = elements<T>(y);
  for_parts(s.batch, parts_of(s.batch), [&](int64_t first, int64_t last, int64_t) {
    Scratch<T> normal(s.rows * s.projected), all(normal.size()), sum(s.queries * s.memory), scales(2 * s.rows);
    Scratch<T> weights(s.heads * s.queries * s.rows);
    for (int64_t b = first; b < last; ++b) {
      attention.forward(b, normal.data(), all.data(), weights.data(), sum.data(), scales.data(),
                        scales.data() + s.rows);
      attention.after.affine(sum.data(), out + b * s.queries * s.memory);
    }
  });
}

template <typename T>
void attend_gradient(const Attention<T>& attention, const Tensor& grad_y, const Rows<T>& by_qkv, const Rows<T>& by_rows,
                     const std::vector<Tensor>& by_weights) {
  const Sizes& s = attention.s;
  const int64_t parts = parts_of(s.batch), inner = attention.before.size, outer = attention.after.size;
  Sums<T> bias(parts, s.projected), gamma(parts, inner), beta(parts, inner), gamma_after(parts, outer),
      beta_after(parts, outer);
  const T* given = elements<const T>(grad_y);
  for_parts(s.batch, parts, [&](int64_t first, int64_t last, int64_t part) {
    const int64_t wide = s.rows * s.projected, narrow = s.queries * s.memory;
    Scratch<T> normal(wide), all(wide), by_all(wide), sum(narrow), grad(narrow), scales(2 * s.rows);
    Scratch<T> weights(s.heads * s.queries * s.rows), scratch(s.queries * s.rows);
    T* scales_after = scales.data() + s.rows;
    for (int64_t b = first; b < last; ++b) {
      attention.forward(b, normal.data(), all.data(), weights.data(), sum.data(), scales.data(), scales_after);
      std::copy_n(given + b * narrow, narrow, grad.data());
      attention.after.gradient(grad.data(), sum.data(), scales_after, gamma_after.of(part), beta_after.of(part));
      for (int64_t n = 0; n < s.rows; ++n) {
        T* to = by_rows.at(b, n);
        if (n == s.slots) std::fill_n(to, s.memory, T(0));
        if (n < s.queries) add_scaled(to, grad.data() + n * s.memory, T(1), s.memory);
      }
      attention.backward(grad.data(), all.data(), weights.data(), by_all.data(), scratch.data());
      attention.before.gradient(by_all.data(), normal.data(), scales.data(), gamma.of(part), beta.of(part));
      for (int64_t n = 0; n < s.rows; ++n) {
        const T* from = by_all.data() + n * s.projected;
        std::copy_n(from, s.projected, by_qkv.at(b, n));
        add_scaled(bias.of(part), from, T(1), s.projected);
      }
    }
  });
  bias.add_to(by_weights[0]), gamma.add_to(by_weights[1]), beta.add_to(by_weights[2]);
  gamma_after.add_to(by_weights[3]), beta_after.add_to(by_weights[4]);
}

}  // namespace
