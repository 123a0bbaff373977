#include "idistill/model/kernels.hpp"

#include <ATen/ATen.h>

#include "kernels_cpu.hpp"

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

Tensor inverse_rms(const Tensor& x, double epsilon) { return (x.square().mean(-1, true) + epsilon).rsqrt(); }

}  // namespace

void rms_norm(const Tensor& y, const Tensor& x, const Tensor& weight, double epsilon) {
    if (fused(x))
        cpu::rms_norm(in(x), in(weight), static_cast<float>(epsilon), rows_of(x), width_of(x), out(y));
    else
        y.copy_(x * inverse_rms(x, epsilon) * weight);
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
    const auto scale = inverse_rms(x, epsilon);
    const auto weighted = weight * gradient_y;
    gradient_x.add_(scale * (weighted - x * scale.square() * (x * weighted).mean(-1, true)));
}

void rms_norm_tangent(const Tensor& tangent_y, const Tensor& x, const Tensor& weight, double epsilon,
                      const Tensor& tangent_x, const Tensor& tangent_weight) {
    if (fused(x)) {
        cpu::rms_norm_tangent(in(x), in(weight), static_cast<float>(epsilon), in(tangent_x),
                              tangent_weight.defined() ? in(tangent_weight) : nullptr, rows_of(x), width_of(x),
                              out(tangent_y));
        return;
    }
    const auto scale = inverse_rms(x, epsilon);
    tangent_y.copy_(scale * (tangent_x - x * scale.square() * (x * tangent_x).mean(-1, true)) * weight);
    if (tangent_weight.defined()) tangent_y.add_(x * scale * tangent_weight);
}

void swiglu(const Tensor& y, const Tensor& gate_up) {
    const auto width = width_of(y);
    if (fused(gate_up))
        cpu::swiglu(in(gate_up), gate_up.size(0), width, out(y));
    else
        y.copy_(at::silu(gate_up.narrow(-1, 0, width)) * gate_up.narrow(-1, width, width));
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
    const auto gate = gate_up.narrow(-1, 0, width);
    const auto s = at::sigmoid(gate);
    return at::cat({gradient_y * gate_up.narrow(-1, width, width) * s * (1 + gate * (1 - s)), gradient_y * gate * s},
                   -1);
}

void swiglu_tangent(const Tensor& tangent_y, const Tensor& gate_up, const Tensor& tangent_gate_up) {
    const auto width = width_of(tangent_y);
    if (fused(gate_up)) {
        cpu::swiglu_tangent(in(gate_up), in(tangent_gate_up), gate_up.size(0), width, out(tangent_y));
        return;
    }
    const auto gate = gate_up.narrow(-1, 0, width);
    const auto s = at::sigmoid(gate);
    tangent_y.copy_(tangent_gate_up.narrow(-1, 0, width) * gate_up.narrow(-1, width, width) * s * (1 + gate * (1 - s)) +
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
    const auto half = head_dim / 2;
    auto view = x.view({x.size(0), heads, head_dim});
    const auto first = view.narrow(2, 0, half).clone();
    const auto second = view.narrow(2, half, half).clone();
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
    const auto lengths = at::tensor(at::ArrayRef<std::int64_t>(valid, static_cast<std::size_t>(rows / group)))
                             .repeat_interleave(group)
                             .to(scores.device())
                             .view({1, rows, 1});
    const auto keys = at::arange(scores.size(2), scores.options().dtype(torch::kInt64)).view({1, 1, -1});
    scores.copy_(
        at::softmax(scores.mul(scale).masked_fill(keys.ge(lengths), -std::numeric_limits<double>::infinity()), -1));
}

void softmax_jacobian_(Tensor& values, const Tensor& probabilities, double scale) {
    if (fused(values)) {
        cpu::softmax_jacobian(in(probabilities), out(values), rows_of(values), width_of(values),
                              static_cast<float>(scale));
        return;
    }
    values.sub_((probabilities * values).sum(-1, true)).mul_(probabilities).mul_(scale);
}

Tensor cross_entropy_(Tensor& logits, const Tensor& labels, const Tensor& scale) {
    auto loss = at::empty({logits.size(0)}, logits.options());
    if (fused(logits)) {
        cpu::cross_entropy(out(logits), logits.size(0), logits.size(1), labels.const_data_ptr<std::int64_t>(),
                           in(scale), out(loss));
        return loss;
    }
    const auto index = labels.unsqueeze(1);
    auto log_probabilities = at::log_softmax(logits, 1);
    loss.copy_(-log_probabilities.gather(1, index).squeeze(1));
    logits.copy_(log_probabilities.exp_()).scatter_add_(1, index, -at::ones_like(index, logits.options()));
    logits.mul_(scale.unsqueeze(1));
    return loss;
}

}  // namespace idistill::model
