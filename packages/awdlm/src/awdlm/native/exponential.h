// e^x of many numbers at once, by the vector functions that come with torch.
#pragma once
#include <ATen/cpu/vec/vec.h>

#include <algorithm>

namespace {

template <typename R>
void exponentials(R* values, int64_t n) {
  using Vector = at::vec::Vectorized<R>;
  for (int64_t i = 0; i < n; i += Vector::size()) {
    const int64_t lanes = std::min<int64_t>(Vector::size(), n - i);
    Vector::loadu(values + i, lanes).exp().store(values + i, lanes);
  }
}

}  // namespace
