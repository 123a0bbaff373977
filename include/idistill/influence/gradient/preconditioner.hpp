#pragma once
// What the user's optimizer makes of a gradient: the factor `a` that its next step multiplies it with (docs/method.md;
// Influence Distillation, arXiv 2505.19051, for Adam), from the optimizer's saved state (docs/files.md).

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "idistill/model/model_config.hpp"
#include "idistill/model/safetensors.hpp"

namespace idistill::influence {

/// A step of Adam of which the gradient g is a part, element by element: (first + alpha g) / sqrt(second + beta g^2)
/// and so on, with epsilon added to the root. Not linear in g.
struct AdamStep {
    std::vector<torch::Tensor> first, second;  ///< a chosen layer each (outputs x inputs), fp32
    double alpha = 0.0, beta = 0.0, epsilon = 0.0;
};

/// What a step of the optimizer makes of a gradient, element by element. The default is a plain gradient step.
struct Preconditioner {
    std::vector<torch::Tensor> scales = {};  ///< `a`, a chosen layer each (outputs x inputs), fp32
    double uniform = 1.0;                    ///< `a` everywhere, where there is nothing else
    std::optional<AdamStep> step = {};       ///< in place of `a`

    /// Whether gradients must be whole for it.
    [[nodiscard]] bool elementwise() const { return !scales.empty() || step.has_value(); }
    /// On another device.
    [[nodiscard]] Preconditioner to(torch::Device device) const;
    /// Changes a whole gradient (outputs x inputs; contiguous) of a chosen layer in place, or those of several samples
    /// (m x outputs x inputs). Elementwise ones alone.
    void apply(std::size_t layer, const torch::Tensor& gradient) const;
};

/// The state of an optimizer after `step` steps, as jobs/warmup.py and jobs/optimizer_state.py write it: safetensors
/// with the tensors exp_avg_sq.<parameter> and others (F32) and metadata:
///   kind           adamw (also when missing), adam, sgd
///   learning_rate, weight_decay, and for adamw and adam step, beta1, beta2, eps; for sgd momentum, dampening
///
/// adamw, adam (they differ in b alone):
///   a = (1 - beta1) / (1 - beta1^(s+1)) / (sqrt(v / (1 - beta2^(s+1))) + eps),  s steps, v = exp_avg_sq held fixed;
///   0 where v = 0, a parameter that no gradient has touched
/// sgd: a = 1 - dampening with momentum and its buffers (momentum_buffer.<parameter>), otherwise 1, as torch.optim.SGD
/// takes its first step.
///
/// What the step adds whatever the gradient is, theta the weights:
///   adamw  b = beta1 / (1 - beta1^(s+1)) * exp_avg / (sqrt(v / (1 - beta2^(s+1))) + eps) + weight_decay * theta
///   adam   the same with a * weight_decay * theta
///   sgd    b = momentum * buffer + a * weight_decay * theta, without buffers the second term alone (torch.optim.SGD
///          dampens the decay with the gradient)
///
/// Or, of adamw and adam, the step that a gradient is a part of (LESS, arXiv 2402.04333, section 2.2), without decay:
///   (beta1 m + (1 - beta1) g) / (1 - beta1^(s+1)) / (sqrt((beta2 v + (1 - beta2) g^2) / (1 - beta2^(s+1))) + eps)
/// and without bias correction, as LESS's released code has it: (beta1 m + (1 - beta1) g) / sqrt(beta2 v + (1 - beta2)
/// g^2 + eps).
class OptimizerFile {
public:
    /// What is made of the state: factors `a`, or a step with its moments.
    enum class Form : std::uint8_t { factors, step, step_without_bias_correction };

    /// Opens `path` and checks what can be checked without reading tensors, for the given layers. Throws
    /// Error(bad_input) naming file and tensor or key: missing, of another type or shape, out of range, cut, or a step
    /// asked of sgd.
    OptimizerFile(const std::string& path, const std::vector<model::LinearLayer>& layers, Form form = Form::factors);

    /// Bytes of what fill() computes over all layers, each at a multiple of 64; 0 where `a` is one number.
    [[nodiscard]] std::size_t bytes() const noexcept { return form_ == Form::factors ? part_bytes_ : 2 * part_bytes_; }

    struct Untouched {
        std::int64_t zero = 0;  ///< second moments that are 0
        std::int64_t all = 0;   ///< parameters of the layers
    };
    /// Computes `a`, or what a step takes of the moments, into memory of bytes() bytes. Throws Error(bad_input) for
    /// second moments that are negative or not finite, or all zero.
    Untouched fill(std::span<std::byte> memory) const;

    /// As views of memory that fill() has filled, and that outlives them.
    [[nodiscard]] Preconditioner preconditioner(std::span<std::byte> memory) const;

    /// `b` (outputs x inputs) of a chosen layer, fp32; `weight` is the layer's.
    [[nodiscard]] torch::Tensor constant(std::size_t layer, const torch::Tensor& weight) const;

    /// Of the whole file, as sha256sum prints it.
    [[nodiscard]] std::string sha256() const;

private:
    enum class Kind : std::uint8_t { adamw, adam, sgd };

    [[noreturn]] void refuse(const std::string& field, const std::string& expected, const std::string& found,
                             const std::string& remedy) const;
    double number(const std::string& key, double low, double below) const;
    void check_tensor(const std::string& moment, const model::LinearLayer& layer) const;
    /// A stored tensor (outputs x inputs) in fp64.
    [[nodiscard]] torch::Tensor moment(const std::string& kind, std::size_t layer) const;
    void read_adam();
    void read_sgd();
    [[nodiscard]] torch::Tensor part(std::span<std::byte> memory, std::size_t layer) const;

    model::SafetensorsFile file_;
    std::vector<model::LinearLayer> layers_;
    Kind kind_ = Kind::adamw;
    Form form_;
    std::vector<std::size_t> offsets_;  ///< bytes, of the layers' parts; empty where `a` is one number
    std::size_t part_bytes_ = 0;        ///< of `a`; a step has the first moments' parts, then the second ones'
    double numerator_ = 1.0, correction_ = 1.0, epsilon_ = 0.0;  ///< a = numerator / (sqrt(v / correction) + epsilon)
    double beta1_ = 0.0, beta2_ = 0.0;
    double uniform_ = 1.0;   ///< a where it is one number
    bool buffered_ = false;  ///< sgd with momentum and its buffers
    double momentum_ = 0.0;  ///< what the first moments or the buffers count in b
    double decay_ = 0.0;
};

}  // namespace idistill::influence
