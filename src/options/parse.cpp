// From the command line and the settings file to values.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <span>

#include "idistill/options/run_settings.hpp"
#include "idistill/options/table.hpp"
#include "toml.hpp"

namespace idistill::options {
namespace {

/// What was given in one place, by option name.
using GivenByName = std::map<std::string, Given>;

[[noreturn]] void refuse_argument(const std::string& field, const std::string& expected, const std::string& found,
                                  const std::string& remedy) {
    refuse({command_line, field, {}}, expected, found, remedy);
}

/// What to do about an unknown name: the nearest one of this command, or the command that it belongs to.
std::string remedy_for_unknown(const Table& table, const std::string& name, Command command,
                               const std::string& dashes) {
    if (command != Command::run && table.find(name, Command::run) != nullptr)
        return command == Command::select ? "It belongs to a run: the existing result keeps what it was made with."
                                          : "It belongs to a run.";
    if (table.find(name, Command::select) != nullptr) return "It belongs to the command 'select'.";
    std::vector<std::string> names;
    for (const auto& option : table.options)
        if (option.of(command)) names.push_back(option.name);
    const std::string near = nearest(name, names);
    return near.empty() ? "See --help." : "Did you mean " + dashes + near + "?";
}

/// Throws Error(usage) for what was an option once, with its name of today.
void refuse_old_spelling(const Table& table, const std::string& name, const Given& given, Command command) {
    const bool on_line = given.field.starts_with("-");
    for (const auto& option : table.options) {
        for (const auto& old : option.old_spellings) {
            const auto said =
                std::find_first_of(given.values.begin(), given.values.end(), old.words.begin(), old.words.end());
            if (old.name != name || (!old.words.empty() && said == given.values.end())) continue;
            const auto with = (on_line ? " " : " = ") + (given.values.empty() ? "..." : given.values.front());
            const auto today = (on_line ? "--" : "") + option.name;
            const bool of_this = option.of(command);
            refuse(given, of_this ? today : "an option of this command",
                   in_quotes(given.field + with) + ", an older spelling" + (of_this ? "" : " of " + today),
                   of_this ? "Write " + today + " instead of " + given.field + "."
                           : remedy_for_unknown(table, option.name, command, ""));
        }
    }
}

[[noreturn]] void refuse_extra(const Table& table, const std::vector<std::string>& extras, Command command) {
    for (auto extra = extras.begin(); extra != extras.end(); ++extra) {
        if (extra->size() < 2 || extra->front() != '-') continue;
        const auto equals = std::min(extra->find('='), extra->size());
        Given given{command_line, extra->substr(0, equals), {}};
        if (equals < extra->size())
            given.values.push_back(extra->substr(equals + 1));
        else if (const auto next = std::next(extra); next != extras.end() && !next->starts_with("-"))
            given.values.push_back(*next);
        const auto first = given.field.find_first_not_of('-');
        const std::string bare = given.field.substr(first == std::string::npos ? 1 : first);
        refuse_old_spelling(table, bare, given, command);
        refuse(given, "an option of this command", "an unknown option", remedy_for_unknown(table, bare, command, "--"));
    }
    refuse_argument(extras.front(), "an option", "a value that belongs to none", "Every value follows its option.");
}

/// The command of the first words, which `rest` is moved behind; `plan_only` is set where `plan` is before it.
Command command_of(std::span<const std::string>& rest, bool& plan_only) {
    const auto next_is = [&rest](const char* word) {
        const bool found = !rest.empty() && rest.front() == word;
        if (found) rest = rest.subspan(1);
        return found;
    };
    plan_only = next_is("plan");
    const auto command = next_is("embed")                  ? Command::embed
                         : !plan_only && next_is("select") ? Command::select
                                                           : Command::run;
    if (rest.empty() || rest.front().starts_with("-")) return command;
    std::vector<std::string> known;
    if (command == Command::run)
        known = plan_only ? std::vector<std::string>{"embed"} : std::vector<std::string>{"plan", "select", "embed"};
    const auto near = nearest(rest.front(), known);
    known.emplace_back("an option");
    refuse_argument(rest.front(), alternatives(known), "another word",
                    command != Command::run && rest.front() == "plan"
                        ? "The command 'plan' comes first: idistill_mpi plan ... or idistill_mpi plan embed ..."
                    : near.empty() ? "See --help."
                                   : "Did you mean " + near + "?");
}

struct CommandLine {
    GivenByName given;
    std::string config;               ///< settings file, empty if none
    std::optional<std::string> text;  ///< of --help and --version
};

CommandLine read_command_line(const Table& table, Command command, bool plan_only, std::vector<std::string> arguments,
                              const std::string& version) {
    CommandLine line;
    const std::string help_form = "--help=";
    for (const auto& argument : arguments) {
        if (!argument.starts_with(help_form)) continue;
        if (const auto form = argument.substr(help_form.size()); form != "markdown")
            refuse_argument("--help", "nothing or markdown behind =", in_quotes(form),
                            "Give --help or --help=markdown.");
        line.text = to_markdown(table);
        return line;
    }
    CLI::App app;
    app.allow_extras();
    app.set_help_flag("-h,--help");
    const auto* show_version = app.add_flag("--version");
    const auto* config = app.add_option("--config", line.config);
    std::map<std::string, CLI::Option*> parsed;
    std::map<std::string, std::vector<std::string>> storage;
    for (const auto& option : table.options) {
        if (!option.of(command)) continue;
        const std::string name = "--" + option.name;
        parsed[option.name] = option.flag() ? app.add_flag(name)
                              : option.list ? app.add_option(name, storage[option.name])->expected(1, -1)
                                            : app.add_option(name, storage[option.name])
                                                  ->expected(1)
                                                  ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    }
    std::reverse(arguments.begin(), arguments.end());
    try {
        app.parse(arguments);
    } catch (const CLI::CallForHelp&) {
        line.text = help(table, command, plan_only);
        return line;
    } catch (const CLI::ArgumentMismatch& error) {
        const std::string what = error.what();
        const std::string option = what.substr(0, what.find(':'));
        refuse_argument(option, "one value", "none or several", "Give " + option + " once, with its value.");
    } catch (const CLI::ParseError& error) {
        refuse_argument({}, {}, error.what(), "See --help.");
    }
    if (show_version->count() > 0) {
        line.text = "idistill_mpi " + version + "\n";
        return line;
    }
    if (config->count() > 0 && (line.config.empty() || line.config.starts_with("--")))
        refuse_argument("--config", "a settings file", in_quotes(line.config),
                        "Give --config the path of a TOML file.");
    if (const auto extras = app.remaining(); !extras.empty()) refuse_extra(table, extras, command);
    for (const auto& [name, option] : parsed) {
        if (option->count() == 0) continue;
        Given given{command_line, "--" + name, option->results()};
        for (const auto& value : given.values)
            if (value.starts_with("--"))
                refuse(given, "a value", "the option " + value, "Give " + given.field + " a value.");
        refuse_old_spelling(table, name, given, command);
        line.given[name] = std::move(given);
    }
    return line;
}

GivenByName read_settings_file(const Table& table, const std::string& path, Command command) {
    std::error_code ignored;
    std::ifstream file;
    if (!std::filesystem::is_directory(path, ignored)) file.open(path, std::ios::binary);
    if (!file.is_open())
        refuse_argument("--config", "a settings file that can be read", in_quotes(path), "Check the path.");
    GivenByName all;
    for (const auto& item : parse_toml({std::istreambuf_iterator<char>(file), {}}, path)) {
        const Given given{path + " line " + std::to_string(item.line), item.key, item.values};
        refuse_old_spelling(table, item.key, given, command);
        const Option* option = table.find(item.key, command);
        if (option == nullptr)
            refuse(given, "a known key", "an unknown key", remedy_for_unknown(table, item.key, command, ""));
        if (item.array && !option->list) refuse(given, "one value", "an array", "Remove the brackets.");
        if (!item.values.empty()) all[item.key] = given;
    }
    return all;
}

/// Where an option says the same as another in a different way, the command line's one counts over either in the file.
bool overruled(const Table& table, Command command, const std::string& name, const GivenByName& from_line) {
    if (from_line.contains(name)) return true;
    return std::any_of(table.options.begin(), table.options.end(), [&](const Option& option) {
        if (option.rival.empty() || !option.of(command)) return false;
        return (option.name == name && from_line.contains(option.rival)) ||
               (option.rival == name && from_line.contains(option.name));
    });
}

Values applied(const Table& table, Command command, const GivenByName& from_file, const GivenByName& from_line) {
    Values values;
    values.command = command;
    for (const auto* given : {&from_file, &from_line})
        for (const auto& [name, one] : *given) table.find(name, command)->apply(values, one);
    return values;
}

/// What was given in one place must have an effect, and say nothing in two ways. A value of the file that the command
/// line makes idle is no contradiction: that is how variants are run.
void refuse_contradictions(const Table& table, const Values& values, const GivenByName& given,
                           const GivenByName& stronger) {
    for (const auto& option : table.options) {
        if (option.rival.empty() || !option.of(values.command)) continue;
        const auto one = given.find(option.rival);
        const auto other = given.find(option.name);
        if (one != given.end() && other != given.end())
            refuse(other->second, "one of the two", one->second.field + " as well", "Keep one of the two.");
    }
    for (const auto& [name, one] : given) {
        const Idle reason = idle(table, values, name);
        if (reason.cause.empty() || stronger.contains(reason.cause)) continue;
        refuse(one, "a setting that has an effect", "no effect with " + reason.cause + " = " + reason.value,
               "Leave out " + one.field + " or change " + reason.cause + ".");
    }
}

void check_required(const Table& table, const Values& values) {
    for (const auto& option : table.options) {
        if (!option.required || !option.of(values.command) || !option.show(values).is_null()) continue;
        refuse_argument("--" + option.name, option.value_name, "nothing",
                        "Give --" + option.name + ", here or in the settings file: " + option.help + ".");
    }
}

bool same_file(const std::string& a, const std::string& b) {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::equivalent(a, b, error) && !error) return true;
    return fs::absolute(a).lexically_normal() == fs::absolute(b).lexically_normal();
}

/// The result, and what is written beside it, is none of the files that are read.
void check_out(const Table& table, const Values& values, const std::string& config) {
    std::vector<InputFile> files{{"--config", config}};
    for (const auto& option : table.options) {
        if (!option.of(values.command) || !option.reads) continue;
        for (auto& file : option.reads(values)) files.push_back(std::move(file));
    }
    for (const auto& [option, path] : files) {
        for (const char* suffix : {"", ".partial", ".state", ".state.new", ".lock"}) {
            const std::string own = values.of<InputSettings>().out + suffix;
            if (path.empty() || !same_file(own, path)) continue;
            refuse_argument("--out", "a file of its own", in_quotes(own) + ", which is also " + option,
                            "Choose another name for --out.");
        }
    }
}

}  // namespace

std::optional<Values> parse(const Table& table, const std::vector<std::string>& arguments, std::string& text,
                            const std::string& version) {
    std::span<const std::string> rest(arguments);
    bool plan_only = false;
    const auto command = command_of(rest, plan_only);
    const auto line = read_command_line(table, command, plan_only, {rest.begin(), rest.end()}, version);
    if (line.text) {
        text = *line.text;
        return std::nullopt;
    }
    auto from_file = line.config.empty() ? GivenByName{} : read_settings_file(table, line.config, command);
    std::erase_if(from_file, [&](const auto& one) { return overruled(table, command, one.first, line.given); });
    const auto all = applied(table, command, from_file, line.given);
    refuse_contradictions(table, all, line.given, {});
    refuse_contradictions(table, all, from_file, line.given);
    // What the command line left without effect is as if it were not in the file.
    std::erase_if(from_file, [&](const auto& one) { return !idle(table, all, one.first).cause.empty(); });
    auto values = applied(table, command, from_file, line.given);
    check_required(table, values);
    const auto meant = table.resolve(values);
    for (const auto& check : table.checks) check(meant);
    check_out(table, values, line.config);
    if (command != Command::select) values = meant;
    table.complete(values);
    values.plan_only = plan_only;
    return values;
}

}  // namespace idistill::options
