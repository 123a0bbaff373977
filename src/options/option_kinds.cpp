#include "idistill/options/option_kinds.hpp"

#include <algorithm>
#include <cmath>

namespace idistill::options {

Option declared(std::string group, const std::string& usage, std::string help, unsigned traits) {
    Option option{.name = usage, .group = std::move(group), .help = std::move(help)};
    if (const auto space = usage.find(' '); space != std::string::npos) {
        option.name = usage.substr(0, space);
        option.value_name = usage.substr(space + 1);
    }
    if (const std::string several = " ..."; option.value_name.ends_with(several)) {
        option.list = true;
        option.value_name.resize(option.value_name.size() - several.size());
    }
    option.required = (traits & required) != 0;
    option.of_run = (traits & of_run) != 0;
    option.of_select = (traits & of_select) != 0;
    option.of_embed = (traits & of_embed) != 0;
    if ((traits & decides_nothing) != 0) option.decides = Decides::nothing;
    if ((traits & decides_shortlist) != 0) option.decides = Decides::shortlist;
    return option;
}

const std::string& some_text(const Given& given) {
    if (single(given).empty()) refuse(given, "a value", "nothing", "Leave the option out or give it a value.");
    return given.values.front();
}

std::size_t chosen(const Given& given, const std::vector<std::string>& words, const Remedies& remedies) {
    const std::string& value = single(given);
    const auto found = std::find(words.begin(), words.end(), value);
    if (found != words.end()) return static_cast<std::size_t>(found - words.begin());
    const auto known = remedies.find(value);
    const std::string near = nearest(value, words);
    refuse(given, alternatives(words), in_quotes(value),
           known != remedies.end() ? known->second
           : near.empty()          ? "Give " + given.field + " one of these."
                                   : "Did you mean " + near + "?");
}

bool switched_on(const Given& given) {
    const std::string& value = single(given);
    const bool on = value == "on" || value == "true";
    if (!on && value != "off" && value != "false")
        refuse(given, "on or off", in_quotes(value), "Give " + given.field + " one of these.");
    return on;
}

Numbers above_zero() {
    return {"a number above 0", [](double value) { return value > 0.0; }};
}

WordOrNumber word_or_number(const Given& given, const std::vector<std::string>& words, const Numbers& numbers) {
    const std::string& text = single(given);
    if (std::find(words.begin(), words.end(), text) != words.end()) return {text, {}};
    const auto value = whole<double>(text);
    if (!value || !std::isfinite(*value) || !numbers.fits(*value)) {
        auto expected = words;
        expected.push_back(numbers.text);
        refuse(given, alternatives(expected), in_quotes(text), "Give " + given.field + " one of these.");
    }
    return {{}, value};
}

}  // namespace idistill::options
