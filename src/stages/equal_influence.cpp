#include "equal_influence.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "idistill/base/finite.hpp"
#include "idistill/data/work_unit.hpp"
#include "rated_pool.hpp"

namespace idistill::stages {
namespace {

/// The smallest and largest number of a column, over samples that can be selected.
struct Bounds {
    float lowest = std::numeric_limits<float>::infinity();
    float highest = -std::numeric_limits<float>::infinity();

    void add(const Bounds& other) {
        lowest = std::min(lowest, other.lowest);
        highest = std::max(highest, other.highest);
    }
    /// A column without any number may be equal to others.
    [[nodiscard]] bool may_be_equal() const { return lowest > highest || equal_but_for_rounding(lowest, highest); }
};

bool may_be_equal(const std::vector<Bounds>& bounds) {
    return std::all_of(bounds.begin(), bounds.end(), [](const Bounds& of) { return of.may_be_equal(); });
}

/// Of each column over this rank's rows; nothing as soon as one of them differs, which is after a few rows as a rule.
std::vector<Bounds> bounds_here(const comm::Communicator& comm, const RatedPool& pool) {
    const auto columns = pool.influence.columns;
    std::vector<Bounds> bounds(static_cast<std::size_t>(columns));
    const auto mine = data::shard_of(pool.facts.rows(), comm.rank(), comm.size());
    const auto block_rows = std::min<std::int64_t>(rows_of_block(columns), 1024);
    std::vector<float> block;
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const auto count = std::min(block_rows, mine.end() - first);
        block.resize(static_cast<std::size_t>(count * columns));
        pool.influence.read(first, count, columns, block);
        for (std::int64_t row = 0; row < count; ++row) {
            const auto values =
                std::span(block).subspan(static_cast<std::size_t>(row * columns), static_cast<std::size_t>(columns));
            if (pool.facts.eligible[static_cast<std::size_t>(first + row)] == 0 || !all_finite(values)) continue;
            for (std::size_t c = 0; c < values.size(); ++c) bounds[c].add({values[c], values[c]});
        }
        if (!may_be_equal(bounds)) return {};
    }
    return bounds;
}

}  // namespace

selection::InfluenceRows to_choose_by(comm::Communicator& comm, const RatedPool& pool) {
    auto influence = pool.influence;
    const auto here = bounds_here(comm, pool);
    std::vector<Bounds> bounds(static_cast<std::size_t>(influence.columns));
    for (const auto& part : comm.all_gather(std::span<const Bounds>(here))) {
        if (part.size() != bounds.size()) return influence;
        for (std::size_t c = 0; c < bounds.size(); ++c) bounds[c].add(part[c]);
    }
    if (!may_be_equal(bounds) || bounds.empty() || bounds.front().lowest > bounds.front().highest) return influence;
    influence.equal = true;
    influence.read = [read = pool.influence.read, bounds = std::move(bounds)](
                         std::int64_t first, std::int64_t count, std::int64_t width, std::span<float> out) {
        read(first, count, width, out);
        for (std::int64_t row = 0; row < count; ++row) {
            const auto values = out.subspan(static_cast<std::size_t>(row * width),
                                            std::min(bounds.size(), static_cast<std::size_t>(width)));
            if (!all_finite(values)) continue;
            for (std::size_t c = 0; c < values.size(); ++c) values[c] = bounds[c].lowest;
        }
    };
    return influence;
}

}  // namespace idistill::stages
