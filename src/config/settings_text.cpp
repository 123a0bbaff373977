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
    json object = json::object();
    for (const auto& option : options()) {
        if (!option.of(settings.command)) continue;
        const bool deciding =
            option.decides == Decides::units || (option.decides == Decides::shortlist && refines(settings));
        if (!deciding || !idle(settings, option.name).cause.empty()) continue;
        const json value = option.show(settings);
        object[option.name] = value.is_array() ? json(shown(value)) : value;  // named as a whole where it differs
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
