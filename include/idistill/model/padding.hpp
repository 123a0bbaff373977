#pragma once
// Samples of a packed batch side by side, each with room for the longest: what a device with wide parallel units
// computes on, in place of one sample after the other.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace idistill::model {

/// R rows of n samples, sample i at rows [offsets[i], offsets[i+1]), and their places among n times `longest`. Gathers
/// alone, no scatters: the same bits every time on any device, and what is wrong with a sample stays in it.
class Padding {
public:
    Padding(const std::vector<std::int64_t>& offsets, torch::Device device);

    [[nodiscard]] std::int64_t samples() const noexcept { return samples_; }
    [[nodiscard]] std::int64_t longest() const noexcept { return longest_; }

    /// (m x longest x ...) of rows x (R x ...), samples [first, first + m). Behind its end a sample has its last row
    /// again.
    [[nodiscard]] torch::Tensor repeated(const torch::Tensor& x, std::int64_t first, std::int64_t m) const;
    [[nodiscard]] torch::Tensor repeated(const torch::Tensor& x) const { return repeated(x, 0, samples_); }
    /// The same with zeros there.
    [[nodiscard]] torch::Tensor zero_filled(const torch::Tensor& x, std::int64_t first, std::int64_t m) const;
    [[nodiscard]] torch::Tensor zero_filled(const torch::Tensor& x) const { return zero_filled(x, 0, samples_); }
    /// The rows of samples [first, first + m) in (m x longest x ...), and of all in (n x longest x ...).
    [[nodiscard]] torch::Tensor rows_of(const torch::Tensor& padded, std::int64_t first, std::int64_t m) const;
    [[nodiscard]] torch::Tensor rows_of(const torch::Tensor& padded) const { return rows_of(padded, 0, samples_); }
    /// The same rows of x (R x ...), a view.
    [[nodiscard]] torch::Tensor part(const torch::Tensor& x, std::int64_t first, std::int64_t m) const;
    /// (n x ...) sums of every sample's rows, in x's type; of samples [first, first + m) from their rows alone (m x
    /// ...).
    [[nodiscard]] torch::Tensor sums(const torch::Tensor& x) const { return sums(x, 0, samples_); }
    [[nodiscard]] torch::Tensor sums(const torch::Tensor& part, std::int64_t first, std::int64_t m) const;

    /// Of every row: its sample (R) int64, and which of its rows it is (R) int64.
    [[nodiscard]] const torch::Tensor& sample() const noexcept { return sample_; }
    [[nodiscard]] const torch::Tensor& position() const noexcept { return position_; }
    /// (n + 1) int32, as attention kernels want them; of samples [first, first + m) from their first row on (m + 1).
    [[nodiscard]] const torch::Tensor& offsets() const noexcept { return offsets_; }
    [[nodiscard]] torch::Tensor offsets(std::int64_t first, std::int64_t m) const;

    /// Calls body(first, m) for samples [first, first + m) in turn: as many as fit into working memory at so many bytes
    /// each, or one.
    void in_groups(double bytes_per_sample, const std::function<void(std::int64_t, std::int64_t)>& body) const;

private:
    /// repeated() of rows that begin with row `begin`.
    [[nodiscard]] torch::Tensor gathered(const torch::Tensor& x, std::int64_t first, std::int64_t m,
                                         std::int64_t begin) const;

    std::vector<std::int64_t> host_offsets_;
    std::int64_t samples_ = 0, longest_ = 0;
    torch::Tensor offsets_, sample_, position_;
    torch::Tensor row_;     ///< (n x longest) int64, of which row of x there is
    torch::Tensor behind_;  ///< (n x longest) bool, whether it is behind the sample's end
    torch::Tensor place_;   ///< (R) int64 of every row among n times longest
};

/// Host numbers on a device, without waiting for what it does.
torch::Tensor on_device(const std::vector<std::int64_t>& values, torch::Device device);

}  // namespace idistill::model
