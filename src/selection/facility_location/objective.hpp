#pragma once
// What a greedy selection maximises: a monotone submodular function of a set of samples, as gains over the set so far.

#include <cstdint>
#include <span>
#include <vector>

namespace idistill::selection {

/// f of the set A that was added so far; f of the empty set is 0. Every rank calls everything with the same arguments
/// and gets the same bits for any number of ranks. A gain never grows when a sample is added, rounding included: it is
/// a sum, in a fixed order, of terms none of which grows.
class Objective {
public:
    virtual ~Objective() = default;

    /// f(A + row) - f(A) of these candidates, at most `most_gains` of them. `keep`: they may be asked for again soon.
    [[nodiscard]] virtual std::vector<double> gains(std::span<const std::int64_t> rows, bool keep) = 0;
    /// A becomes A + row.
    virtual void add(std::int64_t row) = 0;
    /// FLOPs of a gain from nothing.
    [[nodiscard]] virtual double gain_flops() const = 0;
};

/// Gains at a time: what is read for a batch is used on all represented samples.
inline constexpr std::size_t most_gains = 128;

}  // namespace idistill::selection
