#include "idistill/influence/gradient/preconditioner.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/data/sha256.hpp"

namespace idistill::influence {
namespace {

using model::LinearLayer;

constexpr double infinite = std::numeric_limits<double>::infinity();
const std::string write_again = "Write it again with jobs/optimizer_state.py or jobs/warmup.py.";
const std::string other_model =
    "Optimizer state and --model must be of the same model: give the state that was saved with it.";

std::string tensor_of(const std::string& moment, const LinearLayer& layer) {
    return moment + "." + layer.name + ".weight";
}

std::string shown(float value) { return fmt::format("{:g}", value); }

std::string range_text(double low, double below) {
    std::string text = "a number of at least ";
    text += low == 0.0 ? "0" : "1";
    return below == infinite ? text : text + " and below 1";
}

}  // namespace

void Preconditioner::apply(std::size_t layer, const torch::Tensor& gradient) const {
    if (!step) {
        gradient.mul_(scales[layer]);
        return;
    }
    if (!gradient.is_cpu() || gradient.dim() > 2) {
        const auto root = at::addcmul(step->second[layer], gradient, gradient, step->beta).sqrt_().add_(step->epsilon);
        gradient.mul_(step->alpha).add_(step->first[layer]).div_(root);
        if (step->epsilon == 0.0) gradient.masked_fill_(root.eq(0.0), 0.0);  // as below
        return;
    }
    constexpr std::int64_t block = std::int64_t{1} << 15;  // numbers that stay near the processor
    const auto flat = gradient.view({-1}), first = step->first[layer].view({-1}),
               second = step->second[layer].view({-1});
    for (std::int64_t begin = 0; begin < flat.numel(); begin += block) {
        const auto count = std::min(block, flat.numel() - begin);
        const auto part = flat.narrow(0, begin, count);
        const auto root = at::addcmul(second.narrow(0, begin, count).to(part.dtype()), part, part, step->beta)
                              .sqrt_()
                              .add_(step->epsilon);
        part.mul_(step->alpha).add_(first.narrow(0, begin, count)).div_(root);
        // Without epsilon 0 / 0 is left of what no gradient has touched.
        if (step->epsilon == 0.0) part.masked_fill_(root.eq(0.0), 0.0);
    }
}

OptimizerFile::OptimizerFile(const std::string& path, const std::vector<LinearLayer>& layers, Form form)
    : file_(path, write_again), layers_(layers), form_(form) {
    number("learning_rate", 0.0, infinite);
    decay_ = number("weight_decay", 0.0, infinite);
    const auto given = file_.metadata().find("kind");
    const std::string kind = given == file_.metadata().end() ? "adamw" : given->second;
    if (kind == "adam")
        kind_ = Kind::adam;
    else if (kind == "sgd")
        kind_ = Kind::sgd;
    else if (kind != "adamw")
        refuse(
            "metadata kind", "adamw, adam or sgd", kind,
            "Only the steps of these have a formula for influence: leave --optimizer out for a plain gradient step.");
    if (kind_ == Kind::sgd && form_ != Form::factors)
        refuse("metadata kind", "adamw or adam", kind,
               "This influence is of a step of Adam: use --influence gradient.");
    if (kind_ == Kind::sgd)
        read_sgd();
    else
        read_adam();
}

void OptimizerFile::refuse(const std::string& field, const std::string& expected, const std::string& found,
                           const std::string& remedy) const {
    throw Error(ExitCode::bad_input, {file_.path(), field, expected, found, remedy});
}

/// A metadata number in [low, below).
double OptimizerFile::number(const std::string& key, double low, double below) const {
    const auto found = file_.metadata().find(key);
    if (found == file_.metadata().end()) refuse("metadata " + key, range_text(low, below), "nothing", write_again);
    const auto& text = found->second;
    double value = 0.0;
    const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
    if (end.ec != std::errc() || end.ptr != text.data() + text.size() || !(value >= low && value < below))
        refuse("metadata " + key, range_text(low, below), "'" + text + "'", write_again);
    return value;
}

void OptimizerFile::check_tensor(const std::string& moment, const LinearLayer& layer) const {
    const auto name = tensor_of(moment, layer);
    const auto found = file_.entries().find(name);
    if (found == file_.entries().end())
        refuse(
            name, "this tensor, as --parameters chooses its layer", "none",
            "The optimizer must have trained the chosen layers: train them too, or choose others with --parameters. " +
                other_model);
    const auto& entry = found->second;
    if (entry.dtype != "F32") refuse(name, "F32", entry.dtype, write_again);
    if (entry.shape != std::vector{layer.outputs, layer.inputs})
        refuse(name, "shape " + model::shape_text({layer.outputs, layer.inputs}) + " by the model's config.json",
               model::shape_text(entry.shape), other_model);
    const auto bytes = static_cast<std::size_t>(layer.outputs * layer.inputs) * sizeof(float);
    if (entry.bytes.size() != bytes)
        refuse(name, std::to_string(bytes) + " bytes", std::to_string(entry.bytes.size()),
               "The file is damaged. " + write_again);
}

void OptimizerFile::read_adam() {
    constexpr std::size_t alignment = 64;
    const double steps = number("step", 1.0, infinite) + 1.0;  // the next one
    beta1_ = number("beta1", 0.0, 1.0);
    beta2_ = number("beta2", 0.0, 1.0);
    epsilon_ = number("eps", 0.0, infinite);
    numerator_ = (1.0 - beta1_) / (1.0 - std::pow(beta1_, steps));
    correction_ = 1.0 - std::pow(beta2_, steps);
    momentum_ = beta1_ / (1.0 - std::pow(beta1_, steps));
    for (const auto& layer : layers_) {
        check_tensor("exp_avg_sq", layer);
        check_tensor("exp_avg", layer);
        offsets_.push_back(part_bytes_);
        const auto bytes = static_cast<std::size_t>(layer.outputs * layer.inputs) * sizeof(float);
        part_bytes_ += (bytes + alignment - 1) / alignment * alignment;
    }
}

void OptimizerFile::read_sgd() {
    const std::string buffer = "momentum_buffer";
    const double dampening = number("dampening", 0.0, 1.0);
    momentum_ = number("momentum", 0.0, infinite);
    const auto first = file_.entries().lower_bound(buffer + ".");
    if (momentum_ == 0.0 || first == file_.entries().end() || !first->first.starts_with(buffer + ".")) return;
    for (const auto& layer : layers_) check_tensor(buffer, layer);
    uniform_ = 1.0 - dampening;
    buffered_ = true;
}

torch::Tensor OptimizerFile::moment(const std::string& kind, std::size_t layer) const {
    const auto values =
        at::empty({layers_[layer].outputs, layers_[layer].inputs}, at::TensorOptions().dtype(torch::kFloat32));
    const auto name = tensor_of(kind, layers_[layer]);
    const auto& bytes = file_.entries().at(name).bytes;
    std::memcpy(values.mutable_data_ptr<float>(), bytes.data(), bytes.size());
    if (!at::isfinite(values).all().item<bool>()) refuse(name, "finite numbers", "others", write_again);
    return values.to(torch::kFloat64);
}

torch::Tensor OptimizerFile::constant(std::size_t layer, const torch::Tensor& weight) const {
    const auto decay = decay_ * weight.to(torch::kFloat64);
    if (kind_ == Kind::sgd)
        return (buffered_ ? momentum_ * moment("momentum_buffer", layer) + uniform_ * decay : uniform_ * decay)
            .to(torch::kFloat32);
    const auto second = moment("exp_avg_sq", layer);
    const auto root = (second / correction_).sqrt() + epsilon_;
    const auto along = at::where(root.eq(0.0), 0.0, momentum_ * moment("exp_avg", layer) / root);
    const auto shrunk = kind_ == Kind::adam ? at::where(second.eq(0.0), 0.0, numerator_ / root) * decay : decay;
    return (along + shrunk).to(torch::kFloat32);
}

torch::Tensor OptimizerFile::part(std::span<std::byte> memory, std::size_t layer) const {
    return at::from_blob(memory.data() + offsets_[layer], {layers_[layer].outputs, layers_[layer].inputs},
                         at::TensorOptions().dtype(torch::kFloat32));
}

OptimizerFile::Untouched OptimizerFile::fill(std::span<std::byte> memory) const {
    Untouched untouched;
    const bool factors = form_ == Form::factors, corrected = form_ == Form::step;
    for (std::size_t i = 0; i < offsets_.size(); ++i) {
        const auto& layer = layers_[i];
        const auto tensor = tensor_of("exp_avg_sq", layer);
        const auto* stored = file_.entries().at(tensor).bytes.data();
        auto* made = part(factors ? memory : memory.subspan(part_bytes_), i).mutable_data_ptr<float>();
        const auto count = layer.outputs * layer.inputs;
        for (std::int64_t j = 0; j < count; ++j) {
            float moment = 0.0F;  // the file promises no alignment
            std::memcpy(&moment, stored + static_cast<std::size_t>(j) * sizeof moment, sizeof moment);
            if (!(moment >= 0.0F) || std::isinf(moment))
                refuse(tensor, "second moments that are finite and not negative",
                       shown(moment) + " at row " + std::to_string(j / layer.inputs) + ", column " +
                           std::to_string(j % layer.inputs),
                       "The training run was broken or the file is damaged. " + write_again);
            untouched.zero += moment == 0.0F ? 1 : 0;
            const auto v = static_cast<double>(moment);
            made[j] = static_cast<float>(!factors ? beta2_ * v / (corrected ? correction_ : 1.0) +
                                                        (corrected ? 0.0 : epsilon_)
                                         : moment == 0.0F ? 0.0
                                                          : numerator_ / (std::sqrt(v / correction_) + epsilon_));
        }
        untouched.all += count;
        if (!factors) part(memory, i).copy_(moment("exp_avg", i).mul_(corrected ? momentum_ : beta1_));
    }
    if (!offsets_.empty() && untouched.zero == untouched.all)
        refuse(tensor_of("exp_avg_sq", layers_.front()), "second moments above zero in the chosen layers",
               "zeros alone", "The optimizer has not trained these layers: choose others with --parameters.");
    return untouched;
}

Preconditioner Preconditioner::to(torch::Device device) const {
    Preconditioner moved(*this);
    const auto move = [device](std::vector<torch::Tensor>& tensors) {
        for (auto& tensor : tensors) tensor = tensor.to(device);
    };
    move(moved.scales);
    if (moved.step) move(moved.step->first), move(moved.step->second);
    return moved;
}

Preconditioner OptimizerFile::preconditioner(std::span<std::byte> memory) const {
    Preconditioner result{.uniform = uniform_};
    std::vector<torch::Tensor> first, second;
    for (std::size_t i = 0; i < offsets_.size(); ++i) {
        first.push_back(part(memory, i));
        if (form_ != Form::factors) second.push_back(part(memory.subspan(part_bytes_), i));
    }
    if (form_ == Form::factors)
        result.scales = std::move(first);
    else if (form_ == Form::step)
        result.step = {std::move(first), std::move(second), numerator_, (1.0 - beta2_) / correction_, epsilon_};
    else
        result.step = {std::move(first), std::move(second), 1.0 - beta1_, 1.0 - beta2_, 0.0};
    return result;
}

std::string OptimizerFile::sha256() const {
    data::Sha256 hash;
    hash.update(file_.bytes());
    return data::hexadecimal(hash.digest());
}

}  // namespace idistill::influence
