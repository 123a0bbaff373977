#include "neighbours.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numeric>

#include "idistill/base/progress.hpp"
#include "idistill/base/seeded_permutation.hpp"

namespace idistill::selection {
namespace {

constexpr auto lanes = static_cast<std::size_t>(similarity_lanes);
constexpr std::size_t panel = 1024;  // candidates at a time

struct Near {
    float similarity = 0.0F;
    std::int32_t number = -1;  ///< of a cell, or row of a candidate
};

/// Larger similarity first, ties by number.
bool nearer(const Near& a, const Near& b) {
    return a.similarity != b.similarity ? a.similarity > b.similarity : a.number < b.number;
}

/// The best few of what is offered, in any order of offers.
class Nearest {
public:
    Nearest(std::size_t lists, std::size_t depth) : depth_(depth), size_(lists, 0), best_(lists * depth) {}

    void offer(std::size_t list, Near near) {
        auto* first = best_.data() + list * depth_;
        auto& size = size_[list];
        if (size == depth_) {
            if (!nearer(near, *first)) return;  // the worst kept is at the front
            std::pop_heap(first, first + size, nearer);
            first[size - 1] = near;
        } else {
            first[size++] = near;
        }
        std::push_heap(first, first + size, nearer);
    }
    [[nodiscard]] std::span<const Near> of(std::size_t list) const {
        return {best_.data() + list * depth_, size_[list]};
    }

private:
    std::size_t depth_;
    std::vector<std::size_t> size_;
    std::vector<Near> best_;
};

/// Numbers grouped: those of group g are number[start[g]] to number[start[g + 1]].
struct Groups {
    std::vector<std::size_t> start;
    std::vector<std::int64_t> number;

    [[nodiscard]] std::span<const std::int64_t> of(std::size_t group) const {
        return std::span(number).subspan(start[group], start[group + 1] - start[group]);
    }
};

/// visit(take) calls take(group, number) for every member, in the order that members shall have, the same in each of
/// two calls.
template <class Visit>
Groups grouped(std::size_t groups, const Visit& visit) {
    Groups made;
    made.start.assign(groups + 1, 0);
    visit([&](std::size_t group, std::int64_t /*number*/) { ++made.start[group + 1]; });
    std::partial_sum(made.start.begin(), made.start.end(), made.start.begin());
    made.number.resize(made.start.back());
    auto next = made.start;
    visit([&](std::size_t group, std::int64_t number) { made.number[next[group]++] = number; });
    return made;
}

class Search {
public:
    Search(comm::Communicator& comm, const Similarity& similarity, const RepresentedSamples& samples,
           std::span<const std::uint8_t> candidate)
        : comm_(comm),
          similarity_(similarity),
          samples_(samples),
          candidate_(candidate),
          width_(static_cast<std::size_t>(similarity.width())) {}

    /// The best cells of every sample of this rank: by the pivots, rows of the pool.
    [[nodiscard]] Nearest cells(const std::vector<std::int64_t>& pivots) const {
        Nearest best(samples_.tiles() * lanes, std::min(cells_searched, pivots.size()));
        for (std::size_t first = 0; first < pivots.size(); first += panel) {
            const auto part = std::span(pivots).subspan(first, std::min(panel, pivots.size() - first));
            const auto factors = read(part);
            std::vector<float> compared(part.size() * lanes);
            for (std::size_t tile = 0; tile < samples_.tiles(); ++tile) {
                similarity_.compare(samples_.tile(tile), factors, compared);
                for (std::size_t i = 0; i < part.size(); ++i)
                    for (std::size_t lane = 0; lane < lanes; ++lane)
                        best.offer(tile * lanes + lane,
                                   {compared[i * lanes + lane], static_cast<std::int32_t>(first + i)});
            }
        }
        return best;
    }

    /// The candidates of every cell, rows ascending, on every rank.
    [[nodiscard]] Groups members(const Nearest& best, std::size_t cells) const {
        std::vector<std::int32_t> own(static_cast<std::size_t>(samples_.rows().count));
        for (std::size_t place = 0; place < own.size(); ++place) {
            const auto near = best.of(place);
            own[place] = std::min_element(near.begin(), near.end(), nearer)->number;
        }
        std::vector<std::int32_t> cell_of;
        for (const auto& part : comm_.all_gather(std::span<const std::int32_t>(own)))
            cell_of.insert(cell_of.end(), part.begin(), part.end());
        return grouped(cells, [&](auto take) {
            for (std::size_t row = 0; row < cell_of.size(); ++row)
                if (candidate_[row] != 0) take(static_cast<std::size_t>(cell_of[row]), static_cast<std::int64_t>(row));
        });
    }

    /// The nearest candidates of every sample of this rank, by their rows.
    [[nodiscard]] Nearest search(const Nearest& best, const Groups& members, std::size_t cells,
                                 std::size_t count) const {
        const auto cover = samples_.cover();
        const auto searching = grouped(cells, [&](auto take) {
            for (std::size_t place = 0; place < cover.size(); ++place)
                if (std::isfinite(cover[place]))
                    for (const auto& near : best.of(place))
                        take(static_cast<std::size_t>(near.number), static_cast<std::int64_t>(place));
        });
        double pairs = 0.0;
        const auto pairs_of = [&](std::size_t cell) {
            return static_cast<double>(searching.of(cell).size()) * static_cast<double>(members.of(cell).size());
        };
        for (std::size_t cell = 0; cell < cells; ++cell) pairs += pairs_of(cell);
        constexpr double shown_flops = 1e11;
        std::unique_ptr<Progress> progress;
        if (comm_.is_root() && 2.0 * pairs * static_cast<double>(width_) > shown_flops)
            progress = std::make_unique<Progress>("neighbours", ProgressAmount{samples_.rows().count, 0, pairs},
                                                  ProgressAmount{});
        Nearest nearest(cover.size(), count);
        for (std::size_t cell = 0; cell < cells; ++cell) {
            search_cell(searching.of(cell), members.of(cell), nearest);
            if (progress) progress->add({0, 0, pairs_of(cell)});
        }
        return nearest;
    }

private:
    [[nodiscard]] std::vector<float> read(std::span<const std::int64_t> rows) const {
        std::vector<float> factors(rows.size() * width_);
        similarity_.read(rows, factors);
        return factors;
    }

    void search_cell(std::span<const std::int64_t> places, std::span<const std::int64_t> all, Nearest& nearest) const {
        if (places.empty()) return;
        std::vector<float> tile(width_ * lanes), compared(std::min(panel, all.size()) * lanes);
        for (std::size_t first = 0; first < all.size(); first += panel) {
            const auto part = all.subspan(first, std::min(panel, all.size() - first));
            const auto factors = read(part);
            for (std::size_t group = 0; group < places.size(); group += lanes) {
                const auto abreast = places.subspan(group, std::min(lanes, places.size() - group));
                fill_tile(abreast, tile);
                const auto out = std::span(compared).first(part.size() * lanes);
                similarity_.compare(tile, factors, out);
                for (std::size_t i = 0; i < part.size(); ++i)
                    for (std::size_t lane = 0; lane < abreast.size(); ++lane)
                        if (const float value = out[i * lanes + lane]; value > similarity_.none())
                            nearest.offer(static_cast<std::size_t>(abreast[lane]),
                                          {value, static_cast<std::int32_t>(part[i])});
            }
        }
    }

    void fill_tile(std::span<const std::int64_t> places, std::span<float> tile) const {
        for (std::size_t lane = 0; lane < places.size(); ++lane) {
            const auto place = static_cast<std::size_t>(places[lane]);
            const auto from = samples_.tile(place / lanes);
            for (std::size_t f = 0; f < width_; ++f) tile[f * lanes + lane] = from[f * lanes + place % lanes];
        }
    }

    comm::Communicator& comm_;
    const Similarity& similarity_;
    const RepresentedSamples& samples_;
    std::span<const std::uint8_t> candidate_;
    std::size_t width_;
};

}  // namespace

double neighbour_bytes(std::int64_t width, std::int64_t count) {
    const double found = 2.0 * static_cast<double>(count) * sizeof(KeptSimilarity);  // by sample, then by candidate
    const double cells = static_cast<double>(cells_searched) * (sizeof(Near) + sizeof(std::int64_t));
    return static_cast<double>(width) * sizeof(float) + found + cells + 3 * sizeof(std::size_t) + 2 * sizeof(float);
}

Neighbours find_neighbours(comm::Communicator& comm, const Similarity& similarity, const RepresentedSamples& samples,
                           std::span<const std::uint8_t> candidate, std::int64_t count, std::uint64_t seed) {
    const auto candidates = std::count(candidate.begin(), candidate.end(), std::uint8_t{1});
    const auto cells = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(candidates))));
    auto pivots = first_of_permutation(candidate, seed, "neighbour cells", cells);
    std::sort(pivots.begin(), pivots.end());
    const Search search(comm, similarity, samples, candidate);
    const auto best = search.cells(pivots);
    const auto members = search.members(best, pivots.size());
    const auto nearest = search.search(best, members, pivots.size(), static_cast<std::size_t>(count));
    const auto places = samples.tiles() * lanes;
    Neighbours found;
    found.start.assign(candidate.size() + 1, 0);
    const auto row_of = [](const Near& near) { return static_cast<std::size_t>(near.number); };
    for (std::size_t place = 0; place < places; ++place)
        for (const auto& near : nearest.of(place)) ++found.start[row_of(near) + 1];
    std::partial_sum(found.start.begin(), found.start.end(), found.start.begin());
    found.similarity.resize(static_cast<std::size_t>(found.start.back()));
    auto next = found.start;
    for (std::size_t place = 0; place < places; ++place)
        for (const auto& near : nearest.of(place))
            found.similarity[static_cast<std::size_t>(next[row_of(near)]++)] = {static_cast<std::uint32_t>(place),
                                                                                near.similarity};
    return found;
}

}  // namespace idistill::selection
