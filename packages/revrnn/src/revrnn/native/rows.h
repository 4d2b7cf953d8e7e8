// Tensors as rows, and the reversible multiplication of all rows of a tensor, in threads.
#pragma once

#include <mutex>

#include "fixed_point.h"
#include "tensors.h"

namespace {

using Maybe = std::optional<Tensor>;

constexpr int64_t kGrain = 2048;  // elements that are worth a thread

void check(const Tensor& tensor, ScalarType type, int64_t rows, int64_t columns) {
  if (fits(tensor, type, {rows, columns}) && tensor.is_contiguous()) return;
  fail("revrnn: expected a contiguous CPU tensor [", rows, ", ", columns, "] of ", type, ", got ", tensor);
}

// Rows of `inputs` may lie apart, as slices of a wider tensor do.
void check_inputs(const Tensor& inputs, ScalarType type, int64_t rows, int64_t columns) {
  if (fits(inputs, type, {rows, columns}) && (columns == 1 || inputs.stride(1) == 1)) return;
  fail("revrnn: expected inputs [", rows, ", ", columns, "] of ", type, ", got ", inputs);
}

// A tensor's rows by their number; constant ones for a constant T.
template <typename T>
struct Rows {
  T* first;
  int64_t by_row;

  explicit Rows(const Tensor& tensor) : first(elements<T>(tensor)), by_row(tensor.stride(0)) {}
  T* operator()(int64_t b) const { return first + b * by_row; }
};

// The rows of a batch that are left as they are.
struct Idle {
  const bool* active = nullptr;

  Idle(const Maybe& mask, int64_t rows) {
    if (!mask) return;
    expect(fits(*mask, ScalarType::Bool, {rows}) && mask->is_contiguous(), "revrnn: expected active [", rows,
           "] of booleans");
    active = elements<const bool>(*mask);
  }
  bool operator()(int64_t b) const { return active && !active[b]; }
};

// Calls body(b) for all rows, in threads where that pays.
template <typename Body>
void for_rows(int64_t rows, int64_t columns, Body body) {
  parallel_for(0, rows, kGrain / columns + 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) body(b);
  });
}

// Advances the rows of h; z and u take a row and give a function of the column. Units below `start` have no buffer.
template <typename T, typename Z, typename U>
std::tuple<int64_t, int64_t> advance_rows(const Tensor& h, const Maybe& word, int64_t start, const Maybe& active,
                                          const Tensor& value, Z z, U u) {
  const int64_t rows = h.size(0), n = h.size(1), split = word ? start : n;
  check(h, ScalarType::Int, rows, n), check(value, kType<T>, rows, n);
  if (word) check(*word, ScalarType::Long, rows, n - start);
  const Idle idle(active, rows);
  const Rows<int32_t> states(h);
  const Rows<T> values(value);
  const auto words = word ? std::optional<Rows<int64_t>>(*word) : std::nullopt;
  Reach total;
  std::mutex mutex;
  for_rows(rows, n, [&](int64_t b) {
    int32_t* state = states(b);
    T* out = values(b);
    if (idle(b)) {
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
        int64_t* lost = (*words)(b) + first - split;
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
  check(h, ScalarType::Int, rows, n), check(value, kType<T>, rows, n);
  check(word, ScalarType::Long, rows, n - start);
  const Idle idle(active, rows);
  const Rows<int32_t> states(h);
  const Rows<T> values(value);
  const Rows<int64_t> words(word);
  for_rows(rows, n, [&](int64_t b) {
    int32_t* state = states(b);
    T* out = values(b);
    const bool skip = idle(b);
    each(0, (skip ? n : start), [=](int64_t i) { out[i] = real<T>(state[i]); });
    if (skip) return;
    for (int64_t first = start; first < n; first += kBlock) {
      const int64_t count = std::min(kBlock, n - first);
      const Block<T> block(first, count, z(b), u(b));
      retreat(count, block.gate, block.add, state + first, words(b) + first - start, out + first);
    }
  });
}

// z = m s + (1 - m) of row b, where s begins at column `offset` of the gates.
template <typename T>
auto limited(const Tensor& gates, int64_t offset, double max_forget) {
  const T m = max_forget, rest = 1 - max_forget;
  return [=, rows = Rows<const T>(gates)](int64_t b) {
    const T* s = rows(b) + offset;
    return [=](int64_t i) { return s[i] * m + rest; };
  };
}

}  // namespace
