// What the table of options says of values: which have an effect, as JSON, and as a table for people.

#include "idistill/options/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace idistill::options {
using nlohmann::json;

const Option* Table::find(const std::string& name, Command command) const {
    const auto found = std::find_if(options.begin(), options.end(),
                                    [&](const Option& option) { return option.name == name && option.of(command); });
    return found == options.end() ? nullptr : &*found;
}

Idle idle(const Table& table, const Values& values, const std::string& option) {
    for (const auto& rule : table.idle) {
        const auto cause = rule(values, option);
        if (cause.empty()) continue;
        const auto named = std::find_if(table.options.begin(), table.options.end(),
                                        [&cause](const Option& other) { return other.name == cause; });
        return {cause, shown(named->show(table.resolve(values)))};
    }
    return {};
}

std::string to_json(const Table& table, const Values& values) {
    json object = json::object();
    for (const auto& option : table.options) {
        if (!option.of(values.command)) continue;
        if (json value = option.show(values); !value.is_null()) object[option.name] = std::move(value);
    }
    return object.dump();
}

std::string identity_json(const Table& table, const Values& values) {
    json object = json::object();
    const bool shortlist = table.shortlist_counts(values);
    for (const auto& option : table.options) {
        const bool deciding = option.decides == Decides::units || (option.decides == Decides::shortlist && shortlist);
        if (!option.of(values.command) || !deciding || !idle(table, values, option.name).cause.empty()) continue;
        const json value = option.identity ? option.identity(values) : option.show(values);
        object[option.name] = value.is_array() ? json(shown(value)) : value;  // named as a whole where it differs
    }
    return object.dump();
}

std::string to_table(const Table& table, const Values& values) {
    std::size_t width = 0;
    for (const auto& option : table.options) width = std::max(width, option.name.size());
    std::string text, group;
    for (const auto& option : table.options) {
        const json value = option.show(values);
        if (!option.of(values.command) || value.is_null() || !idle(table, values, option.name).cause.empty()) continue;
        if (option.group != group) text += option.group + "\n";
        group = option.group;
        text += fmt::format("  {:<{}}  {}\n", option.name, width, shown(value));
    }
    return text;
}

}  // namespace idistill::options
