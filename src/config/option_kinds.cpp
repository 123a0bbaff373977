#include "option_kinds.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "text.hpp"

namespace idistill::config {
namespace {

using nlohmann::json;

std::string listed(const std::vector<std::string>& names) {
    std::string text;
    for (std::size_t i = 0; i < names.size(); ++i)
        text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
    return text;
}

const Numbers above_zero{"a number above 0", [](double value) { return value > 0.0; }};
constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

}  // namespace

Option made(const Meta& meta) {
    Option option;
    option.name = meta.name;
    option.group = meta.group;
    option.value_name = meta.value_name;
    option.help = meta.help;
    return option;
}

Option text_option(const Meta& meta, std::string Settings::*member) {
    Option option = made(meta);
    option.apply = [member](Settings& settings, const Given& given) {
        if (single(given).empty()) refuse(given, "a value", "nothing", "Leave the option out or give it a value.");
        settings.*member = given.values.front();
    };
    option.show = [member](const Settings& s) { return (s.*member).empty() ? json() : json(s.*member); };
    return option;
}

Option choice_option(const Meta& meta, std::string Settings::*member, const std::vector<std::string>& choices,
                     const std::map<std::string, std::string>& remedies) {
    Option option = made(meta);
    option.apply = [=](Settings& settings, const Given& given) {
        const std::string& value = single(given);
        for (const auto& choice : choices) {
            if (choice == value) {
                settings.*member = value;
                return;
            }
        }
        const auto known = remedies.find(value);
        const std::string near = nearest(value, choices);
        refuse(given, listed(choices), in_quotes(value),
               known != remedies.end() ? known->second
               : near.empty()          ? "Give " + given.field + " one of these."
                                       : "Did you mean " + near + "?");
    };
    option.show = [member](const Settings& s) { return json(s.*member); };
    return option;
}

Option switch_option(const Meta& meta, bool Settings::*member) {
    Option option = made(meta);
    option.apply = [member](Settings& settings, const Given& given) {
        const std::string& value = single(given);
        const bool on = value == "on" || value == "true";
        if (!on && value != "off" && value != "false") {
            refuse(given, "on or off", in_quotes(value), "Give " + given.field + " one of these.");
        }
        settings.*member = on;
    };
    option.show = [member, flag = meta.value_name.empty()](const Settings& s) {
        return flag ? json(s.*member) : json(s.*member ? "on" : "off");
    };
    return option;
}

Option word_or_number_option(const Meta& meta, const std::vector<std::string>& words, const Numbers& numbers,
                             const SetWordOrNumber& set, const Show& show) {
    Option option = made(meta);
    option.apply = [=](Settings& settings, const Given& given) {
        const std::string& text = single(given);
        if (std::find(words.begin(), words.end(), text) != words.end()) return set(settings, text, {});
        const auto value = whole<double>(text);
        if (!value || !std::isfinite(*value) || !numbers.fits(*value)) {
            auto expected = words;
            expected.push_back(numbers.text);
            refuse(given, listed(expected), in_quotes(text), "Give " + given.field + " one of these.");
        }
        set(settings, {}, value);
    };
    option.show = show;
    return option;
}

Option optional_option(const Meta& meta, std::optional<double> Settings::*member, double low, double high) {
    Option option = made(meta);
    option.apply = [member, low, high](Settings& settings, const Given& given) {
        settings.*member = number_within<double>(given, single(given), low, high);
    };
    option.show = [member](const Settings& s) { return s.*member ? json(*(s.*member)) : json(); };
    return option;
}

Option pool_option(const std::string& group) {
    Option option =
        made({"pool", group, "FILE", "token files of the pool, from jobs/prepare.py; several are read as one"});
    option.list = true;
    option.apply = [](Settings& settings, const Given& given) {
        for (std::size_t i = 0; i < given.values.size(); ++i) {
            if (given.values[i].empty()) refuse(given, "a file", "nothing", "Leave the empty value out.");
            for (std::size_t j = 0; j < i; ++j) {
                if (given.values[i] == given.values[j]) {
                    refuse(given, "every file once", in_quotes(given.values[i]) + " twice", "Give it once.");
                }
            }
        }
        settings.pool = given.values;
    };
    option.show = [](const Settings& s) { return s.pool.empty() ? json() : json(s.pool); };
    return option;
}

Option target_option(const std::string& group) {
    Option option =
        made({"target", group, "NAME=FILE", "a task to select for: its name and the token file of its examples"});
    option.list = true;
    option.apply = [](Settings& settings, const Given& given) {
        settings.targets.clear();
        for (const auto& text : given.values) {
            auto [name, path] = named(given, text, "NAME=FILE");
            for (const auto& other : settings.targets) {
                if (other.name == name) {
                    refuse(given, "every task name once", in_quotes(name) + " twice", "Rename one of the two targets.");
                }
            }
            settings.targets.push_back({name, path});
        }
    };
    option.show = [](const Settings& s) {
        json list = json::array();
        for (const auto& target : s.targets) list.push_back(target.name + "=" + target.path);
        return list.empty() ? json() : list;
    };
    return option;
}

Option landmarks_option(const std::string& group) {
    Option option = made({"landmarks", group, "L|auto[:MOST]",
                          "samples of the pool with exact influence; the default is lowered to what the pool has;\n"
                          "auto: 256, doubled until leave-one-out R2 (mean over tasks) gains less than 0.01, at most "
                          "MOST (8192)"});
    option.apply = [](Settings& settings, const Given& given) {
        const std::string text = single(given);
        const std::string prefix = "auto:";
        settings.landmarks_auto = text == "auto" || text.starts_with(prefix);
        settings.landmarks.reset();
        if (text != "auto")
            settings.landmarks = number_within<std::int64_t>(
                given, settings.landmarks_auto ? text.substr(prefix.size()) : text, 1, std::int64_t{1} << 20);
    };
    option.show = [](const Settings& s) {
        if (!s.landmarks_auto) return json(s.landmarks.value_or(default_landmarks));
        return json("auto:" + std::to_string(s.landmarks.value_or(most_auto_landmarks)));
    };
    return option;
}

Option auto_or_number_option(const Meta& meta, std::optional<double> Settings::*member) {
    return word_or_number_option(
        meta, {"auto"}, above_zero,
        [member](Settings& settings, const std::string&, std::optional<double> number) { settings.*member = number; },
        [member](const Settings& s) { return s.*member ? json(*(s.*member)) : json("auto"); });
}

Option bandwidth_option(const std::string& group) {
    return word_or_number_option(
        {"bandwidth", group, "median|auto|X",
         "width of the kernel in embedding distance; auto: of 1/4, 1/2, 1, 2 and 4 times the median distance, chosen "
         "by leave-one-out with the damping"},
        {"median", "auto"}, above_zero,
        [](Settings& settings, const std::string& word, std::optional<double> number) {
            settings.bandwidth_auto = word == "auto";
            settings.bandwidth = number;
        },
        [](const Settings& s) {
            return s.bandwidth ? json(*s.bandwidth) : json(s.bandwidth_auto ? "auto" : "median");
        });
}

Option refine_option(const std::string& group) {
    return word_or_number_option(
        {"refine", group, "X|auto",
         "exact influence, before selecting, of the X times as many samples as the budget that are predicted best; "
         "auto: X for 95% of the gain, by leave-one-out; 0: of none"},
        {"auto"},
        {"a factor from 1 to 1e6 (0: none)",
         [](double value) { return value == 0.0 || (value >= 1.0 && value <= 1e6); }},
        [](Settings& settings, const std::string&, std::optional<double> number) { settings.refine = number; },
        [](const Settings& s) { return s.refine ? json(*s.refine) : json("auto"); });
}

Option select_option(const std::string& group) {
    Option option = made(
        {"select", group, "N|P%", "how many samples to select: a count, or a percentage of the pool (at least 1)"});
    option.apply = [](Settings& settings, const Given& given) {
        const std::string& text = single(given);
        settings.select_samples.reset();
        settings.select_percent.reset();
        if (!text.empty() && text.back() == '%') {
            const auto percent = whole<double>(text.substr(0, text.size() - 1));
            if (!percent || !(*percent > 0.0 && *percent <= 100.0)) {
                refuse(given, "a percentage above 0% and up to 100%", in_quotes(text), "For example --select 5%.");
            }
            settings.select_percent = *percent;
            return;
        }
        const auto count = whole<std::int64_t>(text);
        if (!count || *count < 1) {
            refuse(given, "a count of at least 1, or a percentage", in_quotes(text),
                   "For example --select 10000 or --select 5%.");
        }
        settings.select_samples = *count;
    };
    option.show = [](const Settings& s) {
        if (s.select_percent) return json(shortest(*s.select_percent) + "%");
        return s.select_samples ? json(*s.select_samples) : json();
    };
    return option;
}

Option select_tokens_option(const std::string& group) {
    Option option =
        made({"select-tokens", group, "N", "budget in tokens instead: stop before the first sample that exceeds it"});
    option.apply = [](Settings& settings, const Given& given) {
        settings.select_tokens = number_within<std::int64_t>(given, single(given), 1, most);
    };
    option.show = [](const Settings& s) { return s.select_tokens ? json(*s.select_tokens) : json(); };
    return option;
}

Option source_cap_option(const std::string& group) {
    Option option = made({"source-cap", group, "NAME=N", "at most N samples of this source; may be repeated"});
    option.list = true;
    option.apply = [](Settings& settings, const Given& given) {
        settings.source_cap.clear();
        for (const auto& text : given.values) {
            const auto [name, count] = named(given, text, "NAME=N");
            if (settings.source_cap.contains(name)) {
                refuse(given, "every source once", in_quotes(name) + " twice", "Keep one of the two caps.");
            }
            settings.source_cap[name] = number_within<std::int64_t>(given, count, 0, most);
        }
    };
    option.show = [](const Settings& s) {
        json list = json::array();
        for (const auto& [name, count] : s.source_cap) list.push_back(name + "=" + std::to_string(count));
        return list.empty() ? json() : list;
    };
    return option;
}

}  // namespace idistill::config
