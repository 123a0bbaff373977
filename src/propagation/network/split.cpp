#include "split.hpp"

#include <algorithm>
#include <numeric>
#include <string_view>

#include "idistill/base/seeded_permutation.hpp"

namespace idistill::propagation {
namespace {

constexpr std::int64_t held_share = 10;  // one of so many

/// So many of the places below `all`.
std::vector<std::uint8_t> drawn(std::int64_t all, std::int64_t count, std::uint64_t seed, std::string_view purpose) {
    const std::vector<std::uint8_t> any(static_cast<std::size_t>(all), 1);
    std::vector<std::uint8_t> marks(any.size(), 0);
    for (const auto place : first_of_permutation(any, seed, purpose, std::min(all, count)))
        marks[static_cast<std::size_t>(place)] = 1;
    return marks;
}

std::vector<std::int64_t> places_where(const std::vector<std::uint8_t>& marks, std::uint8_t value) {
    std::vector<std::int64_t> places;
    for (std::size_t place = 0; place < marks.size(); ++place)
        if (marks[place] == value) places.push_back(static_cast<std::int64_t>(place));
    return places;
}

std::vector<std::int64_t> all_places(std::int64_t count) {
    std::vector<std::int64_t> places(static_cast<std::size_t>(count));
    std::iota(places.begin(), places.end(), std::int64_t{0});
    return places;
}

bool any_pair(const std::vector<std::int64_t>& rows, const std::vector<std::int64_t>& columns,
              const std::vector<std::int64_t>& labelled) {
    return std::any_of(rows.begin(), rows.end(), [&](std::int64_t row) {
        return std::any_of(columns.begin(), columns.end(),
                           [&](std::int64_t column) { return labelled[static_cast<std::size_t>(column)] != row; });
    });
}

}  // namespace

Split split_samples(std::int64_t rows, const std::vector<std::int64_t>& labelled, bool by_target, std::uint64_t seed) {
    const auto count = std::ssize(labelled);
    const bool among_rows =
        std::any_of(labelled.begin(), labelled.end(), [](std::int64_t place) { return place >= 0; });
    const auto held =
        drawn(rows, std::max<std::int64_t>(among_rows ? 2 : 1, rows / held_share), seed, "network held-out samples");
    std::vector<std::uint8_t> held_column(labelled.size(), 0);
    if (among_rows) {
        for (std::size_t column = 0; column < labelled.size(); ++column)
            if (labelled[column] >= 0) held_column[column] = held[static_cast<std::size_t>(labelled[column])];
    } else if (by_target && count >= held_share) {
        held_column = drawn(count, count / held_share, seed, "network held-out targets");
    }
    Split split{places_where(held, 0), places_where(held_column, 0), places_where(held, 1),
                places_where(held_column, 1), true};
    if (split.held_columns.empty()) {
        split.held_columns = split.columns;
        split.holds_columns = false;
    }
    if (any_pair(split.rows, split.columns, labelled) && any_pair(split.held_rows, split.held_columns, labelled))
        return split;
    return {all_places(rows), all_places(count), {}, {}, false};
}

std::vector<Pair> pairs_of(const std::vector<std::int64_t>& rows, const std::vector<std::int64_t>& columns,
                           const std::vector<std::int64_t>& labelled) {
    std::vector<Pair> pairs;
    pairs.reserve(rows.size() * columns.size());
    for (const auto row : rows)
        for (const auto column : columns)
            if (labelled[static_cast<std::size_t>(column)] != row)
                pairs.push_back({static_cast<std::int32_t>(row), static_cast<std::int32_t>(column)});
    return pairs;
}

}  // namespace idistill::propagation
