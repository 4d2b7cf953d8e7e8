// Tensors as rows, and the reversible multiplication of all rows of a tensor, in threads.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <mutex>
#include <optional>
#include <tuple>

#include "fixed_point.h"

namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;

constexpr int64_t kGrain = 2048;  // elements that are worth a thread

void check(const Tensor& tensor, at::ScalarType type, int64_t rows, int64_t columns) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.scalar_type() == type && tensor.dim() == 2 &&
                  tensor.size(0) == rows && tensor.size(1) == columns && tensor.is_contiguous(),
              "revrnn: expected a contiguous CPU tensor [", rows, ", ", columns, "] of ", type, ", got ",
              tensor.sizes(), " of ", tensor.scalar_type());
}

// Rows of `inputs` may lie apart, as slices of a wider tensor do.
void check_inputs(const Tensor& inputs, const Tensor& like) {
  TORCH_CHECK(inputs.device().is_cpu() && inputs.scalar_type() == like.scalar_type() && inputs.dim() == 2 &&
                  inputs.sizes() == like.sizes() && (inputs.size(1) == 1 || inputs.stride(1) == 1),
              "revrnn: expected inputs ", like.sizes(), " of ", like.scalar_type(), ", got ", inputs.sizes(), " of ",
              inputs.scalar_type());
}

template <typename T>
const T* row(const Tensor& tensor, int64_t b) {
  return tensor.const_data_ptr<T>() + b * tensor.stride(0);
}

template <typename T>
T* edit(const Tensor& tensor, int64_t b) {
  return tensor.mutable_data_ptr<T>() + b * tensor.stride(0);
}

void check_active(const Maybe& active, int64_t rows) {
  TORCH_CHECK(!active || (active->device().is_cpu() && active->scalar_type() == at::kBool && active->dim() == 1 &&
                          active->size(0) == rows && active->is_contiguous()),
              "revrnn: expected active [", rows, "] of booleans");
}

// Calls body(b) for all rows, in threads where that pays.
template <typename Body>
void for_rows(int64_t rows, int64_t columns, Body body) {
  at::parallel_for(0, rows, kGrain / columns + 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) body(b);
  });
}

bool idle(const Maybe& active, int64_t b) { return active && !active->const_data_ptr<bool>()[b]; }

// Advances the rows of h; z and u take a row and give a function of the column. Units below `start` have no buffer.
template <typename T, typename Z, typename U>
std::tuple<int64_t, int64_t> advance_rows(const Tensor& h, const Maybe& word, int64_t start, const Maybe& active,
                                          const Tensor& value, Z z, U u) {
  const int64_t rows = h.size(0), n = h.size(1), split = word ? start : n;
  check(h, at::kInt, rows, n), check(value, c10::CppTypeToScalarType<T>::value, rows, n);
  if (word) check(*word, at::kLong, rows, n - start);
  check_active(active, rows);
  Reach total;
  std::mutex mutex;
  for_rows(rows, n, [&](int64_t b) {
    int32_t* state = edit<int32_t>(h, b);
    T* out = edit<T>(value, b);
    if (idle(active, b)) {
      each(0, n, [=](int64_t i) { out[i] = real<T>(state[i]); });
      return;
    }
    Reach reach;
    for (int64_t first = 0, last = 0; first < n; first = last) {
      last = std::min(first + kBlock, first < split ? split : n);
      const Block<T> block(first, last - first, z(b), u(b));
      if (first < split) {
        advance<false>(last - first, block.gate, block.add, state + first, nullptr, out + first, reach);
      } else {
        int64_t* lost = edit<int64_t>(*word, b) + first - split;
        advance<true>(last - first, block.gate, block.add, state + first, lost, out + first, reach);
      }
    }
    const std::lock_guard<std::mutex> lock(mutex);
    total = {std::max(total.fullest, reach.fullest), std::max(total.farthest, reach.farthest)};
  });
  return {total.fullest, total.farthest};
}

// Undoes advance_rows; units below `start` hold their stored values already.
template <typename T, typename Z, typename U>
void retreat_rows(const Tensor& h, const Tensor& word, int64_t start, const Maybe& active, const Tensor& value, Z z,
                  U u) {
  const int64_t rows = h.size(0), n = h.size(1);
  check(h, at::kInt, rows, n), check(value, c10::CppTypeToScalarType<T>::value, rows, n);
  check(word, at::kLong, rows, n - start), check_active(active, rows);
  for_rows(rows, n, [&](int64_t b) {
    int32_t* state = edit<int32_t>(h, b);
    T* out = edit<T>(value, b);
    const bool skip = idle(active, b);
    each(0, (skip ? n : start), [=](int64_t i) { out[i] = real<T>(state[i]); });
    if (skip) return;
    for (int64_t first = start; first < n; first += kBlock) {
      const int64_t count = std::min(kBlock, n - first);
      const Block<T> block(first, count, z(b), u(b));
      retreat(count, block.gate, block.add, state + first, edit<int64_t>(word, b) + first - start, out + first);
    }
  });
}

// z = m s + (1 - m) of row b, where s begins at column `offset` of the gates.
template <typename T>
auto limited(const Tensor& gates, int64_t offset, double max_forget) {
  const T m = max_forget, rest = 1 - max_forget;
  return [=](int64_t b) {
    const T* s = row<T>(gates, b) + offset;
    return [=](int64_t i) { return s[i] * m + rest; };
  };
}

}  // namespace
