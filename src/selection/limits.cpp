#include "limits.hpp"

#include <algorithm>
#include <limits>
#include <string>

namespace idistill::selection {
namespace {

constexpr std::int64_t unlimited = std::numeric_limits<std::int64_t>::max();

std::string number(std::int64_t value) { return std::to_string(value); }

Error budget_error(const std::string& field, const std::string& expected, const std::string& found,
                   const std::string& remedy) {
    return {ExitCode::usage,
            {.where = "selection", .field = field, .expected = expected, .found = found, .remedy = remedy}};
}

/// Room of every source: its cap, or no limit.
std::vector<std::int64_t> source_room(const Request& request) {
    const std::int32_t last =
        request.source.empty() ? -1 : *std::max_element(request.source.begin(), request.source.end());
    std::vector<std::int64_t> room(static_cast<std::size_t>(last) + 1, unlimited);
    for (const auto& [source, cap] : request.source_cap)
        if (source >= 0 && source <= last) room[static_cast<std::size_t>(source)] = std::max<std::int64_t>(0, cap);
    return room;
}

}  // namespace

void check_budget(const Budget& budget) {
    const int set = int{budget.samples.has_value()} + int{budget.tokens.has_value()};
    if (set != 1) throw budget_error("budget", "samples or tokens", std::to_string(set) + " of them", "");
    if (budget.samples.value_or(1) < 1) throw budget_error("samples", "at least 1", number(*budget.samples), "");
    if (budget.tokens.value_or(1) < 1) throw budget_error("tokens", "at least 1", number(*budget.tokens), "");
}

Limits limits_of(const Request& request) {
    return {.samples = 0, .tokens = request.budget.tokens.value_or(unlimited), .per_source = source_room(request)};
}

std::int64_t expected_picks(const Request& request) {
    if (request.budget.samples) return *request.budget.samples;
    double tokens = 0.0;
    double rows = 0.0;
    for (std::size_t i = 0; i < request.eligible.size(); ++i) {
        if (request.eligible[i] == 0) continue;
        tokens += static_cast<double>(request.tokens[i]);
        rows += 1.0;
    }
    const double share = tokens > 0.0 ? std::min(1.0, static_cast<double>(*request.budget.tokens) / tokens) : 1.0;
    return 1 + static_cast<std::int64_t>(share * rows);
}

std::int64_t samples_to_pick(const Request& request, std::span<const std::int64_t> open, const Limits& limits) {
    std::int64_t available = 0;
    for (std::size_t source = 0; source < open.size(); ++source)
        available += std::min(open[source], limits.per_source[source]);
    const std::int64_t wanted = request.budget.samples.value_or(1);
    if (wanted <= available || request.budget.at_most)
        return std::min(available, request.budget.samples.value_or(available));
    const bool capped = !request.source_cap.empty();
    const std::string fewer = available > 0 ? "Ask for " + number(available) + " or fewer"
                                            : "No sample has a finite influence on every column: check model and pool";
    throw budget_error("budget",
                       "at most the number of eligible samples" + std::string(capped ? ", source caps considered" : ""),
                       number(wanted) + " asked for, " + number(available) + " eligible",
                       fewer + (capped ? ", or raise the source caps." : "."));
}

Error no_room_for_first(const Limits& limits) {
    return budget_error("tokens", "at least the length of the first choice", number(limits.tokens),
                        "Raise the token budget.");
}

}  // namespace idistill::selection
