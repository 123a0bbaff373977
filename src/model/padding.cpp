#include "idistill/model/padding.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

namespace idistill::model {

using torch::Tensor;

Tensor on_device(const std::vector<std::int64_t>& values, torch::Device device) {
    const auto host = at::TensorOptions().dtype(torch::kInt64);
    if (device.is_cpu()) return at::tensor(values, host);
    // From memory that the device reads by itself; PyTorch keeps it until that is done.
    const auto pinned = at::empty({static_cast<std::int64_t>(values.size())}, host.pinned_memory(true));
    if (!values.empty())
        std::memcpy(pinned.mutable_data_ptr<std::int64_t>(), values.data(), values.size() * sizeof(std::int64_t));
    return pinned.to(device, /*non_blocking=*/true);
}

Padding::Padding(const std::vector<std::int64_t>& offsets, torch::Device device, double working_bytes)
    : host_offsets_(offsets), samples_(static_cast<std::int64_t>(offsets.size()) - 1), working_bytes_(working_bytes) {
    const auto rows = offsets.back();
    const auto all = on_device(offsets, device);
    const auto end = all.narrow(0, 1, samples_);
    begin_ = all.narrow(0, 0, samples_);
    last_ = end - 1;
    offsets_ = all.to(torch::kInt32);
    sample_ = at::repeat_interleave(end - begin_, std::optional<std::int64_t>(rows));
    position_ = at::arange(rows, all.options()) - begin_.index_select(0, sample_);
}

std::int64_t Padding::longest(std::int64_t first, std::int64_t m) const {
    std::int64_t most = 0;
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(first + m); ++i)
        most = std::max(most, host_offsets_[i + 1] - host_offsets_[i]);
    return (most + aligned_rows - 1) / aligned_rows * aligned_rows;
}

Tensor Padding::repeated(const Tensor& x, std::int64_t first, std::int64_t m) const {
    auto shape = x.sizes().vec();
    shape[0] = longest(first, m);
    const auto in_sample = at::arange(shape[0], position_.options()).unsqueeze(0);
    shape.insert(shape.begin(), m);
    // A sample without rows has the one before it, which nothing reads.
    const auto rows =
        at::minimum(begin_.narrow(0, first, m).unsqueeze(1) + in_sample, last_.narrow(0, first, m).unsqueeze(1))
            .clamp_min_(0);
    return x.index_select(0, rows.view({-1})).view(shape);
}

Tensor Padding::zero_filled(const Tensor& x, std::int64_t first, std::int64_t m) const {
    auto padded = repeated(x, first, m);
    const auto count = (last_ + 1 - begin_).narrow(0, first, m).unsqueeze(1);
    const auto behind = at::arange(padded.size(1), position_.options()).unsqueeze(0).ge(count);
    std::vector<std::int64_t> shape(static_cast<std::size_t>(padded.dim()), 1);
    shape[0] = behind.size(0);
    shape[1] = behind.size(1);
    return padded.masked_fill_(behind.view(shape), 0);
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
    const auto place =
        (part(sample_, first, m) - at::Scalar(first)).mul_(padded.size(1)).add_(part(position_, first, m));
    return padded.flatten(0, 1).index_select(0, place);
}

void Padding::in_groups(const std::function<double(double)>& bytes,
                        const std::function<void(std::int64_t, std::int64_t)>& body) const {
    for (std::int64_t first = 0; first < samples_;) {
        std::int64_t m = 0;
        double most = 0.0;
        while (first + m < samples_) {
            most = std::max(most, static_cast<double>(longest(first + m, 1)));
            if (m > 0 && static_cast<double>(m + 1) * bytes(most) > working_bytes_) break;
            ++m;
        }
        body(first, m);
        first += m;
    }
}

std::int64_t Padding::rows_at_once(double bytes) const {
    const double most = working_bytes_ / bytes / static_cast<double>(aligned_rows);
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(most)) * aligned_rows;
}

}  // namespace idistill::model
