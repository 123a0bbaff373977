#include "idistill/base/seeded_permutation.hpp"

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "idistill/base/philox.hpp"

namespace idistill {
namespace {

/// Finds the row of the eligible row number n.
class EligibleRows {
public:
    explicit EligibleRows(std::span<const std::uint8_t> eligible) : eligible_(eligible), before_{0} {
        for (std::size_t begin = 0; begin < eligible.size(); begin += block) {
            const auto part = eligible.subspan(begin, std::min(block, eligible.size() - begin));
            before_.push_back(before_.back() + std::accumulate(part.begin(), part.end(), std::int64_t{0}));
        }
    }

    [[nodiscard]] std::int64_t count() const { return before_.back(); }

    [[nodiscard]] std::int64_t row(std::int64_t ordinal) const {
        const auto after = std::upper_bound(before_.begin(), before_.end(), ordinal);
        std::int64_t left = ordinal - *(after - 1);
        std::size_t row = static_cast<std::size_t>(after - 1 - before_.begin()) * block;
        for (;; ++row) {
            if (eligible_[row] != 0 && left-- == 0) return static_cast<std::int64_t>(row);
        }
    }

private:
    static constexpr std::size_t block = 4096;
    std::span<const std::uint8_t> eligible_;
    std::vector<std::int64_t> before_;  ///< eligible rows before every block of rows, and all
};

}  // namespace

std::vector<std::int64_t> first_of_permutation(std::span<const std::uint8_t> eligible, std::uint64_t seed,
                                               std::string_view purpose, std::int64_t count) {
    const EligibleRows rows(eligible);
    const Philox random(seed, purpose);
    std::unordered_map<std::int64_t, std::int64_t> moved;  // position -> what a swap put there
    const auto at = [&moved](std::int64_t position) {
        const auto found = moved.find(position);
        return found == moved.end() ? position : found->second;
    };
    std::vector<std::int64_t> first;
    for (std::int64_t i = 0; i < count; ++i) {
        const auto left = static_cast<std::uint64_t>(rows.count() - i);
        const std::int64_t j = i + static_cast<std::int64_t>(random.below(left, static_cast<std::uint64_t>(i), 0));
        first.push_back(rows.row(at(j)));
        moved[j] = at(i);
    }
    return first;
}

}  // namespace idistill
