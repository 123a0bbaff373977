// The options as Markdown tables, for the documentation.

#include <fmt/format.h>
#include <fmt/ranges.h>  // join

#include <algorithm>
#include <nlohmann/json.hpp>

#include "idistill/options/table.hpp"

namespace idistill::options {
namespace {

/// Text within a cell.
std::string cell(const std::string& text) {
    std::string escaped;
    for (const char c : text) {
        if (c == '|') escaped += '\\';
        escaped += c == '\n' ? ' ' : c;
    }
    return escaped;
}

std::string code(const std::string& text) { return "`" + cell(text) + "`"; }

std::string joined(const std::vector<std::string>& texts, const char* between = ", ") {
    return fmt::format("{}", fmt::join(texts, between));
}

/// A fixed set of words is listed; other values are described by their name.
std::string values_of(const Option& option) {
    if (option.flag()) return "";
    const bool fixed = std::all_of(option.words.begin(), option.words.end(),
                                   [](const Word& word) { return word.typed == word.shown; });
    if (option.words.empty() || !fixed) return code(option.value_name) + (option.list ? " ..." : "");
    std::vector<std::string> words;
    for (const auto& word : option.words) words.push_back(code(word.shown));
    return joined(words);
}

std::string commands_of(const Option& option) {
    std::vector<std::string> names;
    if (option.of_run) names.insert(names.end(), {"run", "plan"});
    if (option.of_select) names.emplace_back("select");
    if (option.of_embed) names.emplace_back("embed");
    return joined(names);
}

Command first_command(const Option& option) {
    return option.of_run ? Command::run : option.of_select ? Command::select : Command::embed;
}

/// True when `option` has no effect because of `cause`, as it is in `values`, whatever the option's own value.
bool without_effect(const Table& table, const Values& values, const Option& option, const Option& cause) {
    if (option.words.empty()) return idle(table, values, option.name).cause == cause.name;
    return std::all_of(option.words.begin(), option.words.end(), [&](const Word& word) {
        auto both = values;
        option.apply(both, {command_line, option.name, {word.typed}});
        return idle(table, both, option.name).cause == cause.name;
    });
}

/// The defaults, but for the first value of another option that gives this one an effect where they do not.
Values with_effect(const Table& table, const Option& option) {
    Values defaults;
    defaults.command = first_command(option);
    table.complete(defaults);
    const auto cause = table.find(idle(table, defaults, option.name).cause, defaults.command);
    if (cause == nullptr) return defaults;
    for (const auto& word : cause->words) {
        auto values = defaults;
        cause->apply(values, {command_line, cause->name, {word.typed}});
        if (idle(table, values, option.name).cause.empty()) return values;
    }
    return defaults;
}

/// Which values of `cause` leave `option` without effect: "`--sketch none`".
std::string idle_with(const Table& table, const Option& option, const Option& cause) {
    std::vector<std::string> idle_words, other_words;
    for (const auto& word : cause.words) {
        auto values = with_effect(table, option);
        cause.apply(values, {command_line, cause.name, {word.typed}});
        (without_effect(table, values, option, cause) ? idle_words : other_words).push_back(code(word.shown));
    }
    if (idle_words.empty()) return "";
    const auto name = "--" + cause.name;
    if (other_words.size() == 1 && idle_words.size() > 2)
        return fmt::format("`{}` other than {}", name, other_words.front());
    idle_words.front().insert(1, name + " ");
    return joined(idle_words);
}

std::string idle_text(const Table& table, const Option& option) {
    std::vector<std::string> causes;
    for (const auto& cause : table.options) {
        if (cause.name == option.name || !cause.of(first_command(option))) continue;
        if (auto text = idle_with(table, option, cause); !text.empty()) causes.push_back(std::move(text));
    }
    return joined(causes, "; ");
}

}  // namespace

std::string to_markdown(const Table& table) {
    Values defaults;
    table.complete(defaults);
    std::string text, group;
    for (const auto& option : table.options) {
        if (option.group != group)
            text += fmt::format(
                "{}### {}\n\n| option | value | default | meaning | no effect with | commands |\n"
                "|---|---|---|---|---|---|\n",
                text.empty() ? "" : "\n", option.group);
        group = option.group;
        const auto value = option.show(defaults);
        const bool set = !option.flag() && !value.is_null();
        text += fmt::format("| `--{}` | {} | {} | {} | {} | {} |\n", option.name, values_of(option),
                            set ? code(shown(value)) : "", cell(option.help), idle_text(table, option),
                            commands_of(option));
    }
    return text;
}

}  // namespace idistill::options
