#include "over_ranks.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <string>

#include "idistill/base/error.hpp"

namespace idistill::selection {
namespace {

/// Every rank's first and last row and first and last block must follow those of the ranks before it.
void check_order(comm::Communicator& communicator, std::int64_t block_rows, std::span<const std::int64_t> row) {
    std::array<std::int64_t, 2> mine{0, -1};
    if (!row.empty()) mine = {row.front(), row.back()};
    bool sorted = std::adjacent_find(row.begin(), row.end(), std::greater_equal<>()) == row.end();
    std::int64_t last = -1;
    for (const auto& range : communicator.all_gather(std::span<const std::int64_t>(mine))) {
        if (range[0] > range[1]) continue;
        sorted = sorted && (last < 0 || range[0] / block_rows > last / block_rows);
        last = range[1];
    }
    auto wrong = std::int64_t{!sorted};
    communicator.all_reduce(std::span(&wrong, 1), comm::Reduction::max);
    if (wrong != 0)
        throw Error(ExitCode::internal_error,
                    {"weights", "rows", "ascending over the ranks, no block on two of them", "rows out of order", ""});
}

constexpr std::uint64_t sign_bit = std::uint64_t{1} << 63U;

/// Unsigned integers in the order of the doubles.
std::uint64_t key_of(double value) noexcept {
    const auto bits = std::bit_cast<std::uint64_t>(value + 0.0);  // -0 becomes 0
    return (bits & sign_bit) != 0 ? ~bits : bits | sign_bit;
}

double value_of(std::uint64_t key) noexcept {
    return std::bit_cast<double>((key & sign_bit) != 0 ? key & ~sign_bit : ~key);
}

}  // namespace

BlockSums::BlockSums(comm::Communicator& communicator, std::int64_t block_rows, std::span<const std::int64_t> row)
    : communicator_(&communicator) {
    check_order(communicator, block_rows, row);
    for (std::size_t i = 0; i < row.size(); ++i)
        if (i == 0 || row[i] / block_rows != row[i - 1] / block_rows) border_.push_back(i);
    border_.push_back(row.size());
}

std::vector<double> BlockSums::of_blocks(
    std::size_t width, const std::function<void(std::size_t block, std::span<double> sums)>& add) const {
    std::vector<double> mine((border_.size() - 1) * width, 0.0), sums(width, 0.0);
    for (std::size_t block = 0; block + 1 < border_.size(); ++block)
        add(block, std::span(mine).subspan(block * width, width));
    for (const auto& part : communicator_->all_gather(std::span<const double>(mine)))
        for (std::size_t i = 0; i < part.size(); ++i) sums[i % width] += part[i];
    return sums;
}

// The key is found from its highest byte down: in each of eight passes the values that share the bytes found so far
// are counted by their next byte.
double nth_largest(comm::Communicator& communicator, std::span<const double> values, std::int64_t k) {
    std::uint64_t key = 0;
    for (unsigned shift = 64; shift > 0;) {
        const std::uint64_t found = shift == 64 ? 0 : key >> shift;
        shift -= 8;
        std::array<std::int64_t, 256> counts{};
        for (const double value : values) {
            const std::uint64_t own = key_of(value);
            if (shift == 56 || own >> (shift + 8) == found) ++counts[(own >> shift) & 255U];
        }
        communicator.all_reduce(std::span<std::int64_t>(counts), comm::Reduction::sum);
        std::uint64_t byte = 255;
        while (byte > 0 && counts[byte] < k) k -= counts[byte--];
        key |= byte << shift;
    }
    return value_of(key);
}

Above count_above(comm::Communicator& communicator, std::span<const double> values, double limit) {
    std::array<std::int64_t, 2> counts{};
    for (const double value : values) {
        counts[0] += value > limit ? 1 : 0;
        counts[1] += value >= limit ? 1 : 0;
    }
    communicator.all_reduce(std::span<std::int64_t>(counts), comm::Reduction::sum);
    return {counts[0], counts[1]};
}

std::vector<double> values_at(std::span<const double> values, std::span<const std::size_t> places) {
    std::vector<double> found;
    found.reserve(places.size());
    for (const auto place : places) found.push_back(values[place]);
    return found;
}

std::vector<std::size_t> largest_places(comm::Communicator& communicator, std::span<const double> values,
                                        std::span<const std::size_t> among, std::int64_t k) {
    std::vector<std::size_t> places;
    if (k == 0) return places;
    const auto own = values_at(values, among);
    const double limit = nth_largest(communicator, own, k);
    std::int64_t room = k - count_above(communicator, own, limit).strictly;  // for values equal to the limit
    const auto tied = static_cast<std::int64_t>(std::count(own.begin(), own.end(), limit));
    const auto all_tied = communicator.all_gather(std::span<const std::int64_t>(&tied, 1));
    for (int rank = 0; rank < communicator.rank(); ++rank) room -= all_tied[static_cast<std::size_t>(rank)].front();
    for (std::size_t i = 0; i < own.size(); ++i)
        if (own[i] > limit || (own[i] == limit && room-- > 0)) places.push_back(among[i]);
    return places;
}

}  // namespace idistill::selection
