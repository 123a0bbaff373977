// From the command line and the settings file to values.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

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
void refuse_old_spelling(const Table& table, const std::string& name, const Given& given) {
    const std::string dashes = given.field.starts_with("--") ? "--" : "";
    for (const auto& option : table.options) {
        for (const auto& old : option.old_spellings) {
            const bool said = old.words.empty() || std::any_of(old.words.begin(), old.words.end(), [&](const auto& w) {
                                  return std::find(given.values.begin(), given.values.end(), w) != given.values.end();
                              });
            if (old.name == name && said)
                refuse(given, dashes + option.name, "an older spelling",
                       "Write " + dashes + option.name + " instead of " + given.field + ".");
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
        else
            given.values.assign(extra + 1, extras.end());
        const auto first = given.field.find_first_not_of('-');
        const std::string bare = given.field.substr(first == std::string::npos ? 1 : first);
        if (given.field.starts_with("--")) refuse_old_spelling(table, bare, given);
        refuse(given, "an option of this command", "an unknown option", remedy_for_unknown(table, bare, command, "--"));
    }
    const std::vector<std::string> commands{"plan", "select", "embed"};
    const std::string near = nearest(extras.front(), commands);
    refuse_argument(extras.front(), "an option", "a value that belongs to none",
                    near.empty() ? "Every value follows its option."
                                 : "The command " + in_quotes(near) + " comes first: idistill_mpi " + near + " ...");
}

struct CommandLine {
    GivenByName given;
    std::string config;               ///< settings file, empty if none
    std::optional<std::string> text;  ///< of --help and --version
};

/// The form after "--help=".
std::string help_in_form(const Table& table, const std::string& form) {
    if (form != "markdown")
        refuse_argument("--help", "nothing or markdown behind =", in_quotes(form), "Give --help or --help=markdown.");
    return to_markdown(table);
}

CommandLine read_command_line(const Table& table, Command command, bool plan_only, std::vector<std::string> arguments,
                              const std::string& version) {
    CommandLine line;
    const std::string help_form = "--help=";
    for (const auto& argument : arguments) {
        if (!argument.starts_with(help_form)) continue;
        line.text = help_in_form(table, argument.substr(help_form.size()));
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
        refuse_old_spelling(table, name, given);
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
        refuse_old_spelling(table, item.key, given);
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
    auto command = Command::run;
    auto rest = arguments.begin();
    const auto next_is = [&](const char* word) {
        if (rest == arguments.end() || *rest != word) return false;
        ++rest;
        return true;
    };
    const bool plan_only = next_is("plan");
    if (next_is("embed"))
        command = Command::embed;
    else if (!plan_only && next_is("select"))
        command = Command::select;
    const auto line = read_command_line(table, command, plan_only, {rest, arguments.end()}, version);
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
