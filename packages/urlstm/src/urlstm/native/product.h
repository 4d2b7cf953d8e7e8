// One product per time step with the recurrent weight, in the gates' type or in a narrower one.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

#include "panels.h"

namespace {

// For gates of type R.
template <typename R>
class StepProduct {
 public:
  // `weight`: of the gates' type [N, K], any strides; of a narrower one as rnncore.step_linear has laid it out, for
  // torch's product [K, N], or packed by oneDNN.
  StepProduct(const Tensor& weight, bool packed, int64_t outputs, int64_t inputs) : packed_(packed) {
    const bool own = !packed && weight.scalar_type() == c10::CppTypeToScalarType<R>::value;
    const std::vector<int64_t> shape = own ? std::vector{outputs, inputs} : std::vector{inputs, outputs};
    TORCH_CHECK(weight.device().is_cpu() && (packed || weight.sizes() == shape), "urlstm: expected a weight ",
                at::IntArrayRef(shape), " on the CPU, got ", weight.sizes(), " of ", weight.scalar_type());
    if (own) {
      panels_.emplace(weight);
    } else {
      weight_ = weight;
    }
  }

  // total [rows, N] = x [rows, K] times the weight's transpose, or, with `add`, that added to it. Both contiguous.
  void run(Tensor total, const Tensor& x, bool add) const {
    if (panels_) {
      panels_->multiply(total.mutable_data_ptr<R>(), x.const_data_ptr<R>(), x.size(0), add);
    } else if (add) {
      total.add_(narrow_product(x.to(weight_.scalar_type())));
    } else {
      total.copy_(narrow_product(x.to(weight_.scalar_type())));
    }
  }

 private:
  using Linear = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, c10::string_view,
                        c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);

  Tensor narrow_product(const Tensor& x) const {
    if (!packed_) return at::mm(x, weight_);
    static const auto linear =
        c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Linear>();
    return linear.call(x, weight_, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
  }

  bool packed_;
  std::optional<Panels<R>> panels_;
  Tensor weight_;
};

}  // namespace
