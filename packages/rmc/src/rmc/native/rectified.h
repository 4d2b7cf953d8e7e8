// What comes after the product of a layer of the MLP: its bias, and a ReLU. Rows of M numbers.
#pragma once
#include "rows.h"

namespace {

// In place, h [B, Q, M] to h + bias, or to what of it is above zero.
template <typename T, bool rectified>
void rectify(const Tensor& h, const Tensor& bias) {
  const int64_t width = h.size(2), rows = h.numel() / width;
  check("bias", bias, h, {width});
  expect(h.is_contiguous(), "rmc: expected contiguous rows");
  T* x = elements<T>(h);
  const T* b = elements<const T>(bias);
  for_parts(rows, parts_of(rows), [&](int64_t first, int64_t last, int64_t) {
    for (int64_t row = first; row < last; ++row) {
      T* to = x + row * width;
      each<T>(width, [=](int64_t i) {
        const T sum = to[i] + b[i];
        to[i] = rectified && sum < T(0) ? T(0) : sum;
      });
    }
  });
}

// From the gradient by the result, which is h, to that by the product; adds the one by the bias.
template <typename T, bool rectified>
void rectify_gradient(const Tensor& grad, const Tensor& h, const Tensor& grad_product, const Tensor& grad_bias) {
  const int64_t width = h.size(2), rows = h.numel() / width, parts = parts_of(rows);
  check("gradient", grad, h, h.sizes()), check("gradient", grad_product, h, h.sizes());
  check("gradient", grad_bias, h, {width});
  expect(h.is_contiguous() && grad.is_contiguous() && grad_product.is_contiguous(), "rmc: expected contiguous rows");
  Sums<T> bias(parts, width);
  const T *given = elements<const T>(grad), *kept = elements<const T>(h);
  T* out = elements<T>(grad_product);
  for_parts(rows, parts, [&](int64_t first, int64_t last, int64_t part) {
    T* sum = bias.of(part);
    for (int64_t row = first; row < last; ++row) {
      const T *from = given + row * width, *result = kept + row * width;
      T* to = out + row * width;
      each<T>(width, [=](int64_t i) {
        to[i] = rectified && result[i] <= T(0) ? T(0) : from[i];
        sum[i] += to[i];
      });
    }
  });
  bias.add_to(grad_bias);
}

}  // namespace
