#include "idistill/model/kernels.hpp"

#include <ATen/ATen.h>

#include <limits>
#include <optional>
#include <type_traits>

#include "idistill/model/precision.hpp"
#include "kernels_cpu.hpp"
#include "kernels_cuda.hpp"

namespace idistill::model {
namespace {

using torch::Tensor;

bool fused(const Tensor& x) { return x.is_cpu() && x.scalar_type() == torch::kFloat32; }

// The fused kernels walk memory: a strided argument here is a defect of the caller.
const float* in(const Tensor& x) {
    TORCH_INTERNAL_ASSERT(x.is_contiguous());
    return x.const_data_ptr<float>();
}
float* out(const Tensor& x) {
    TORCH_INTERNAL_ASSERT(x.is_contiguous());
    return x.mutable_data_ptr<float>();
}

std::int64_t width_of(const Tensor& x) { return x.size(-1); }
std::int64_t rows_of(const Tensor& x) { return x.size(-1) == 0 ? 0 : x.numel() / x.size(-1); }

/// Of wide numbers.
Tensor inverse_rms(const Tensor& x, double epsilon) { return (x.square().mean(-1, true) + epsilon).rsqrt(); }

/// The plugin on the GPU of its tensors.
class Gpu {
public:
    explicit Gpu(const CudaKernels& kernels, const Tensor& x)
        : kernels_(kernels), storage_(x.scalar_type() == torch::kFloat32 ? Storage::fp32 : Storage::bf16) {
        thread_local int current = -1;
        if (const int device = x.device().index(); device != current) {
            check(kernels.set_device(device));
            current = device;
        }
    }
    /// On PyTorch's default stream.
    template <class Kernel, class... Arguments>
    void operator()(Kernel CudaKernels::*kernel, Arguments... arguments) const {
        if constexpr (std::is_invocable_v<Kernel, Storage, Arguments..., void*>)
            check((kernels_.*kernel)(storage_, arguments..., nullptr));
        else
            check((kernels_.*kernel)(arguments..., nullptr));
    }

    /// False where it does not fit the GPU.
    template <class Kernel, class... Arguments>
    [[nodiscard]] bool where_it_fits(Kernel CudaKernels::*kernel, Arguments... arguments) const {
        const int error = (kernels_.*kernel)(storage_, arguments..., nullptr);
        if (error != cuda_does_not_fit) check(error);
        return error != cuda_does_not_fit;
    }

private:
    void check(int error) const { TORCH_CHECK(error == 0, "a CUDA kernel failed: ", kernels_.message(error)); }

    const CudaKernels& kernels_;
    Storage storage_;
};

bool together(const Tensor& x, const Tensor& other) {
    return other.device() == x.device() && other.scalar_type() == x.scalar_type() && other.is_contiguous();
}

/// For x (whose rows may be strided) and others of its type and device; none where plain tensor operations serve.
template <class... Others>
std::optional<Gpu> fused_on_gpu(const Tensor& x, const Others&... others) {
    const bool stored = x.scalar_type() == torch::kFloat32 || x.scalar_type() == torch::kBFloat16;
    if (!x.is_cuda() || !stored || !(together(x, others) && ...)) return {};
    const auto* kernels = cuda_kernels();
    if (kernels == nullptr) return {};
    return Gpu(*kernels, x);
}

bool is_fp32(const Tensor& x) { return x.scalar_type() == torch::kFloat32 && x.is_contiguous(); }

const void* read(const Tensor& x) { return x.const_data_ptr(); }
void* written(const Tensor& x) { return x.mutable_data_ptr(); }

}  // namespace

void rms_norm(const Tensor& y, const Tensor& x, const Tensor& weight, double epsilon) {
    if (fused(x)) {
        cpu::rms_norm(in(x), in(weight), static_cast<float>(epsilon), rows_of(x), width_of(x), out(y));
    } else if (const auto gpu = fused_on_gpu(x, x, weight, y)) {
        (*gpu)(&CudaKernels::rms_norm, read(x), read(weight), static_cast<float>(epsilon), rows_of(x), width_of(x),
               written(y));
    } else {
        const auto values = widened(x);
        y.copy_(values * inverse_rms(values, epsilon) * weight);
    }
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
    auto y = at::empty_like(x);
    rms_norm(y, x, weight, epsilon);
    return y;
}

void rms_norm_backward_(Tensor& gradient_x, const Tensor& x, const Tensor& weight, double epsilon,
                        const Tensor& gradient_y) {
    if (fused(x)) {
        cpu::rms_norm_backward(in(x), in(weight), static_cast<float>(epsilon), in(gradient_y), rows_of(x), width_of(x),
                               out(gradient_x));
        return;
    }
    if (const auto gpu = fused_on_gpu(x, x, weight, gradient_y, gradient_x)) {
        (*gpu)(&CudaKernels::rms_norm_backward, read(x), read(weight), static_cast<float>(epsilon), read(gradient_y),
               rows_of(x), width_of(x), written(gradient_x));
        return;
    }
    const auto values = widened(x);
    const auto scale = inverse_rms(values, epsilon);
    const auto weighted = widened(weight) * gradient_y;
    gradient_x.add_(scale * (weighted - values * scale.square() * (values * weighted).mean(-1, true)));
}

void rms_norm_tangent(const Tensor& tangent_y, const Tensor& x, const Tensor& weight, double epsilon,
                      const Tensor& tangent_x, const Tensor& tangent_weight) {
    if (fused(x)) {
        cpu::rms_norm_tangent(in(x), in(weight), static_cast<float>(epsilon), in(tangent_x),
                              tangent_weight.defined() ? in(tangent_weight) : nullptr, rows_of(x), width_of(x),
                              out(tangent_y));
        return;
    }
    const auto& direction = tangent_weight.defined() ? tangent_weight : weight;
    if (const auto gpu = fused_on_gpu(x, x, weight, tangent_x, direction, tangent_y)) {
        (*gpu)(&CudaKernels::rms_norm_tangent, read(x), read(weight), static_cast<float>(epsilon), read(tangent_x),
               tangent_weight.defined() ? read(tangent_weight) : nullptr, rows_of(x), width_of(x), written(tangent_y));
        return;
    }
    const auto values = widened(x);
    const auto scale = inverse_rms(values, epsilon);
    auto tangent = scale * (tangent_x - values * scale.square() * (values * tangent_x).mean(-1, true)) * weight;
    if (tangent_weight.defined()) tangent.add_(values * scale * tangent_weight);
    tangent_y.copy_(tangent);
}

void swiglu(const Tensor& y, const Tensor& gate_up) {
    const auto width = width_of(y);
    if (fused(gate_up))
        cpu::swiglu(in(gate_up), gate_up.size(0), width, out(y));
    else if (const auto gpu = fused_on_gpu(gate_up, gate_up, y))
        (*gpu)(&CudaKernels::swiglu, read(gate_up), gate_up.size(0), width, written(y));
    else
        y.copy_(at::silu(widened(gate_up.narrow(-1, 0, width))) * gate_up.narrow(-1, width, width));
}

Tensor swiglu(const Tensor& gate_up) {
    auto y = at::empty({gate_up.size(0), width_of(gate_up) / 2}, gate_up.options());
    swiglu(y, gate_up);
    return y;
}

Tensor swiglu_backward(const Tensor& gate_up, const Tensor& gradient_y) {
    const auto width = width_of(gate_up) / 2;
    if (fused(gate_up)) {
        auto gradient = at::empty_like(gate_up);
        cpu::swiglu_backward(in(gate_up), in(gradient_y), gate_up.size(0), width, out(gradient));
        return gradient;
    }
    if (const auto gpu = fused_on_gpu(gate_up, gate_up, gradient_y)) {
        auto gradient = at::empty_like(gate_up);
        (*gpu)(&CudaKernels::swiglu_backward, read(gate_up), read(gradient_y), gate_up.size(0), width,
               written(gradient));
        return gradient;
    }
    const auto gate = widened(gate_up.narrow(-1, 0, width));
    const auto s = at::sigmoid(gate);
    return at::cat({gradient_y * gate_up.narrow(-1, width, width) * s * (1 + gate * (1 - s)), gradient_y * gate * s},
                   -1)
        .to(gate_up.scalar_type());
}

void swiglu_tangent(const Tensor& tangent_y, const Tensor& gate_up, const Tensor& tangent_gate_up) {
    const auto width = width_of(tangent_y);
    if (fused(gate_up)) {
        cpu::swiglu_tangent(in(gate_up), in(tangent_gate_up), gate_up.size(0), width, out(tangent_y));
        return;
    }
    if (const auto gpu = fused_on_gpu(gate_up, gate_up, tangent_gate_up, tangent_y)) {
        (*gpu)(&CudaKernels::swiglu_tangent, read(gate_up), read(tangent_gate_up), gate_up.size(0), width,
               written(tangent_y));
        return;
    }
    const auto gate = widened(gate_up.narrow(-1, 0, width));
    const auto s = at::sigmoid(gate);
    tangent_y.copy_(widened(tangent_gate_up.narrow(-1, 0, width)) * gate_up.narrow(-1, width, width) * s *
                        (1 + gate * (1 - s)) +
                    tangent_gate_up.narrow(-1, width, width) * gate * s);
}

void rotate_(const Tensor& x, std::int64_t head_dim, const Tensor& cosine, const Tensor& sine, bool forward) {
    const auto heads = x.size(1) / head_dim;
    if (fused(x)) {
        TORCH_INTERNAL_ASSERT(x.stride(1) == 1);
        cpu::rotate(x.mutable_data_ptr<float>(), x.size(0), x.stride(0), heads, head_dim, in(cosine), in(sine),
                    forward ? 1.0F : -1.0F);
        return;
    }
    if (const auto gpu = fused_on_gpu(x); gpu && x.stride(1) == 1 && is_fp32(cosine) && is_fp32(sine)) {
        (*gpu)(&CudaKernels::rotate, written(x), x.size(0), x.stride(0), heads, head_dim,
               cosine.const_data_ptr<float>(), sine.const_data_ptr<float>(), forward ? 1.0F : -1.0F);
        return;
    }
    const auto half = head_dim / 2;
    auto view = x.view({x.size(0), heads, head_dim});
    const auto first = widened(view.narrow(2, 0, half)).clone();
    const auto second = widened(view.narrow(2, half, half)).clone();
    const auto c = cosine.unsqueeze(1);
    const auto s = forward ? sine.unsqueeze(1) : -sine.unsqueeze(1);
    view.narrow(2, 0, half).copy_(first * c - second * s);
    view.narrow(2, half, half).copy_(second * c + first * s);
}

void causal_softmax_(Tensor& scores, std::int64_t group, const std::int64_t* valid, double scale) {
    const auto rows = scores.size(1);
    if (fused(scores)) {
        cpu::causal_softmax(out(scores), scores.size(0), rows, scores.size(2), group, valid, static_cast<float>(scale));
        return;
    }
    const auto lengths = at::tensor(at::ArrayRef<std::int64_t>(valid, static_cast<std::size_t>(rows / group)));
    causal_softmax_(scores, group, lengths.unsqueeze(0).to(scores.device()), scale);
}

void causal_softmax_(Tensor& scores, std::int64_t group, const Tensor& valid, double scale) {
    const auto batch = scores.size(0), rows = scores.size(1), keys = scores.size(2), samples = valid.size(0);
    TORCH_INTERNAL_ASSERT(batch % samples == 0 && valid.size(1) * group == rows && valid.is_contiguous());
    if (batch == 0) return;
    if (const auto gpu = fused_on_gpu(scores, scores)) {
        (*gpu)(&CudaKernels::causal_softmax, written(scores), batch, rows, keys, group, batch / samples,
               valid.const_data_ptr<std::int64_t>(), static_cast<float>(scale));
        return;
    }
    const auto behind = at::arange(keys, valid.options())
                            .ge(valid.view({samples, 1, rows / group, 1, 1}));  // of all matrices, all rows
    auto by_query = scores.view({samples, batch / samples, rows / group, group, keys});
    by_query.copy_(
        at::softmax(widened(by_query).mul(scale).masked_fill_(behind, -std::numeric_limits<double>::infinity()), -1)
            .masked_fill_(behind, 0.0));
}

void softmax_jacobian_(Tensor& values, const Tensor& probabilities, double scale) {
    if (fused(values)) {
        cpu::softmax_jacobian(in(probabilities), out(values), rows_of(values), width_of(values),
                              static_cast<float>(scale));
        return;
    }
    if (const auto gpu = fused_on_gpu(values, values, probabilities)) {
        (*gpu)(&CudaKernels::softmax_jacobian, read(probabilities), written(values), rows_of(values), width_of(values),
               static_cast<float>(scale));
        return;
    }
    const auto tangent = widened(values);
    values.copy_((tangent - (widened(probabilities) * tangent).sum(-1, true)) * probabilities * scale);
}

Tensor cross_entropy_(Tensor& logits, const Tensor& labels, const Tensor& scale) {
    const auto wide_options = accumulating(logits.options());
    auto loss = at::empty({logits.size(0)}, wide_options);
    if (fused(logits)) {
        cpu::cross_entropy(out(logits), logits.size(0), logits.size(1), labels.const_data_ptr<std::int64_t>(),
                           in(scale), out(loss));
        return loss;
    }
    if (const auto gpu = fused_on_gpu(logits, logits); gpu && is_fp32(scale) && labels.is_contiguous()) {
        (*gpu)(&CudaKernels::cross_entropy, written(logits), logits.size(0), logits.size(1),
               labels.const_data_ptr<std::int64_t>(), scale.const_data_ptr<float>(), loss.mutable_data_ptr<float>());
        return loss;
    }
    const auto index = labels.unsqueeze(1);
    auto gradient = at::log_softmax(widened(logits), 1);
    loss.copy_(-gradient.gather(1, index).squeeze(1));
    gradient.exp_().scatter_add_(1, index, -at::ones_like(index, wide_options));
    logits.copy_(gradient.mul_(scale.unsqueeze(1)));
    return loss;
}

Buckets by_bucket(const Tensor& bucket, const Tensor& sign, std::int64_t count) {
    const auto [sorted, column] = at::sort(bucket, /*stable=*/true, /*dim=*/0, /*descending=*/false);
    const auto order = at::where(sign.index_select(0, column).lt(0), column.bitwise_not(), column);
    const auto start = at::searchsorted(sorted, at::arange(count + 1, bucket.options()));
    return {order.to(torch::kInt32), start.to(torch::kInt32)};
}

Tensor bucket_sums(const Tensor& x, const Buckets& buckets) {
    const auto& [order, start] = buckets;
    const auto count = start.size(0) - 1;
    const auto options = accumulating(x.options());
    if (const auto gpu = fused_on_gpu(x); gpu && x.stride(1) == 1) {
        auto sums = at::empty({x.size(0), count}, options);
        if (gpu->where_it_fits(&CudaKernels::bucket_sums, read(x), x.size(0), x.stride(0), x.size(1),
                               order.const_data_ptr<std::int32_t>(), start.const_data_ptr<std::int32_t>(), count,
                               sums.mutable_data_ptr<float>()))
            return sums;
    }
    const auto negative = order.lt(0);
    const auto columns = x.index_select(1, at::where(negative, order.bitwise_not(), order));
    const auto bucket = at::repeat_interleave(start.diff(), std::optional<std::int64_t>(x.size(1)));
    return at::zeros({x.size(0), count}, options).index_add_(1, bucket, columns * (1 - 2 * negative.to(options)));
}

Tensor product_sums(const Tensor& a, const Tensor& b, const Tensor& offsets) {
    const auto segments = offsets.size(0) - 1, width = a.size(1);
    if (a.is_cuda() && a.scalar_type() == torch::kComplexFloat && together(a, a) && together(a, b)) {
        if (const auto* kernels = cuda_kernels()) {
            auto sums = at::empty({segments, width}, a.options());
            const auto numbers = [](const Tensor& x) { return static_cast<const float*>(x.const_data_ptr()); };
            Gpu(*kernels, a)(&CudaKernels::product_sums, numbers(a), numbers(b), offsets.const_data_ptr<std::int32_t>(),
                             segments, width, static_cast<float*>(sums.mutable_data_ptr()));
            return sums;
        }
    }
    const auto segment = at::repeat_interleave(offsets.diff(), std::optional<std::int64_t>(a.size(0)));
    return at::zeros({segments, width}, a.options()).index_add_(0, segment, a * b);
}

}  // namespace idistill::model
