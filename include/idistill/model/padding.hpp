#pragma once
// Samples of a packed batch side by side, each with room for the longest: what a device with wide parallel units
// computes on, in place of one sample after the other.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace idistill::model {

/// R rows of n samples, sample i at rows [offsets[i], offsets[i+1]), and their places where samples [first, first + m)
/// have room for the longest of them. Gathers alone, no scatters: the same bits every time on any device, and what is
/// wrong with a sample stays in it.
class Padding {
public:
    /// Of one intermediate of a group of samples; a pass holds a few at a time. More would only pad more: samples are
    /// sorted by length.
    static constexpr double default_working_bytes = 256 << 20;
    /// Matrix units want sides that are multiples of this.
    static constexpr std::int64_t aligned_rows = 8;

    Padding(const std::vector<std::int64_t>& offsets, torch::Device device,
            double working_bytes = default_working_bytes);

    [[nodiscard]] std::int64_t samples() const noexcept { return samples_; }
    /// Room for the longest sample: its rows, rounded up to what matrix units like.
    [[nodiscard]] std::int64_t longest(std::int64_t first, std::int64_t m) const;
    [[nodiscard]] std::int64_t longest() const { return longest(0, samples_); }

    /// (m x longest x ...) of rows x (R x ...). Behind its end a sample has its last row again.
    [[nodiscard]] torch::Tensor repeated(const torch::Tensor& x, std::int64_t first, std::int64_t m) const;
    /// The same with zeros there.
    [[nodiscard]] torch::Tensor zero_filled(const torch::Tensor& x, std::int64_t first, std::int64_t m) const;
    /// Both of all samples.
    [[nodiscard]] torch::Tensor repeated(const torch::Tensor& x) const { return repeated(x, 0, samples_); }
    [[nodiscard]] torch::Tensor zero_filled(const torch::Tensor& x) const { return zero_filled(x, 0, samples_); }
    /// Rows of samples [first, first + m) in (m x longest x ...).
    [[nodiscard]] torch::Tensor rows_of(const torch::Tensor& padded, std::int64_t first, std::int64_t m) const;
    /// The same rows of x (R x ...), a view.
    [[nodiscard]] torch::Tensor part(const torch::Tensor& x, std::int64_t first, std::int64_t m) const;
    /// (n x ...) sums of every sample's rows, in x's type.
    [[nodiscard]] torch::Tensor sums(const torch::Tensor& x) const { return zero_filled(x).sum(1); }

    /// Which of its sample's rows every row is (R) int64.
    [[nodiscard]] const torch::Tensor& position() const noexcept { return position_; }
    /// (n + 1) int32, as attention kernels want them; of samples [first, first + m) from their first row on (m + 1).
    [[nodiscard]] const torch::Tensor& offsets() const noexcept { return offsets_; }
    [[nodiscard]] torch::Tensor offsets(std::int64_t first, std::int64_t m) const;

    /// Calls body(first, m) for samples [first, first + m) in turn: as many as fit into working memory, each taking
    /// bytes(longest), or one.
    void in_groups(const std::function<double(double longest)>& bytes,
                   const std::function<void(std::int64_t first, std::int64_t m)>& body) const;
    /// Rows, each taking so many bytes, that fit into it; a multiple of aligned_rows.
    [[nodiscard]] std::int64_t rows_at_once(double bytes) const;

private:
    std::vector<std::int64_t> host_offsets_;
    std::int64_t samples_ = 0;
    double working_bytes_;
    torch::Tensor offsets_, position_;
    torch::Tensor begin_, last_;  ///< (n) int64, first and last row of every sample
    torch::Tensor sample_;        ///< (R) int64, of every row
};

/// Host numbers on a device, without waiting for what it does.
torch::Tensor on_device(const std::vector<std::int64_t>& values, torch::Device device);

}  // namespace idistill::model
