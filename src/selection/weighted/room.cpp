// Room for weights: what a largest weight and most weight of groups of rows leave of it.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/selection/weighted.hpp"

namespace idistill::selection {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double tolerance = 1e-9;  // shares that people add up to 1, and N/k written with a few digits

std::string shown(double value) { return fmt::format("{:.6g}", value); }

/// Rounded up in the sixth digit, so that giving it back is enough.
std::string shown_up(double value) {
    const double unit = std::pow(10.0, std::floor(std::log10(value)) - 5.0);
    return shown(std::ceil(value / unit * (1.0 - tolerance)) * unit);
}

/// The least largest weight with which all rows have room for the total; infinite where none is enough.
double least_largest(const WeightRoom& room) {
    std::vector<std::pair<double, std::size_t>> full_at;  // largest weight from which on a group has its most
    for (std::size_t g = 0; g < room.group_most.size(); ++g)
        if (room.rows[g] > 0) full_at.emplace_back(room.group_most[g] / static_cast<double>(room.rows[g]), g);
    std::sort(full_at.begin(), full_at.end());
    double missing = room.total;
    auto growing = static_cast<double>(std::accumulate(room.rows.begin(), room.rows.end(), std::int64_t{0}));
    for (const auto& [largest, g] : full_at) {
        if (missing <= growing * largest) break;
        missing -= room.group_most[g];
        growing -= static_cast<double>(room.rows[g]);
    }
    return growing > 0.0 ? missing / growing : missing > tolerance * room.total ? infinity : full_at.back().first;
}

[[noreturn]] void refuse(const std::string& option, const std::string& expected, const std::string& found,
                         const std::string& remedy) {
    throw Error(ExitCode::usage, {option, {}, expected, found, remedy});
}

void check_all(const WeightRoom& room) {
    const double enough = room.total * (1.0 - tolerance);
    if (room.most() >= enough) return;
    WeightRoom of_shares = room;
    of_shares.largest = infinity;
    const double part = of_shares.most() / room.total;
    if (of_shares.most() < enough)
        refuse("--source-share", "shares that leave room for all weight",
               fmt::format("room for {} of it, as no other source is eligible", shown(part)),
               fmt::format("Raise the shares by at least {} together, or leave one of the sources without.",
                           shown_up(1.0 - part)));
    refuse("--max-weight",
           fmt::format("at least {}, as the weights add up to {}", shown_up(least_largest(room)), shown(room.total)),
           shown(room.largest),
           fmt::format("Raise --max-weight{}.", room.group_most.empty() ? "" : " or a --source-share"));
}

}  // namespace

double WeightRoom::most() const noexcept {
    const auto of_rows = [this](std::int64_t count) {
        return count > 0 ? static_cast<double>(count) * largest : 0.0;  // where largest may be infinite
    };
    double sum = of_rows(rows.back());
    for (std::size_t g = 0; g < group_most.size(); ++g) sum += std::min(group_most[g], of_rows(rows[g]));
    return sum;
}

std::optional<std::vector<std::int64_t>> WeightRoom::fewest() const {
    // Taking rows by what they can have, largest first: of each group whole rows, then one for what is left of its
    // most.
    struct Rows {
        double each;
        std::int64_t count;
        std::size_t group;
    };
    std::vector<Rows> all;
    for (std::size_t g = 0; g < rows.size(); ++g) {
        const double most = g < group_most.size() ? group_most[g] : infinity;
        const double whole = std::floor(most / largest * (1.0 + tolerance));
        const auto count = whole < static_cast<double>(rows[g]) ? static_cast<std::int64_t>(whole) : rows[g];
        if (count > 0) all.push_back({largest, count, g});
        const double left = count < rows[g] ? most - (count > 0 ? static_cast<double>(count) * largest : 0.0) : 0.0;
        if (left > tolerance * total) all.push_back({left, 1, g});
    }
    std::stable_sort(all.begin(), all.end(), [](const Rows& a, const Rows& b) { return a.each > b.each; });
    std::vector<std::int64_t> taken(rows.size(), 0);
    double missing = total * (1.0 - tolerance);
    for (const auto& one : all) {
        if (!(missing > 0.0)) break;
        const double needed = std::ceil(missing / one.each);
        const auto count = needed < static_cast<double>(one.count) ? static_cast<std::int64_t>(needed) : one.count;
        taken[one.group] += std::max<std::int64_t>(count, 1);
        missing -= static_cast<double>(std::max<std::int64_t>(count, 1)) * one.each;
    }
    if (missing > 0.0) return std::nullopt;
    return taken;
}

void check_room(const WeightRoom& room, std::optional<std::int64_t> count) {
    check_all(room);
    const auto fewest = room.fewest();
    if (!count || !fewest) return;
    const auto least = std::accumulate(fewest->begin(), fewest->end(), std::int64_t{0});
    if (least <= *count) return;
    const bool capped = room.largest < infinity, shared = !room.group_most.empty();
    const auto* between = capped && shared ? " and " : "";
    const auto* raise = !capped ? "a --source-share" : shared ? "--max-weight or a --source-share" : "--max-weight";
    refuse(
        "--select",
        fmt::format("at least {} samples, which can have all weight under {}{}{}", least,
                    capped ? "--max-weight " + shown(room.largest) : "", between, shared ? "the --source-share" : ""),
        std::to_string(*count),
        fmt::format("Ask for {} or more, or raise {}{}.", least, raise,
                    shared ? "" : fmt::format(" to {} or more", shown_up(room.total / static_cast<double>(*count)))));
}

}  // namespace idistill::selection
