// Settings as JSON and as a table.

#include <algorithm>

#include "idistill/config/plan.hpp"
#include "idistill/config/settings.hpp"
#include "options.hpp"

namespace idistill::config {
using nlohmann::json;

std::string to_json(const Settings& settings) {
    json object = json::object();
    for (const auto& option : options()) {
        if (!option.of(settings.command)) continue;
        if (json value = option.show(settings); !value.is_null()) object[option.name] = std::move(value);
    }
    return object.dump();
}

std::string identity_json(const Settings& settings) {
    // Not here: inputs (they enter by fingerprint), names of files, the selection, and what only concerns the running.
    static const std::vector<std::string> not_deciding{
        "model",    "pool",          "target",        "out",        "overwrite",     "result",    "selection",
        "top-k-by", "select",        "select-tokens", "source-cap", "stall-timeout", "influence", "curvature",
        "lambda",   "learning-rate", "optimizer",     "max-weight", "source-share"};
    // What is refined, however, is what the selection would take.
    static const std::vector<std::string> of_shortlist{"selection", "top-k-by", "select", "select-tokens",
                                                       "source-cap"};
    const auto among = [](const std::vector<std::string>& names, const std::string& name) {
        return std::find(names.begin(), names.end(), name) != names.end();
    };
    json object = json::object();
    for (const auto& option : options()) {
        bool deciding = !among(not_deciding, option.name) || (refines(settings) && among(of_shortlist, option.name));
        if (option.name == "refine") deciding = refines(settings);  // whatever rule follows, when nothing is refined
        if (deciding && idle(settings, option.name).cause.empty()) object[option.name] = option.show(settings);
    }
    // "auto" is what it comes to in this build, so that naming it changes nothing.
    object["device"] = "cpu";
    object["dtype"] = "fp32";
    return object.dump();
}

std::string to_table(const Settings& settings) {
    std::size_t width = 0;
    for (const auto& option : options()) width = std::max(width, option.name.size());
    std::string table;
    std::string group;
    for (const auto& option : options()) {
        const json value = option.show(settings);
        if (!option.of(settings.command) || value.is_null()) continue;
        const Idle reason = idle(settings, option.name);
        if (!reason.cause.empty()) continue;
        if (option.group != group) table += option.group + "\n";
        group = option.group;
        table += "  " + option.name + std::string(width - option.name.size() + 2, ' ') + shown(value) + "\n";
    }
    return table;
}

}  // namespace idistill::config
