// One product per time step with the recurrent weight, in the gates' type or in a narrower one.
#pragma once
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "panels.h"

namespace {

// For gates of type R.
template <typename R>
class StepProduct {
 public:
  // `weight`: of the gates' type [N, K], any strides; of a narrower one as rnncore.step_linear has laid it out, for
  // torch's product [K, N], or packed by oneDNN.
  StepProduct(const Tensor& weight, bool packed, int64_t outputs, int64_t inputs)
      : packed_(packed), outputs_(outputs), inputs_(inputs), weight_(weight) {
    const bool own = !packed && weight.scalar_type() == kType<R>;
    const std::vector<int64_t> shape = own ? std::vector{outputs, inputs} : std::vector{inputs, outputs};
    expect(weight.is_cpu() && (packed || weight.sizes().equals(shape)), "urlstm: expected a weight ", Ints(shape),
           " on the CPU, got ", weight);
    if (own) panels_.emplace(weight);
  }

  // total [rows, N] = x [rows, K] times the weight's transpose, or, with `add`, that added to it. Both contiguous.
  void run(R* total, const R* x, int64_t rows, bool add) const {
    if (panels_) {
      panels_->multiply(total, x, rows, add);
    } else {
      with_type<BFloat16, Half, float>(weight_.scalar_type(), "urlstm::step_product", [&]<typename T>() {
        const Tensor narrow = empty({rows, inputs_}, weight_.scalar_type());
        std::copy_n(x, rows * inputs_, elements<T>(narrow));
        const Tensor product = packed_ ? packed_product(narrow) : plain_product(narrow);
        const T* from = elements<const T>(product);
        each(rows * outputs_, [=](int64_t i) { total[i] = add ? total[i] + R(from[i]) : R(from[i]); });
      });
    }
  }

 private:
  Tensor plain_product(const Tensor& x) const {
    Tensor product = empty({x.size(0), outputs_}, x.scalar_type());
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(product.get(), x.get(), weight_.get()));
    return product;
  }

  // By its name, as not every torch has oneDNN.
  Tensor packed_product(const Tensor& x) const {
    using torch::stable::detail::from;
    StableIValue stack[] = {from(x),      from(weight_),     from(std::nullopt), from(std::string("none")),
                            from(Ints()), from(std::nullopt)};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("mkldnn::_linear_pointwise", "", stack, TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
  }

  bool packed_;
  int64_t outputs_, inputs_;
  std::optional<Panels<R>> panels_;
  Tensor weight_;
};

}  // namespace
