#pragma once
// The kinds of options, over a member of the settings struct that holds the value: how it is read, checked and shown.
// Each takes an Option with name, group, help and so on, and returns it with apply and show.

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "idistill/options/option.hpp"

namespace idistill::options {

/// What an option is; any of these together.
enum Trait : unsigned {
    of_run = 1,
    of_select = 2,
    of_embed = 4,
    required = 8,
    decides_nothing = 16,   ///< Decides::nothing
    decides_shortlist = 32  ///< Decides::shortlist
};

/// An option with its heading, "name VALUE" as --help shows it ("name" for a flag, "name VALUE ..." for a list), help
/// and traits.
Option declared(std::string group, const std::string& usage, std::string help, unsigned traits = of_run);

/// An option of no common kind: `apply` takes the struct and what was given, `show` the struct.
template <class Settings, class Apply, class Show>
Option own_option(Option option, Apply apply, Show show) {
    option.apply = [apply](Values& values, const Given& given) { apply(values.of<Settings>(), given); };
    option.show = [show](const Values& values) { return nlohmann::json(show(values.of<Settings>())); };
    return option;
}

/// For Option::reads of an option that names one file.
template <class Settings>
std::function<std::vector<InputFile>(const Values&)> names_file(const std::string& option,
                                                                std::string Settings::*member) {
    return [option, member](const Values& values) {
        return std::vector<InputFile>{{"--" + option, values.of<Settings>().*member}};
    };
}

/// The text given, which must not be empty.
const std::string& some_text(const Given& given);

template <class Settings>
Option text_option(Option option, std::string Settings::*member) {
    return own_option<Settings>(
        std::move(option), [member](Settings& settings, const Given& given) { settings.*member = some_text(given); },
        [member](const Settings& s) { return (s.*member).empty() ? nlohmann::json() : nlohmann::json(s.*member); });
}

template <class Settings, class T>
Option number_option(Option option, T Settings::*member, std::type_identity_t<T> low, std::type_identity_t<T> high) {
    return own_option<Settings>(
        std::move(option),
        [member, low, high](Settings& settings, const Given& given) {
            settings.*member = number_within<T>(given, single(given), low, high);
        },
        [member](const Settings& s) { return s.*member; });
}

/// A number that has no default.
template <class Settings, class T>
Option optional_option(Option option, std::optional<T> Settings::*member, std::type_identity_t<T> low,
                       std::type_identity_t<T> high) {
    return own_option<Settings>(
        std::move(option),
        [member, low, high](Settings& settings, const Given& given) {
            settings.*member = number_within<T>(given, single(given), low, high);
        },
        [member](const Settings& s) { return s.*member ? nlohmann::json(*(s.*member)) : nlohmann::json(); });
}

/// What to say about a word that other builds or versions know.
using Remedies = std::map<std::string, std::string>;

/// Place of the one value given among the words; throws Error(usage) with the nearest one.
std::size_t chosen(const Given& given, const std::vector<std::string>& words, const Remedies& remedies);

/// One of a family's names.
template <class Settings>
Option name_option(Option option, std::string Settings::*member, const std::vector<std::string>& names,
                   const Remedies& remedies = {}) {
    for (const auto& name : names) option.words.push_back({name, name});
    return own_option<Settings>(
        std::move(option),
        [=](Settings& settings, const Given& given) { settings.*member = names[chosen(given, names, remedies)]; },
        [member](const Settings& s) { return s.*member; });
}

template <class Value>
struct Choice {
    std::string word;
    Value value;
};

/// One of a fixed set.
template <class Settings, class Enum>
Option choice_option(Option option, Enum Settings::*member,
                     const std::vector<Choice<std::type_identity_t<Enum>>>& choices, const Remedies& remedies = {}) {
    std::vector<std::string> words;
    for (const auto& choice : choices) {
        words.push_back(choice.word);
        option.words.push_back({choice.word, choice.word});
    }
    return own_option<Settings>(
        std::move(option),
        [=](Settings& settings, const Given& given) {
            settings.*member = choices[chosen(given, words, remedies)].value;
        },
        [=](const Settings& s) {
            for (const auto& choice : choices)
                if (choice.value == s.*member) return choice.word;
            return std::string();
        });
}

/// on | off; in a settings file also true | false.
bool switched_on(const Given& given);

template <class Settings>
Option switch_option(Option option, bool Settings::*member) {
    const bool flag = option.flag();
    return own_option<Settings>(
        std::move(option), [member](Settings& settings, const Given& given) { settings.*member = switched_on(given); },
        [member, flag](const Settings& s) {
            return flag ? nlohmann::json(s.*member) : nlohmann::json(s.*member ? "on" : "off");
        });
}

struct Numbers {
    std::string text;                  ///< which ones, for people
    std::function<bool(double)> fits;  ///< of finite ones
};

Numbers above_zero();

struct WordOrNumber {
    std::string word;  ///< empty where it is a number
    std::optional<double> number;
};

WordOrNumber word_or_number(const Given& given, const std::vector<std::string>& words, const Numbers& numbers);

/// One of the words, or a number. `set` takes the struct and what was given.
template <class Settings, class Set, class Show>
Option word_or_number_option(Option option, const std::vector<std::string>& words, const Numbers& numbers, Set set,
                             Show show) {
    return own_option<Settings>(
        std::move(option),
        [=](Settings& settings, const Given& given) { set(settings, word_or_number(given, words, numbers)); },
        std::move(show));
}

/// "auto", where the member holds nothing, or a number.
template <class Settings>
Option auto_or_number_option(Option option, std::optional<double> Settings::*member,
                             const Numbers& numbers = above_zero()) {
    return word_or_number_option<Settings>(
        std::move(option), {"auto"}, numbers,
        [member](Settings& settings, const WordOrNumber& value) { settings.*member = value.number; },
        [member](const Settings& s) { return s.*member ? nlohmann::json(*(s.*member)) : nlohmann::json("auto"); });
}

/// NAME=NUMBER for several sources of samples.
template <class Settings, class T>
Option of_sources_option(Option option, std::map<std::string, T> Settings::*member, std::type_identity_t<T> low,
                         std::type_identity_t<T> high) {
    option.list = true;
    const std::string form = option.value_name;
    return own_option<Settings>(
        std::move(option),
        [=](Settings& settings, const Given& given) {
            (settings.*member).clear();
            for (const auto& text : given.values) {
                const auto [name, number] = named(given, text, form);
                if ((settings.*member).contains(name))
                    refuse(given, "every source once", in_quotes(name) + " twice", "Keep one of the two.");
                (settings.*member)[name] = number_within<T>(given, number, low, high);
            }
        },
        [member](const Settings& s) {
            auto list = nlohmann::json::array();
            for (const auto& [name, number] : s.*member) list.push_back(name + "=" + shown(nlohmann::json(number)));
            return list.empty() ? nlohmann::json() : list;
        });
}

}  // namespace idistill::options
