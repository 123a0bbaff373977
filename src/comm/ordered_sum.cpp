#include "idistill/comm/ordered_sum.hpp"

#include <algorithm>
#include <cstddef>

namespace idistill::comm {
namespace {

struct Slice {
    std::size_t first;
    std::size_t count;
};

/// Slices differ by one number at most; the first are the longer ones.
Slice slice_of(int rank, int size, std::size_t numbers) {
    const auto place = static_cast<std::size_t>(rank);
    const auto ranks = static_cast<std::size_t>(size);
    const std::size_t longer = numbers % ranks;
    return {numbers / ranks * place + std::min(place, longer), numbers / ranks + (place < longer ? 1 : 0)};
}

}  // namespace

void add_to_slices(Communicator& communicator, std::span<const float> part, std::span<float> sum) {
    for (int owner = 0; owner < communicator.size(); ++owner) {
        const Slice slice = slice_of(owner, communicator.size(), sum.size());
        // In halves: what is gathered is there twice for a moment, as bytes and as numbers.
        const std::size_t half = (slice.count + 1) / 2;
        for (std::size_t done = 0; done < slice.count; done += half) {
            const std::size_t first = slice.first + done;
            const std::size_t count = std::min(half, slice.count - done);
            const auto mine = part.empty() ? part : part.subspan(first, count);
            const bool adds = communicator.rank() == owner;
            auto parts = communicator.gather<float>(adds ? std::span<const float>() : mine, owner);
            for (std::size_t rank = 0; rank < parts.size(); ++rank) {
                const auto term = static_cast<int>(rank) == owner ? mine : std::span<const float>(parts[rank]);
                for (std::size_t i = 0; i < term.size(); ++i) sum[first + i] += term[i];
            }
        }
    }
}

void share_slices(Communicator& communicator, std::span<float> sum) {
    for (int owner = 0; owner < communicator.size(); ++owner) {
        const Slice slice = slice_of(owner, communicator.size(), sum.size());
        communicator.broadcast(sum.subspan(slice.first, slice.count), owner);
    }
}

}  // namespace idistill::comm
