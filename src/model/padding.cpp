#include "idistill/model/padding.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

namespace idistill::model {
namespace {

using torch::Tensor;

/// Of one intermediate; a pass holds a few at a time.
constexpr double working_bytes = 1 << 30;

/// x (m x longest x ...) with its mask (m x longest) over the other dimensions.
Tensor over_others(const Tensor& mask, const Tensor& x) {
    auto shape = mask.sizes().vec();
    shape.resize(static_cast<std::size_t>(x.dim()), 1);
    return mask.view(shape);
}

}  // namespace

Tensor on_device(const std::vector<std::int64_t>& values, torch::Device device) {
    const auto host = at::TensorOptions().dtype(torch::kInt64);
    if (!device.is_cuda()) return at::tensor(values, host).to(device);
    // From memory that the device reads by itself; PyTorch keeps it until that is done.
    const auto pinned = at::empty({static_cast<std::int64_t>(values.size())}, host.pinned_memory(true));
    if (!values.empty())
        std::memcpy(pinned.mutable_data_ptr<std::int64_t>(), values.data(), values.size() * sizeof(std::int64_t));
    return pinned.to(device, /*non_blocking=*/true);
}

Padding::Padding(const std::vector<std::int64_t>& offsets, torch::Device device)
    : host_offsets_(offsets), samples_(static_cast<std::int64_t>(offsets.size()) - 1) {
    const auto rows = offsets.back();
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) longest_ = std::max(longest_, offsets[i + 1] - offsets[i]);
    const auto all = on_device(offsets, device);
    const auto first = all.narrow(0, 0, samples_), end = all.narrow(0, 1, samples_);
    const auto in_sample = at::arange(longest_, all.options()).unsqueeze(0);
    offsets_ = all.to(torch::kInt32);
    behind_ = in_sample.ge((end - first).unsqueeze(1));
    // A sample without rows has the one before it, which nothing reads.
    row_ = at::minimum(first.unsqueeze(1) + in_sample, end.unsqueeze(1) - 1).clamp_min(0);
    sample_ = at::repeat_interleave(end - first, std::optional<std::int64_t>(rows));
    position_ = at::arange(rows, all.options()) - first.index_select(0, sample_);
    place_ = sample_ * longest_ + position_;
}

Tensor Padding::gathered(const Tensor& x, std::int64_t first, std::int64_t m, std::int64_t begin) const {
    auto shape = x.sizes().vec();
    shape[0] = longest_;
    shape.insert(shape.begin(), m);
    const auto rows = row_.narrow(0, first, m).reshape({-1});
    return x.index_select(0, begin == 0 ? rows : rows - begin).view(shape);
}

Tensor Padding::repeated(const Tensor& x, std::int64_t first, std::int64_t m) const { return gathered(x, first, m, 0); }

Tensor Padding::zero_filled(const Tensor& x, std::int64_t first, std::int64_t m) const {
    auto padded = repeated(x, first, m);
    return padded.masked_fill_(over_others(behind_.narrow(0, first, m), padded), 0);
}

Tensor Padding::part(const Tensor& x, std::int64_t first, std::int64_t m) const {
    const auto begin = host_offsets_[static_cast<std::size_t>(first)];
    return x.narrow(0, begin, host_offsets_[static_cast<std::size_t>(first + m)] - begin);
}

Tensor Padding::offsets(std::int64_t first, std::int64_t m) const {
    const auto own = offsets_.narrow(0, first, m + 1);
    return first == 0 ? own : own - at::Scalar(host_offsets_[static_cast<std::size_t>(first)]);
}

Tensor Padding::rows_of(const Tensor& padded, std::int64_t first, std::int64_t m) const {
    const auto place = part(place_, first, m);
    return padded.flatten(0, 1).index_select(0, first == 0 ? place : place - first * longest_);
}

Tensor Padding::sums(const Tensor& part, std::int64_t first, std::int64_t m) const {
    auto padded = gathered(part, first, m, host_offsets_[static_cast<std::size_t>(first)]);
    return padded.masked_fill_(over_others(behind_.narrow(0, first, m), padded), 0).sum(1);
}

void Padding::in_groups(double bytes_per_sample, const std::function<void(std::int64_t, std::int64_t)>& body) const {
    const auto most = std::clamp(static_cast<std::int64_t>(working_bytes / std::max(bytes_per_sample, 1.0)),
                                 std::int64_t{1}, std::max(samples_, std::int64_t{1}));
    for (std::int64_t first = 0; first < samples_; first += most) body(first, std::min(most, samples_ - first));
}

}  // namespace idistill::model
