// The LSTM's time loop on CPU, and the pointwise work of one step: the operators of lstm_steps.py, fused.
// Shapes: T time steps, B rows, I inputs, H units; everything is contiguous, float32 or float64, and of one type.

#include "widest_vectors.h"  // before any header of torch

#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "cell.h"

namespace {

constexpr int kParts = 2;  // vectors of units in a panel of the backward product

void check(const char* name, const Tensor& tensor, const Tensor& like, at::IntArrayRef shape) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.scalar_type() == like.scalar_type() && tensor.sizes() == shape &&
                  tensor.is_contiguous(),
              "rnncore: expected ", name, " ", shape, " of ", like.scalar_type(), ", contiguous and on the CPU, got ",
              tensor.sizes(), " of ", tensor.scalar_type());
}

// x [N, I] weight.T + bias, for weight [4H, I].
Tensor lstm_project(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  TORCH_CHECK(x.dim() == 2 && weight.dim() == 2 && weight.size(0) % 4 == 0, "rnncore: expected x [N, I] and weight ",
              "[4H, I], got ", x.sizes(), " and ", weight.sizes());
  const int64_t rows = x.size(0), inner = x.size(1), units = weight.size(0) / 4;
  check("x", x, x, {rows, inner}), check("weight", weight, x, {4 * units, inner});
  if (bias) check("bias", *bias, x, {4 * units});
  Tensor gates = at::empty({rows, 4 * units}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rnncore::lstm_project", [&] {
    using T = scalar_t;
    const Tensor packed = gate_panels<T>(weight);
    const T *panels = packed.const_data_ptr<T>(), *left = x.const_data_ptr<T>();
    const T* add = bias ? bias->const_data_ptr<T>() : nullptr;
    T* to = gates.mutable_data_ptr<T>();
    for (int64_t start = 0; start < rows; start += kRows) {
      const int64_t count = std::min(kRows, rows - start);
      for_panels(packed.size(0), count * packed.size(1), [=](int64_t p) {
        const int64_t unit = p * kLanes<T>, n = lanes<T>(units - unit);
        alignas(64) T sums[kRows * 4 * kLanes<T>];
        for (int64_t part = 0; part < 4 * count; ++part) {
          const Vec<T> first = add ? Vec<T>::loadu(add + part % 4 * units + unit, n) : Vec<T>(0);
          first.store(sums + part * kLanes<T>);
        }
        add_product<T, 4>(sums, left + start * inner, count, panels + p * inner * 4 * kLanes<T>, inner);
        for (int64_t part = 0; part < 4 * count; ++part) {
          Vec<T>::loadu(sums + part * kLanes<T>).store(to + (4 * start + part) * units + unit, n);
        }
      });
    }
  });
  return gates;
}

// One step's units of one panel, for all rows: their gates' sums, then the cell. `left` is h before.
template <typename T>
void forward_panel(int64_t p, int64_t rows, int64_t units, const T* panels, const T* left, const T* before, T* gates,
                   T* h, T* c) {
  const int64_t unit = p * kLanes<T>, n = lanes<T>(units - unit);
  alignas(64) T sums[kRows * 4 * kLanes<T>];
  for (int64_t start = 0; start < rows; start += kRows) {
    const int64_t count = std::min(kRows, rows - start);
    T* row = gates + start * 4 * units + unit;
    for (int64_t part = 0; part < 4 * count; ++part) {
      Vec<T>::loadu(row + part * units, n).store(sums + part * kLanes<T>);
    }
    add_product<T, 4>(sums, left + start * units, count, panels + p * units * 4 * kLanes<T>, units);
    for (int64_t r = 0; r < count; ++r) {
      Vec<T> sum[4];
      for (int gate = 0; gate < 4; ++gate) sum[gate] = Vec<T>::loadu(sums + (4 * r + gate) * kLanes<T>);
      const int64_t at = (start + r) * units + unit;
      cell_forward<T>(sum, row + 4 * r * units, units, before + at, c + at, h + at, n);
    }
  }
}

void lstm_forward(const Tensor& gates, const Tensor& h, const Tensor& c, const Tensor& weight, const Tensor& output,
                  const Tensor& cells) {
  const int64_t steps = output.size(0), rows = h.size(0), units = h.size(1), size = rows * units;
  check("gates", gates, h, {steps, rows, 4 * units}), check("weight", weight, h, {4 * units, units});
  check("h", h, h, {rows, units}), check("c", c, h, {rows, units});
  check("output", output, h, {steps, rows, units}), check("cells", cells, h, {steps, rows, units});
  AT_DISPATCH_FLOATING_TYPES(h.scalar_type(), "rnncore::lstm_forward", [&] {
    using T = scalar_t;
    const Tensor packed = gate_panels<T>(weight);
    const T *panels = packed.const_data_ptr<T>(), *left = h.const_data_ptr<T>(), *before = c.const_data_ptr<T>();
    T *gate = gates.mutable_data_ptr<T>(), *out = output.mutable_data_ptr<T>(), *cell = cells.mutable_data_ptr<T>();
    for (int64_t t = 0; t < steps; ++t, gate += 4 * size, out += size, cell += size) {
      for_panels(packed.size(0), rows * packed.size(1), [=](int64_t p) {
        forward_panel<T>(p, rows, units, panels, left, before, gate, out, cell);
      });
      left = out, before = cell;
    }
  });
}

// What a step of the backward loop reads and writes. `grad_next` are the gradients by the gates of the step after.
template <typename T>
struct Step {
  const T *gates, *before, *cells, *grad_output, *grad_next;
  T *grad_h, *grad_c, *grad_gates;
};

// One step's units of one panel, for all rows: the gradient by h, then by the gates. Where there is no step after,
// grad_h has that part; where there is no step, the gradient by the first h goes there.
template <typename T>
void backward_panel(int64_t p, int64_t rows, int64_t units, const T* panels, const Step<T>& s) {
  const int64_t unit = p * kParts * kLanes<T>, inner = 4 * units;
  alignas(64) T sums[kRows * kParts * kLanes<T>];
  const auto for_sums = [&](int64_t start, int64_t count, auto body) {
    for (int64_t r = 0; r < count; ++r) {
      for (int c = 0; c < kParts; ++c) {
        const int64_t first = unit + c * kLanes<T>, n = lanes<T>(units - unit, c);
        body(sums + (r * kParts + c) * kLanes<T>, start + r, (start + r) * units + first, first, n);
      }
    }
  };
  for (int64_t start = 0; start < rows; start += kRows) {
    const int64_t count = std::min(kRows, rows - start);
    for_sums(start, count, [&](T* sum, int64_t, int64_t at, int64_t, int64_t n) {
      Vec<T> grad = s.grad_output && n ? Vec<T>::loadu(s.grad_output + at, n) : Vec<T>(0);
      if (!s.grad_next && n) grad = grad + Vec<T>::loadu(s.grad_h + at, n);
      grad.store(sum);
    });
    if (s.grad_next) {
      add_product<T, kParts>(sums, s.grad_next + start * inner, count, panels + p * inner * kParts * kLanes<T>, inner);
    }
    for_sums(start, count, [&](const T* sum, int64_t row, int64_t at, int64_t first, int64_t n) {
      if (!n) return;
      const Vec<T> grad = Vec<T>::loadu(sum);
      if (s.gates) {
        const int64_t gate = row * inner + first;
        cell_backward<T>(grad, s.grad_c + at, s.gates + gate, units, s.before + at, s.cells + at, s.grad_gates + gate,
                         n);
      } else {
        grad.store(s.grad_h + at, n);
      }
    });
  }
}

void lstm_backward(const Tensor& grad_output, const Tensor& gates, const Tensor& c, const Tensor& cells,
                   const Tensor& weight, const Tensor& grad_h, const Tensor& grad_c, const Tensor& grad_gates) {
  const int64_t steps = cells.size(0), rows = c.size(0), units = c.size(1), size = rows * units;
  for (const Tensor* tensor : {&gates, &grad_gates}) check("gates", *tensor, c, {steps, rows, 4 * units});
  for (const Tensor* tensor : {&cells, &grad_output}) check("outputs", *tensor, c, {steps, rows, units});
  for (const Tensor* tensor : {&c, &grad_h, &grad_c}) check("state", *tensor, c, {rows, units});
  check("weight", weight, c, {4 * units, units});
  AT_DISPATCH_FLOATING_TYPES(c.scalar_type(), "rnncore::lstm_backward", [&] {
    using T = scalar_t;
    const Tensor packed = unit_panels<T, kParts>(weight);
    const T *panels = packed.const_data_ptr<T>(), *gate = gates.const_data_ptr<T>(), *cell = cells.const_data_ptr<T>();
    const T *by_output = grad_output.const_data_ptr<T>(), *next = nullptr;
    T *by_h = grad_h.mutable_data_ptr<T>(), *by_c = grad_c.mutable_data_ptr<T>();
    T* by_gates = grad_gates.mutable_data_ptr<T>();
    const auto run = [&](const Step<T>& step) {
      for_panels(packed.size(0), rows * packed.size(1),
                 [&](int64_t p) { backward_panel<T>(p, rows, units, panels, step); });
    };
    for (int64_t t = steps - 1; t >= 0; --t) {
      const int64_t at = t * size;
      T* to = by_gates + 4 * at;
      const T* before = t > 0 ? cell + at - size : c.const_data_ptr<T>();
      run({gate + 4 * at, before, cell + at, by_output + at, next, by_h, by_c, to});
      next = to;
    }
    run({nullptr, nullptr, nullptr, nullptr, next, by_h, by_c, nullptr});
  });
}

// Calls body(row, unit, n) for every vector of units of every row, rows in threads.
template <typename T, typename Body>
void for_units(int64_t rows, int64_t units, Body body) {
  at::parallel_for(0, rows, kGrain / (32 * units) + 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t unit = 0; unit < units; unit += kLanes<T>) body(row, unit, lanes<T>(units - unit));
    }
  });
}

void lstm_cell_forward(const Tensor& product, const Tensor& gates, const Tensor& before, const Tensor& c,
                       const Tensor& h) {
  const int64_t rows = before.size(0), units = before.size(1);
  for (const Tensor* tensor : {&product, &gates}) check("gates", *tensor, before, {rows, 4 * units});
  for (const Tensor* tensor : {&before, &c, &h}) check("state", *tensor, before, {rows, units});
  AT_DISPATCH_FLOATING_TYPES(before.scalar_type(), "rnncore::lstm_cell_forward", [&] {
    using T = scalar_t;
    const T *from = product.const_data_ptr<T>(), *last = before.const_data_ptr<T>();
    T *gate = gates.mutable_data_ptr<T>(), *cell = c.mutable_data_ptr<T>(), *out = h.mutable_data_ptr<T>();
    for_units<T>(rows, units, [=](int64_t row, int64_t unit, int64_t n) {
      const int64_t at = row * units + unit, first = row * 4 * units + unit;
      Vec<T> sums[4];
      for (int k = 0; k < 4; ++k) {
        sums[k] = Vec<T>::loadu(gate + first + k * units, n) + Vec<T>::loadu(from + first + k * units, n);
      }
      cell_forward<T>(sums, gate + first, units, last + at, cell + at, out + at, n);
    });
  });
}

void lstm_cell_backward(const Tensor& grad_h, const Tensor& grad_c, const Tensor& gates, const Tensor& before,
                        const Tensor& c, const Tensor& grad_gates) {
  const int64_t rows = before.size(0), units = before.size(1);
  for (const Tensor* tensor : {&gates, &grad_gates}) check("gates", *tensor, before, {rows, 4 * units});
  for (const Tensor* tensor : {&before, &c, &grad_h, &grad_c}) check("state", *tensor, before, {rows, units});
  AT_DISPATCH_FLOATING_TYPES(before.scalar_type(), "rnncore::lstm_cell_backward", [&] {
    using T = scalar_t;
    const T *by_h = grad_h.const_data_ptr<T>(), *gate = gates.const_data_ptr<T>();
    const T *last = before.const_data_ptr<T>(), *cell = c.const_data_ptr<T>();
    T *by_c = grad_c.mutable_data_ptr<T>(), *to = grad_gates.mutable_data_ptr<T>();
    for_units<T>(rows, units, [=](int64_t row, int64_t unit, int64_t n) {
      const int64_t at = row * units + unit, first = row * 4 * units + unit;
      cell_backward<T>(Vec<T>::loadu(by_h + at, n), by_c + at, gate + first, units, last + at, cell + at, to + first,
                       n);
    });
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(rnncore, library) {
  library.def("lstm_project(Tensor x, Tensor weight, Tensor? bias) -> Tensor", &lstm_project);
  library.def(
      "lstm_forward(Tensor(a!) gates, Tensor h, Tensor c, Tensor weight, Tensor(b!) output, Tensor(c!) cells) -> ()",
      &lstm_forward);
  library.def(
      "lstm_backward(Tensor grad_output, Tensor gates, Tensor c, Tensor cells, Tensor weight, Tensor(a!) grad_h, "
      "Tensor(b!) grad_c, Tensor(c!) grad_gates) -> ()",
      &lstm_backward);
  library.def(
      "lstm_cell_forward(Tensor product, Tensor(a!) gates, Tensor before, Tensor(b!) c, Tensor(c!) h) -> ()",
      &lstm_cell_forward);
  library.def(
      "lstm_cell_backward(Tensor grad_h, Tensor(a!) grad_c, Tensor gates, Tensor before, Tensor c, "
      "Tensor(b!) grad_gates) -> ()",
      &lstm_cell_backward);
}
