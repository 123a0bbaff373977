// Limits of sources, by their places in a pool instead of their names.

#include <algorithm>

#include "idistill/config/plan.hpp"
#include "idistill/report/error.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

/// The first names and how many there are beside them.
std::string listed(const std::vector<std::string>& names) {
    constexpr std::size_t most = 12;
    const std::size_t shown = std::min(most, names.size());
    std::string text;
    for (std::size_t i = 0; i < shown; ++i) text += (i == 0 ? "" : ", ") + names[i];
    return names.size() > shown ? text + " and " + std::to_string(names.size() - shown) + " more" : text;
}

/// Values by the place of their source, instead of its name.
template <class T>
std::map<std::int32_t, T> by_source(const char* option, const std::map<std::string, T>& by_name,
                                    const std::vector<std::string>& source_names) {
    std::map<std::int32_t, T> values;
    for (const auto& [name, value] : by_name) {
        const auto found = std::find(source_names.begin(), source_names.end(), name);
        if (found == source_names.end()) {
            const std::string near = nearest(name, source_names);
            throw Error(ExitCode::usage,
                        {option,
                         {},
                         "the name of a source of the pool",
                         in_quotes(name),
                         near.empty() ? "The pool has " + listed(source_names) + "." : "Did you mean " + near + "?"});
        }
        values[static_cast<std::int32_t>(found - source_names.begin())] = value;
    }
    return values;
}

}  // namespace

std::map<std::int32_t, std::int64_t> source_caps(const Settings& settings,
                                                 const std::vector<std::string>& source_names) {
    return by_source("--source-cap", settings.source_cap, source_names);
}

std::map<std::int32_t, double> source_shares(const Settings& settings, const std::vector<std::string>& source_names) {
    return by_source("--source-share", settings.source_share, source_names);
}

}  // namespace idistill::config
