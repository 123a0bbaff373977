#include "order_statistics.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace idistill::selection {
namespace {

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

std::vector<std::size_t> largest_places(comm::Communicator& communicator, std::span<const double> values,
                                        std::int64_t k) {
    const double limit = nth_largest(communicator, values, k);
    std::int64_t room = k - count_above(communicator, values, limit).strictly;  // for values equal to the limit
    const auto tied = static_cast<std::int64_t>(std::count(values.begin(), values.end(), limit));
    const auto all_tied = communicator.all_gather(std::span<const std::int64_t>(&tied, 1));
    for (int rank = 0; rank < communicator.rank(); ++rank) room -= all_tied[static_cast<std::size_t>(rank)].front();
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < values.size(); ++i)
        if (values[i] > limit || (values[i] == limit && room-- > 0)) places.push_back(i);
    return places;
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
    for (const auto place : largest_places(communicator, values_at(values, among), k)) places.push_back(among[place]);
    return places;
}

}  // namespace idistill::selection
